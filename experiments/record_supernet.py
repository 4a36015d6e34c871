"""Records a trained supernet completely: the loss of every network on several validation minibatches.

    python -m experiments.cifar_search --preset cpu --seed 0 --data-dir DIR --workdir runs/cpu0
    python -m experiments.record_supernet --run runs/cpu0 --data-dir DIR --minibatches 16 --out recorded.npz
    python -m experiments.tabular_search --table nasbench_macro.npz --losses recorded.npz --cost flops --out runs/replay

About 10 s for each minibatch of 128 images on two CPU cores. Anyone can then compare strategies on this supernet with
many seeds in seconds.
"""

from dataclasses import dataclass
from pathlib import Path

from experiments import cli
from jaxnas.runtime import compilation_cache
from jaxnas.tasks import recorded
from jaxnas.tasks.finished_search import load_supernet


@dataclass(frozen=True)
class Config:
    """Record the losses of all networks of a supernet.

    Attributes:
      run: folder of a finished search.
      out: npz file to write.
      data_dir: folder of the prepared TFDS data; by default TFDS's own.
      minibatches: M, the number of disjoint minibatches of the validation split; regret is measured on half of them.
      seed: random seed of the choice of images.
    """

    run: Path
    out: Path
    data_dir: Path | None = None
    minibatches: int = 16
    seed: int = 0


def main(config: Config) -> None:
    """Records and writes."""
    compilation_cache.enable()
    recording = recorded.record(load_supernet(config.run, config.data_dir), config.minibatches, config.seed)
    recording.write(config.out)
    networks = recording.losses.shape[1]
    print(f"{networks:,} networks on {config.minibatches} minibatches of {recording.images} images in {config.out}")


if __name__ == "__main__":
    cli.run(main, Config)
