"""Images of a folder that a search, or a training of its networks, could not read: noted, and then passed over.

They may then be removed; the order of the others stays as it was, see `jaxnas.data.FolderSource`.
"""

from pathlib import Path

from jaxnas.data.folders import FolderSource, FolderSplits
from jaxnas.data.sources import Splits
from jaxnas.results.files import write_json
from jaxnas.results.json_files import read_json

FILE = "bad_images.json"

Known = dict[str, list[tuple[str, int]]]  # for each split, files and their sizes


def read(workdir: Path | None) -> Known:
    """What the search in a folder could not read, by split; empty where nothing was written.

    Raises:
      ValueError: if the file is damaged.
    """
    if workdir is None or not (workdir / FILE).exists():
        return {}
    try:
        document = read_json(workdir / FILE)
        return {part: [(str(name), int(size)) for name, size in files] for part, files in document.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{workdir / FILE} cannot be read ({error}); choose another workdir") from error


def write(workdir: Path, known: Known, splits: Splits) -> None:
    """Adds what the streams of this process met, so that the search can go on after these images are removed."""
    found = {part: dict(files) for part, files in known.items()}
    for part in ("train", "valid", "test") if isinstance(splits, FolderSplits) else ():
        source: FolderSource | None = getattr(splits, part)
        if source is not None:
            found.setdefault(part, {}).update(map(source.size, sorted(source.met_bad)))
    document = {part: [list(item) for item in sorted(files.items())] for part, files in found.items() if files}
    if document != {part: [list(item) for item in files] for part, files in known.items()}:
        write_json(workdir / FILE, document)
