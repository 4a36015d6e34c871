"""`jaxnas.load`: a trained network, or the family of networks that a search found, from its folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnas import export

if TYPE_CHECKING:
    from jaxnas.family.family import Family


def load(
    path: str | os.PathLike, make: Callable[..., Any] | None = None, index: int | None = None
) -> "export.Network | Family":
    """Reads a trained network, or a family. It never runs code from a file.

    Args:
      path: a folder that `Family.save` or `Family.export` wrote; or `experiments.export` or `experiments.retrain`;
        or the folder `finished` of a search.
      make: for a family, the function that makes its models, as given to `jaxnas.elastic`: each network then has its
        `params` and its `model`. Without it the networks are the programs that `Family.export` wrote, which are called
        with inputs.
      index: k of the network, if the folder is `finished` in that of a search.

    Returns:
      A `Family` from a folder of a family, else an `export.Network`.

    Raises:
      ValueError: in one line, if the folder holds neither, a damaged one, or a family of other models.
    """
    from jaxnas.family import storing  # reports, and with them matplotlib, are not loaded by `import jaxnas`

    path = Path(path)
    if make is not None or storing.is_stored(path):
        if index is not None:
            raise ValueError(f"index is for the networks of one file; of the family in {path} take one with [{index}]")
        return storing.load(path, make)
    return export.load(path, index)
