"""What a folder of images holds, and what of it is not used, in a few lines of text."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jaxnas.data.decoding import printable
from jaxnas.data.folder_scan import LISTED, listed, shown

_EXAMPLES = 3  # names for each reason in a summary


@dataclass(frozen=True)
class FolderReport:
    """What a folder holds, and what of it is not used.

    Attributes:
      root: the folder.
      images: number of images of each class, in the order of the labels.
      left_out: for each reason the files and folders that are not used, relative to the root.
      below: the folders that lie in every class, where these hold the same ones and no images beside them.
    """

    root: Path
    images: dict[str, int]
    left_out: dict[str, tuple[str, ...]]
    below: tuple[str, ...] = ()

    def summary(self) -> str:
        """A few lines: classes, images of each, what is left out and why."""
        classes = [f"{name} {count:,}" for name, count in self.images.items()]
        if len(classes) > LISTED:
            fewest, most = min(self.images.values()), max(self.images.values())
            rest = f"and {len(classes) - LISTED:,} more classes, of {fewest:,} to {most:,} images"
            classes = [*classes[:LISTED], rest]
        total = sum(self.images.values())
        lines = [f"{shown(self.root)}: {total:,} images of {len(self.images):,} classes ({', '.join(classes)})"]
        if self.below:
            lines.append(
                f"  note: all classes hold the same folders ({listed(self.below)}); if these are the "
                "classes, name the folders above them train, val and test"
            )
        return "\n".join(lines + [f"  left out: {reason}" for reason in reasons(self.left_out)])


def reasons(left_out: dict[str, Iterable[str]]) -> list[str]:
    """For each reason the count, the reason, and a few names; of many reasons those of most files, and a count."""
    left_out = {reason: list(names) for reason, names in left_out.items()}
    most = sorted(sorted(left_out), key=lambda reason: -len(left_out[reason]))
    texts = []
    for reason in sorted(most if len(most) <= LISTED else most[: LISTED - 1]):
        names = left_out[reason]
        printed = [printable(name) for name in sorted(names)]
        more = ", ..." if len(printed) > _EXAMPLES else ""
        texts.append(f"{len(printed):,} {reason} ({', '.join(printed[:_EXAMPLES])}{more})")
    if len(most) > LISTED:
        rest = most[LISTED - 1 :]
        texts.append(f"{sum(len(left_out[reason]) for reason in rest):,} for {len(rest):,} more reasons, each of fewer")
    return texts
