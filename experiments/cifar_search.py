"""K networks of different complexity in one search on CIFAR-10, or on scikit-learn's digits.

    python -m experiments.cifar_search --preset quickstart --workdir runs/quickstart
    python -m experiments.cifar_search --preset cpu --data-dir DIR --workdir runs/cpu

A second call with the same folder resumes, or shows the result of a search that is done. See `jaxnas/search/presets.py`
for what the presets cost and do, and `jaxnas/search/config.py` for the settings.
"""

from rich.console import Console

from experiments import cli
from jaxnas.report import plot_pareto, result_table, tensorboard
from jaxnas.runtime import compilation_cache
from jaxnas.search import presets
from jaxnas.search.config import SearchConfig
from jaxnas.search.execute import execute

Config = presets.MEMORY


def main(config: SearchConfig) -> None:
    """Runs or resumes the search and writes its results."""
    console = Console()
    compilation_cache.enable()
    if config.run.tensorboard:
        tensorboard.check_installed()
    found, workdir = execute(config, console)
    plot_pareto(found, workdir / "pareto.png")
    console.print(result_table(found))
    console.print(f"results in {workdir}")


def command() -> None:
    """`jaxnas-search`: the same as `python -m experiments.cifar_search`, wherever the package is installed."""
    cli.run(main, Config)


if __name__ == "__main__":
    command()
