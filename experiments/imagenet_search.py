"""K networks of different complexity in one search on ImageNet, or on your own images, on all devices of many hosts.

    python -m experiments.make_images --out data
    python -m experiments.imagenet_search --preset smoke --data-dir data --workdir runs/smoke
    python -m experiments.imagenet_search --preset full --data-dir DIR --precision bfloat16 --workdir runs/full
    python -m experiments.imagenet_search --folder DIR --classes 20 --workdir runs/own

A second call with the same folder resumes, on any number of devices that divides the minibatch. SIGTERM and SIGINT end
the run after the step, with a checkpoint and exit code 75. See `jaxnas/search/presets.py` for what the presets cost and
do, `jaxnas/search/config.py` for the settings, and docs/how-to/imagenet.md for
clusters.
"""

from experiments import cli
from jaxnas.report.shown_search import run_and_show
from jaxnas.runtime import compilation_cache, devices, jobs
from jaxnas.search import presets
from jaxnas.search.config import StreamedConfig

Config = presets.STREAMED


def main(config: StreamedConfig) -> None:
    """Runs or resumes the search; process 0 writes its results."""
    jobs.start(config.job.coordinator, config.job.num_processes, config.job.process_id)
    compilation_cache.enable()
    run_and_show(config, cli.console(quiet=not devices.is_host_zero()), cli.end_at_once)


if __name__ == "__main__":
    cli.run(main, Config, job=True)
