"""Images of a folder that a search could not read: noted in its folder, and passed over when it goes on.

They may then be removed; the order of the others stays as it was, see `jaxnas.data.FolderSource`.
"""

from pathlib import Path

from jaxnas.data import FolderSource
from jaxnas.data.sources import Splits
from jaxnas.results.files import write_json
from jaxnas.results.json_files import read_json
from jaxnas.search.search import Search

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


def write(workdir: Path, known: Known, splits: Splits, search: Search) -> None:
    """Adds what this process met, so that the search can go on after these images are removed."""
    found = {part: dict(files) for part, files in known.items()}
    for source, part in ((search.train, "train"), (search.valid, "train" if splits.valid is None else "valid")):
        stream = source.stream
        if isinstance(stream.source, FolderSource):
            found.setdefault(part, {}).update(map(stream.source.size, sorted(stream.dead)))
    document = {part: sorted(files.items()) for part, files in found.items() if files}
    if document:
        write_json(workdir / FILE, document)
