"""Images in folders: one subfolder for each class, alone or below splits.

    root/CLASS/image.jpg                        one set of images; folders below a class belong to it
    root/train/CLASS/image.jpg, root/val/...    splits, see `open_folder`

Nothing is left out in silence: `FolderReport` counts the images of each class and names what is not used, and why.
"""

import functools
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from jaxnas.data import folder_scan
from jaxnas.data.decoding import BadImageError, printable, read_file
from jaxnas.data.folder_report import FolderReport, reasons
from jaxnas.data.folder_scan import listed, shown


@dataclass(frozen=True)
class FolderSource:
    """A folder with one subfolder of images for each class. See `jaxnas.data.sources.ImageSource`.

    A file is an image if its suffix, in any case of letters, is one of `decoding.FORMATS`, or else if it begins as one
    of them does. Hidden names are left out. Symbolic links are followed.

    Attributes:
      root: the folder.
      known_bad: files, relative to the root, that an earlier start could not read, with their sizes then. They keep
        their numbers, whether they were removed or not, and are not read: so a search goes on with the same order of
        images after bad ones were removed.
      split: what part of a data set it is: train, valid or test.

    Raises:
      ValueError: if there is no such folder, it holds splits and not classes, a class has no image, two folders have
        one class name, or links bring one folder into two classes.
    """

    root: Path
    known_bad: tuple[tuple[str, int], ...] = ()
    split: str = "train"

    def __post_init__(self):
        object.__setattr__(self, "root", _folder(self.root))
        splits = folder_scan.find_splits(self.root)
        if splits:
            raise ValueError(
                f"data_dir {shown(self.root)} holds the splits {listed(splits.values())}, not classes; give one of "
                "them, or open all with jaxnas.data.open_folder"
            )
        left_out, images = self._scan.left_out, self._scan.images
        if not images:
            raise ValueError(
                f"data_dir {shown(self.root)} has no images: it must hold one subfolder of images for each class"
                + "".join(f"; left out {reason}" for reason in reasons(left_out))
            )
        for folder, files in images.items():
            if not files:
                inside = {
                    reason: [name for name in names if name.split("/")[0] == folder]
                    for reason, names in left_out.items()
                }
                found = "".join(f", left out {reason}" for reason in reasons({k: v for k, v in inside.items() if v}))
                raise ValueError(
                    f"class {class_name(folder)!r} of data_dir {shown(self.root)} has no images{found}; "
                    "add or convert images, or remove the folder"
                )
        names = [class_name(folder) for folder in images]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"data_dir {shown(self.root)} has two folders of one name, {listed(twice)}; rename one")

    @property
    def name(self) -> str:
        """The folder's name."""
        return printable(self.root.name)

    @functools.cached_property
    def _scan(self) -> folder_scan.Scan:
        return folder_scan.scan(self.root)

    @functools.cached_property
    def _classes(self) -> tuple[tuple[str, list[str]], ...]:
        bad = [name for name, _ in self.known_bad]
        return tuple(
            sorted(
                (class_name(folder), sorted({*files, *(name for name in bad if name.split("/")[0] == folder)}))
                for folder, files in self._scan.images.items()
            )
        )

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the subfolders in alphabetical order, see `class_name`."""
        return tuple(name for name, _ in self._classes)

    @functools.cached_property
    def _files(self) -> tuple[str, ...]:
        return tuple(file for _, files in self._classes for file in files)

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        return np.repeat(np.arange(len(self._classes), dtype=np.int32), [len(files) for _, files in self._classes])

    @functools.cached_property
    def report(self) -> FolderReport:
        """What was found, and what was left out."""
        left_out = {reason: tuple(sorted(names)) for reason, names in self._scan.left_out.items()}
        below = [
            frozenset(file.split("/")[1] if file.count("/") > 1 else "" for file in files)
            for files in self._scan.images.values()
        ]
        same = len(below) > 1 and len(set(below)) == 1 and len(below[0]) > 1 and "" not in below[0]
        images = {name: len(files) for name, files in self._classes}
        return FolderReport(self.root, images, left_out, tuple(sorted(below[0])) if same else ())

    @functools.cached_property
    def known_bad_numbers(self) -> frozenset[int]:
        """Which images an earlier start could not read."""
        bad = {name for name, _ in self.known_bad}
        return frozenset(number for number, file in enumerate(self._files) if file in bad)

    @functools.cached_property
    def met_bad(self) -> set[int]:
        """Images that streams could not read; these add them."""
        return set()

    def size(self, index: int) -> tuple[str, int]:
        """A file and its size in bytes, -1 where it cannot be told: an item of `known_bad`."""
        file = self._files[index]
        try:
            return file, (self.root / file).stat().st_size
        except OSError:  # a bad image, which reading reports
            return file, -1

    def __len__(self) -> int:
        return len(self._files)

    def describe(self, index: int) -> str:
        """The file of an image, relative to the root."""
        return printable(self._files[index])

    def read(self, index: int) -> tuple[bytes, int]:
        """One file and its label.

        Raises:
          BadImageError: if the file is gone or cannot be read.
        """
        file = self._files[index]
        if index in self.known_bad_numbers:
            raise BadImageError("could not be read at an earlier start", file)
        return read_file(self.root / file, name=file), int(self._labels[index])

    def labels(self) -> np.ndarray:
        """Labels by the names of the subfolders, int32 [N]."""
        return self._labels

    def fingerprint(self) -> str:
        """Names and sizes of all files, as they were at the first call."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest, known = hashlib.sha256(), dict(self.known_bad)
        for number, file in enumerate(self._files):
            size = known[file] if file in known else self.size(number)[1]
            digest.update(os.fsencode(f"{file} {size}\n"))
        return digest.hexdigest()


@dataclass(frozen=True)
class FolderSplits:
    """The parts of a folder of images, which hold the same classes.

    Attributes:
      train: for the weights; where there is no `valid`, for the distributions too.
      valid: for the distributions, or None.
      test: for testing trained networks, never read by a search, or None.
      left_out: what lies beside the splits and is not used, by reason.
    """

    train: FolderSource
    valid: FolderSource | None = None
    test: FolderSource | None = None
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def summary(self) -> str:
        """The summary of each part, and what it is for."""
        lines = [f"{use}: {part.report.summary()}" for part, use in self._uses() if part is not None]
        return "\n".join(lines + [f"left out: {reason}" for reason in reasons(self.left_out)])

    def _uses(self) -> list[tuple[FolderSource | None, str]]:
        train = "weights and distributions learn on" if self.valid is None else "weights learn on"
        return [
            (self.train, train),
            (self.valid, "distributions learn on"),
            (self.test, "kept for testing trained networks"),
        ]


def open_folder(
    root: str | os.PathLike[str],
    valid_folder: str | os.PathLike[str] | None = None,
    known_bad: Mapping[str, Iterable[tuple[str, int]]] | None = None,
) -> FolderSplits:
    """Opens a folder of class subfolders, or of splits above them.

    `train` (or `training`), `val` (`valid`, `validation`) and `test` (`testing`), in any case of letters, are splits
    where images lie in class folders below them. So are folders with such a word in longer names (`train2017`,
    `test_set`, `Validation Data`), if there are no other folders and one of them is for training. Weights learn on
    `train`, distributions on `val`, and `test` is kept for testing trained networks. Without `val` the distributions
    learn on a share of `train`.

    Args:
      root: the folder.
      valid_folder: a folder with the same class subfolders, in place of `val`.
      known_bad: of each split, `train`, `valid` or `test`, what `FolderSource.known_bad` holds.

    Raises:
      ValueError: as `FolderSource`, and if splits stand beside classes, the classes of the splits differ, two splits
        are one folder, there is only one class, or `valid_folder` is given and `root` has a `val` of its own.
    """
    root = _folder(root)
    splits = folder_scan.find_splits(root)
    if valid_folder is not None and "valid" in splits:
        raise ValueError(f"valid_folder is given, but data_dir {shown(root)} has {splits['valid']} in it; use one")
    roots = {part: root / name for part, name in splits.items()} or {"train": root}
    if valid_folder is not None:
        roots["valid"] = Path(valid_folder)
    bad = {part: tuple((name, size) for name, size in files) for part, files in (known_bad or {}).items()}
    parts = {part: FolderSource(path, bad.get(part, ()), part) for part, path in roots.items()}
    train = parts["train"]
    if len(train.class_names) < 2:
        (name,) = train.class_names
        inside = folder_scan.class_folders(train.root / folder_scan.class_folders(train.root)[0])
        hint = f"; if {listed(inside)} in it are the classes, give that folder" if inside else ""
        raise ValueError(f"data_dir {shown(train.root)} has one class, {name!r}; at least two are needed{hint}")
    for (one, other), (first, second) in zip(combinations(parts, 2), combinations(parts.values(), 2)):
        if first.root.samefile(second.root):
            raise ValueError(
                f"{shown(first.root)} and {shown(second.root)} are one folder, for {one} and {other}; networks would "
                "be judged on images that they learn on"
                + ("; leave valid_folder out for a share of the images" if valid_folder is not None else "")
            )
    for part in parts.values():
        missing = sorted(set(train.class_names) - set(part.class_names))
        added = sorted(set(part.class_names) - set(train.class_names))
        if missing or added:
            problems = [f"lacks {listed(missing)}"] * bool(missing) + [f"has {listed(added)} besides"] * bool(added)
            raise ValueError(
                f"{shown(part.root)} must have the classes of {shown(train.root)}, but {' and '.join(problems)}"
            )
    return FolderSplits(**parts, left_out=folder_scan.beside(root, splits.values()).left_out if splits else {})


def class_name(folder: str) -> str:
    """The class in a folder of this name: `printable`, in composed Unicode, so that copies by way of a Mac agree."""
    return unicodedata.normalize("NFC", printable(folder))


def _folder(root: str | os.PathLike[str]) -> Path:
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"data_dir {shown(root)} is no folder; it must hold one subfolder of images for each class")
    return root
