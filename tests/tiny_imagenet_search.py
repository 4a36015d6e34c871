"""`experiments.imagenet_search` with the tiny space of `tests.tiny_search`."""

from experiments import cli, imagenet_search
from tests import tiny_search  # noqa: F401 (registers the space)

if __name__ == "__main__":
    cli.run(imagenet_search.main, imagenet_search.Config, job=True)
