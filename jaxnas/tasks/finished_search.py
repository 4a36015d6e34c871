"""The supernet of a finished search, read from the search's folder."""

from pathlib import Path

from jaxnas.results import settings_tree
from jaxnas.results.json_files import read_sealed
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.search import device_tables
from jaxnas.search.build import build
from jaxnas.search.config import SearchConfig, StreamedConfig
from jaxnas.tasks.supernet import FrozenSupernet


def read_run(run: Path) -> SearchConfig:
    """The configuration of the search in a folder, with the latency tables that lie there.

    Raises:
      ValueError: if the folder holds no search of images in memory.
    """
    try:
        document = read_sealed(run / "config.json")
        config = settings_tree.from_json(SearchConfig, document)
    except (OSError, ValueError) as error:
        raise ValueError(f"run {run} is not the folder of a search; give one of cifar_search ({error})") from error
    config = settings_tree.replace(config, latency=device_tables.in_folder(run, config.method.latency))
    device_tables.read(config.method.latency, document.get(settings_tree.INPUTS))
    return config


def read_streamed_run(run: Path) -> StreamedConfig:
    """The configuration of the search on streamed images in a folder.

    Raises:
      ValueError: if the folder holds no such search.
    """
    try:
        document = read_sealed(run / "config.json")
        return settings_tree.from_json(StreamedConfig, document)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"run {run} is not the folder of a search; give the result.json beside its config.json ({error})"
        ) from error


def load_supernet(run: Path, data_dir: Path | None) -> FrozenSupernet:
    """The trained supernet in the folder of a search.

    Raises:
      ValueError: if the folder holds no finished search.
    """
    config = settings_tree.replace(read_run(run), data_dir=data_dir)
    search = build(config)
    with Checkpoints(run / "checkpoints") as checkpoints:
        restored = checkpoints.restore_newest(search.init(config.run.seed))
    if restored is None or restored.step < config.training.total_steps:
        raise ValueError(f"run {run} is not finished; run its cifar_search command again to resume it")
    return FrozenSupernet(search, restored.state.params)
