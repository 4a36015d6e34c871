"""K networks of different complexity in one search on CIFAR-10, or on scikit-learn's digits.

    python -m experiments.cifar_search --preset quickstart --workdir runs/quickstart
    python -m experiments.cifar_search --preset cpu --data-dir DIR --workdir runs/cpu

A second call with the same folder resumes, or shows the result of a search that is done. See `jaxnas/search/presets.py`
for what the presets cost and do, and `jaxnas/search/config.py` for the settings.
"""

from experiments import cli
from jaxnas.report.shown_search import run_and_show
from jaxnas.runtime import compilation_cache
from jaxnas.search import presets
from jaxnas.search.config import SearchConfig

Config = presets.MEMORY


def main(config: SearchConfig) -> None:
    """Runs or resumes the search and writes its results."""
    compilation_cache.enable()
    run_and_show(config, cli.console(), cli.end_at_once)


def command() -> None:
    """`jaxnas-search`: the same as `python -m experiments.cifar_search`, wherever the package is installed."""
    cli.run(main, Config)


if __name__ == "__main__":
    command()
