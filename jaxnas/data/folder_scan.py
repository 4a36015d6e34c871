"""Which files of a folder are images, why the others are not, and which of its folders are splits.

Hidden names and the helper files of systems are no images and no classes. Symbolic links are followed; one that leads
back to a folder above it, or to one that was read already, ends there.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jaxnas.data.decoding import is_image, printable, suffixes

# Names of the splits above the classes, in lower case.
SPLITS = {
    "train": ("train", "training"),
    "valid": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
LISTED = 12  # names in a message
# Files and folders, in lower case, that systems and programs put beside images; those whose names begin with a full
# stop (.DS_Store, ._image.jpg, .ipynb_checkpoints) are hidden anyway.
_HELPERS = frozenset(
    ("__macosx", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r")
    + ("$recycle.bin", "system volume information", "recycler", "found.000", "lost+found")
    + (
        "@eadir",
        "@synoeastream",
        "@synoresource",
        "#recycle",
        "@recycle",
        "#snapshot",
        "@recently-snapshot",
        "~snapshot",
    )
    + ("network trash folder", "temporary items", "__pycache__")
)
# Reasons; each reads well after a count.
HIDDEN, HELPER = "hidden", "helper files or folders of other programs"
UNREADABLE, BROKEN, NO_FILE = "not readable", "broken links", "pipes, devices or sockets"
LOOP = "links to a folder above or to one read already"
NO_CLASSES, NO_IMAGES = "splits without class folders", "folders without images"
OUTSIDE = "outside of the class folders"
UNKNOWN = "of no known image format"


@dataclass(frozen=True)
class Scan:
    """What a folder of class subfolders holds; paths are relative to it, with bytes that are no UTF-8 as surrogates.

    Attributes:
      images: for each class folder its images, sorted.
      left_out: for each reason files and folders.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        """Notes a file or folder that is not used."""
        self.left_out.setdefault(reason, []).append(name)


def scan(root: Path) -> Scan:
    """Walks through a folder of class subfolders.

    Raises:
      ValueError: if links bring one folder into two classes.
    """
    found, above = Scan(), set(map(_identity, _above(root)))
    first: dict[tuple[int, int], str] = {}  # where a folder was met first
    for entry in _visible(root, "", found):
        if not _is_folder(entry):
            found.leave_out(_problem(entry) or OUTSIDE, entry.name)
            continue
        files: list[str] = []
        met = dict.fromkeys(above, "")
        if not _walk(root, entry.name, files, met, found):
            continue
        found.images[entry.name] = sorted(files)
        for identity, folder in met.items():
            other = first.setdefault(identity, folder)
            if other != folder:
                raise ValueError(
                    f"data_dir {shown(root)} has one folder in two classes, as {listed((other, folder))}; remove a link"
                )
    return found


def _above(folder: Path) -> tuple[Path, ...]:
    """A folder and those that it lies in, without links."""
    folder = folder.resolve()
    return folder, *folder.parents


def find_images(root: Path) -> tuple[list[str], Scan]:
    """All images in a folder and below it, sorted, relative to it; the scan holds what was left out."""
    files: list[str] = []
    found = Scan()
    _walk(root, "", files, dict.fromkeys(map(_identity, root.resolve().parents), ""), found)
    return sorted(files), found


def beside(root: Path, splits: Iterable[str]) -> Scan:
    """What lies beside the splits in a folder, and is not used."""
    found, splits = Scan(), frozenset(splits)
    for entry in _visible(root, "", found):
        if not _is_folder(entry):
            found.leave_out(_problem(entry) or OUTSIDE, entry.name)
        elif entry.name not in splits:
            inside = Scan()
            next(_visible(Path(entry.path), "", inside), None)
            without = NO_CLASSES if holds_images(Path(entry.path)) else NO_IMAGES
            found.leave_out(UNREADABLE if UNREADABLE in inside.left_out else without, entry.name)
    return found


def class_folders(root: Path) -> list[str]:
    """Names of the folders in a folder that are not hidden, sorted."""
    return [entry.name for entry in _visible(root, "", Scan()) if _is_folder(entry)]


def holds_images(folder: Path, directly: bool = False) -> bool:
    """Whether there is an image in a folder, or below it; `directly` excludes those below."""
    pending, seen = [folder], set()
    while pending:
        current = pending.pop()
        if (identity := _identity(current)) in seen:
            continue
        seen.add(identity)
        for entry in _visible(current, "", Scan()):
            if _is_folder(entry):
                pending += [] if directly else [Path(entry.path)]
            elif _problem(entry) is None:
                return True
    return False


def find_splits(root: Path) -> dict[str, str]:
    """The folders of the splits, by part (train, valid, test); empty where the folders are classes.

    Raises:
      ValueError: if splits stand beside other folders with images, there are two folders for one part, or none for
        training.
    """
    names = class_folders(root)
    part_of = {name: part for name in names for part, words in SPLITS.items() if name.lower() in words}
    longer = not part_of  # then every folder must be a split, since classes may have such words in their names
    if longer:
        part_of = {name: part for name in names if (part := _named_part(name)) is not None}
        if "train" not in part_of.values() or len(set(part_of.values())) < 2:
            part_of = {}
    if not part_of:
        return {}  # without a look into folders, which may be thousands
    names = [name for name in names if holds_images(root / name)]
    part_of = {name: part for name, part in part_of.items() if name in names}
    others = [name for name in names if name not in part_of]
    splits = {name: part for name, part in part_of.items() if not holds_images(root / name, directly=True)}
    if not part_of or (others and not splits):  # classes; one of them may be called train
        return {}
    if longer and (len(splits) < len(names) or "train" not in splits.values()):
        return {}
    if others:
        raise ValueError(
            f"data_dir {shown(root)} has the splits {listed(splits)} and beside them images in {listed(others)}; "
            "move these into the splits, or rename the folders"
        )
    if "train" not in splits.values():
        raise ValueError(
            f"data_dir {shown(root)} has {listed(names)} but no train with class folders in it; add it, or name "
            "classes otherwise"
        )
    for part in SPLITS:
        several = [name for name, its in splits.items() if its == part]
        if len(several) > 1:
            raise ValueError(f"data_dir {shown(root)} has {listed(several)} for one split; keep one of them")
    return {part: name for name, part in splits.items()}


def _named_part(name: str) -> str | None:
    """The part that one word of a folder's name says, as of train2017, test_set or Validation Data; else None."""
    words = [word.removesuffix("set").removesuffix("data") for word in re.findall("[a-z]+", name.lower())]
    found = {part for part, its in SPLITS.items() if not set(its).isdisjoint(words)}
    return found.pop() if len(found) == 1 else None


def shown(path: Path) -> str:
    """A path for messages."""
    return printable(str(path))


def listed(names: Iterable[str]) -> str:
    """Names for messages, the first few."""
    names = [printable(name) for name in sorted(names)]
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED:,} more" if len(names) > LISTED else "")


def _walk(root: Path, folder: str, files: list[str], seen: dict[tuple[int, int], str], found: Scan) -> bool:
    """Adds the images of a folder and of those below to `files`, and these to `seen`; False if it was there before."""
    identity = _identity(root / folder)
    if identity in seen:
        found.leave_out(LOOP, folder)
        return False
    seen[identity] = folder
    for entry in _visible(root, folder, found):
        name = f"{folder}/{entry.name}" if folder else entry.name
        if _is_folder(entry):
            _walk(root, name, files, seen, found)
        elif (problem := _problem(entry)) is None:
            files.append(name)
        else:
            found.leave_out(problem, name)
    return True


def _visible(root: Path, folder: str, found: Scan) -> Iterator[os.DirEntry]:
    """The entries of a folder that could be classes or images, sorted by name; the others are noted."""
    try:
        with os.scandir(root / folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        found.leave_out(UNREADABLE, folder or ".")
        return
    for entry in listed:
        if entry.name.lower() in _HELPERS:
            reason = HELPER
        elif entry.name.startswith("."):
            reason = HIDDEN
        else:
            yield entry
            continue
        found.leave_out(reason, f"{folder}/{entry.name}" if folder else entry.name)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _problem(entry: os.DirEntry) -> str | None:
    """Why a file is no image; None if it is one."""
    try:
        if not entry.is_file():
            return BROKEN if entry.is_symlink() and not os.path.exists(entry.path) else NO_FILE
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in suffixes():
            return None
        with open(entry.path, "rb") as file:
            if is_image(file.read(16)):
                return None
    except OSError:
        return BROKEN if entry.is_symlink() else UNREADABLE
    return f"{UNKNOWN}, {printable(suffix)}" if suffix else UNKNOWN


def _identity(folder: Path) -> tuple[int, int]:
    """Equal for two paths to one folder."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino
