"""The check of a TFDS folder's `features.json`, which names Python classes, before TFDS imports their modules."""

import re
from pathlib import Path
from typing import Any

from jaxnas.results.json_files import read_json

FILE = "features.json"
LARGEST = 2**24  # bytes; ImageNet's has 1,200
# TFDS's own features, without those that read their data with code of other packages.
CLASSES = (
    "Audio",
    "BBoxFeature",
    "ClassLabel",
    "Dataset",
    "Features",
    "FeaturesDict",
    "Image",
    "LabeledImage",
    "Optional",
    "Scalar",
    "Sequence",
    "Tensor",
    "Text",
    "Translation",
    "TranslationVariableLanguages",
    "Video",
)
_OWN = re.compile(r"tensorflow_datasets\.core\.features\.\w+\.(\w+)")
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # the last one is of TFDS before 4.5


def check(folder: Path) -> None:
    """Checks that a prepared data set names no Python class but TFDS's own; a file that is not there names none.

    Raises:
      ValueError: in one line, naming the file and the class, or if the file cannot be read.
    """
    path = folder / FILE
    try:
        document = read_json(path, LARGEST)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    try:
        _check(document)
    except ValueError as error:
        raise ValueError(f"{path} {error}; prepare the data set yourself from a source that you trust") from error


def _check(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _check(item)
    if not isinstance(value, dict):
        return
    for key in _CLASS_KEYS:
        name = value.get(key)
        if isinstance(name, str):
            own = _OWN.fullmatch(name)
            if own is None or own[1] not in CLASSES:
                raise ValueError(f"names the Python class {name!r:.100}, whose module would be imported")
    if isinstance(value.get("type"), str) and isinstance(value.get("content"), str):
        raise ValueError("holds features as JSON in a string, as early versions of TFDS wrote them")
    for item in value.values():
        _check(item)
