"""The networks that a search of one call trained: each with its slices of the shared weights, and as it measures."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxnas.elastic import ElasticSpace
from jaxnas.family.batches import minibatches
from jaxnas.family.built_in import BuiltInSpace
from jaxnas.family.family import Member
from jaxnas.results.result import SearchResult
from jaxnas.search.search import Search

CALIBRATION = 8  # minibatches that batch norm is calibrated on


def trained_members(
    run: Search, space: ElasticSpace | BuiltInSpace, params: Any, result: SearchResult
) -> tuple[Member, ...]:
    """The networks with their slices of trained weights, as they measure on the whole validation split."""
    archs = np.asarray(run.strategy.archs)
    evaluation = jax.tree.map(np.asarray, run.evaluate(params, archs))
    taken = minibatches(run.train, run.settings.batch_size)
    batches = [run.prepare.of(batch) for _, batch in zip(range(CALIBRATION), taken)]
    members = []
    for k, (arch, found) in enumerate(zip(archs, result.architectures, strict=True)):
        own = space.extract(params, arch)
        state = space.calibrate(own, arch, batches)
        members.append(
            Member(
                k=k,
                arch=tuple(arch.tolist()),
                hyperparameters=space.hyperparameters(arch),
                costs={cost.name: cost.total(arch).item() for cost in space.costs},
                budgets=found.budgets,
                loss=float(evaluation.loss[k]),
                metrics={name: float(values[k]) for name, values in evaluation.metrics.items()},
                params=own,
                state=state,
                model=space.model(arch, own, state),
                program=jax.jit(space.deployed(arch, own, state)),
            )
        )
    return tuple(members)


def measured(result: SearchResult, members: Sequence[Member]) -> SearchResult:
    """A result with the losses of its networks as they are trained."""
    architectures = tuple(
        dataclasses.replace(
            found,
            valid_loss=member.loss if np.isfinite(member.loss) else None,
            valid_accuracy=member.metrics.get("accuracy"),
        )
        for found, member in zip(result.architectures, members, strict=True)
    )
    return dataclasses.replace(result, architectures=architectures)
