"""Presets of `cifar_search`: complete settings of a search, by name.

quickstart  scikit-learn's digits on `mbconv_digits`: about a minute on two CPU cores, nothing to download.
cpu         real CIFAR-10 on `nasbench_macro`, the supernet at half width on 16x16 images: under 20 minutes on
            two CPU cores.
full        real CIFAR-10 on `mbconv_cifar10` with ASNG-NAS's protocol (arXiv 1905.08537), for an accelerator.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxnas.search.settings import SearchSettings

# Settings that came later, with their defaults: a description leaves them out where they have these values, so that
# one from before them means the same search.
LATER = {"chunk_size": None, "precision": "float32", "accumulate": 1}


@dataclass(frozen=True)
class Preset:
    """What a preset fixes.

    Attributes:
      dataset: name of the data set.
      space: name of the search space.
      penalties: eps_k.
      samples: lambda, architectures from each distribution in a step.
      candidates: draws from each distribution that compete with the modes at the end (`jaxnas/selection`).
      valid_fraction: share of the training images that the distributions learn on.
      width: channels of the supernet relative to the space's.
      image_size: height and width that images are reduced to.
      settings: of the search.
    """

    dataset: str
    space: str
    penalties: tuple[float, ...]
    samples: int
    candidates: int
    valid_fraction: float
    width: float
    image_size: int
    settings: SearchSettings

    def describe(self) -> dict[str, Any]:
        """All values, flat and JSON-ready; `from_description` reads them."""
        values = dataclasses.asdict(self)
        values |= values.pop("settings")
        values = {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "Preset":
        """The preset that `describe` described; ValueError if a value is missing."""
        names = [field.name for field in dataclasses.fields(cls) if field.name != "settings"]
        setting_names = [field.name for field in dataclasses.fields(SearchSettings)]
        description = {**LATER, **description}
        missing = [name for name in (*names, *setting_names) if name not in description]
        if missing:
            raise ValueError(f"the description of the search lacks {', '.join(missing)}")
        values = {name: description[name] for name in names}
        values["penalties"] = tuple(values["penalties"])
        return cls(**values, settings=SearchSettings(**{name: description[name] for name in setting_names}))


PRESETS: dict[str, Preset] = {
    "quickstart": Preset(
        dataset="digits",
        space="mbconv_digits",
        penalties=(0.02, 0.1, 0.4, 1.6),
        samples=4,
        candidates=64,
        valid_fraction=0.5,
        width=1.0,
        image_size=8,
        settings=SearchSettings(
            weight_steps=1500,
            distribution_steps=300,
            batch_size=64,
            valid_batch_size=120,
            weight_samples=1,
            learning_rate=0.1,
            crop_padding=1,
            steps_per_dispatch=25,
        ),
    ),
    "cpu": Preset(
        dataset="cifar10",
        space="nasbench_macro",
        penalties=(0.01, 0.06, 0.18, 0.5),
        samples=8,
        candidates=16,
        valid_fraction=0.1,
        width=0.5,
        image_size=16,
        settings=SearchSettings(
            weight_steps=5000,
            distribution_steps=700,
            batch_size=128,
            valid_batch_size=128,
            weight_samples=1,
            learning_rate=0.1,
            weight_decay=1e-4,
            crop_padding=2,
            steps_per_dispatch=25,
        ),
    ),
    "full": Preset(
        dataset="cifar10",
        space="mbconv_cifar10",
        penalties=(0.02, 0.05, 0.12, 0.3),
        samples=2,
        candidates=16,
        valid_fraction=0.5,
        width=1.0,
        image_size=32,
        settings=SearchSettings(
            joint_steps=39_000,  # 100 epochs of 25,000 images
            batch_size=64,
            valid_batch_size=64,
            crop_padding=4,
            cutout=16,
            steps_per_dispatch=50,
        ),
    ),
}
