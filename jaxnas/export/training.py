"""Networks trained and saved: one folder each, and what was trained in them."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import chex

from jaxnas.export import saved
from jaxnas.results.files import replacing, to_plain
from jaxnas.results.json_files import read_sealed
from jaxnas.results.workdir import open_workdir
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.search.answer import costs_of
from jaxnas.search.loop import Listener, run
from jaxnas.search.retraining import Retraining

SUMMARY = "retrained.json"
STARTS = {"scratch": "seed", "warm_start": "warm"}  # how a network begins, and the folders of such trainings


def train(
    retraining: Retraining,
    description: saved.NetworkDescription,
    folder: pathlib.Path,
    seed: int,
    params: chex.ArrayTree | None = None,
    *,
    checkpoint_seconds: float,
    listeners: Sequence[Listener] = (),
    twins: Sequence[pathlib.Path] = (),
    fingerprint: str | None = None,
) -> saved.NetworkDescription | pathlib.Path | None:
    """Trains one network to its end, from its newest checkpoint, tests it and saves it.

    Args:
      retraining: the network, its data and settings.
      description: what the network is.
      folder: for metrics, checkpoints and the network.
      seed: of the training.
      params: first weights; None for random ones.
      checkpoint_seconds: seconds between checkpoints.
      listeners: what follows the training.
      twins: folders of equal networks, which may have been trained: one with the same settings is copied.
      fingerprint: of the images, which a training that goes on must have; None where they do not change.

    Returns:
      The description with the test accuracy and the settings; the twin where one was copied; None if the network was
      trained already.

    Raises:
      ValueError: if the folder holds another training, or another process owns it.
    """
    settings = {"seed": seed, "warm_start": params is not None, **dataclasses.asdict(retraining.settings)}
    wanted = {"space": description.space, "encoding": list(description.encoding), "width": description.width}
    wanted |= {"image_size": description.image_size, **settings}
    begun = _config(folder)
    if fingerprint is not None and (begun is None or "data" in begun):  # earlier versions did not write it
        wanted["data"] = fingerprint
    with open_workdir(folder, "retrain", wanted):
        if (folder / saved.DESCRIPTION).exists():
            return None
        for twin in twins:
            if (twin / saved.DESCRIPTION).exists() and _config(twin) == _config(folder):
                # The description comes last, so that with it all is there.
                for name in ("metrics.jsonl", saved.WEIGHTS, saved.DESCRIPTION):
                    with replacing(folder / name) as temporary:
                        temporary.write_bytes((twin / name).read_bytes())
                return twin
        with Checkpoints(folder / "checkpoints") as checkpoints:
            state, seconds = run(
                retraining,
                retraining.init(seed, params),
                folder,
                checkpoints,
                checkpoint_seconds=checkpoint_seconds,
                listeners=listeners,
            )
        score = retraining.test(state.average)
        trained_with = {**description.trained_with, **settings, "wall_seconds": seconds, "test_loss": score.loss}
        trained = dataclasses.replace(description, test_accuracy=score.accuracy, trained_with=trained_with)
        saved.save(folder, trained, state.average)
        return trained


def _config(folder: pathlib.Path) -> Any:
    """What `open_workdir` wrote there; None if it did not."""
    try:
        return read_sealed(folder / "config.json")
    except (OSError, ValueError):
        return None


def summarise(out: pathlib.Path) -> list[dict[str, Any]]:
    """What was trained in OUT/kK/seedS and OUT/kK/warmS: for each network its test accuracies, in the order of k."""
    summary = []
    for folder in sorted(out.glob("k*"), key=lambda path: (len(path.name), path.name)):
        starts = {}
        for start, prefix in STARTS.items():
            paths = sorted(path.parent for path in folder.glob(f"{prefix}*/{saved.DESCRIPTION}"))
            starts[start] = [saved.read_description(path) for path in paths]
        trained = [network for networks in starts.values() for network in networks]
        if trained:
            space = trained[0].build_space()
            costs = costs_of(space, trained[0].encoding)
            summary.append(
                {
                    "k": int(folder.name[1:]),
                    "encoding": trained[0].encoding,
                    "description": space.describe(trained[0].encoding),
                    **{name: costs[name] for name in ("params", "macs")},
                    "tested_on": trained[0].trained_with.get("tested_on"),
                    **{
                        f"test_accuracy_{start}": [network.test_accuracy for network in runs]
                        for start, runs in starts.items()
                        if runs
                    },
                }
            )
    return summary


def write_summary(out: pathlib.Path) -> list[dict[str, Any]]:
    """Writes `summarise(out)` to OUT/retrained.json, and returns it."""
    summary = summarise(out)
    with replacing(out / SUMMARY) as temporary:
        temporary.write_text(json.dumps(to_plain(summary), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return summary
