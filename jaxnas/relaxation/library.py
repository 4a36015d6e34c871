"""Blocks that networks are assembled of: genomes over a search space that choose among what was found before."""

import functools
import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.spaces import CellSpace, Decision, MBConvSpace, SearchSpace


@dataclass(frozen=True)
class Library:
    """Genomes of G genes over a search space of D decisions: gene group[d] says by its value what decision d chooses.

    Attributes:
      group: the gene of each decision, D of them, numbered from 0.
      choices: D rows; entry v of row d is the choice of decision d where its gene has the value v.
    """

    group: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]

    @property
    def space(self) -> SearchSpace:
        """The space of genomes."""
        sizes = {gene: len(row) for gene, row in zip(self.group, self.choices)}
        names = [tuple(str(value) for value in range(sizes[gene])) for gene in sorted(sizes)]
        return SearchSpace("genomes", tuple(Decision(f"gene {g + 1}", values) for g, values in enumerate(names)))

    def decode(self, genomes: jax.Array) -> jax.Array:
        """The architectures of genomes, jit-compilable: int [S, G] -> int32 [S, D]."""
        most = max(len(row) for row in self.choices)
        table = np.asarray([(*row, *[row[0]] * (most - len(row))) for row in self.choices], np.int32)
        return jnp.asarray(table)[np.arange(len(table)), jnp.asarray(genomes)[:, np.asarray(self.group)]]


def every_choice(space: SearchSpace) -> Library:
    """One gene for each decision, with all its choices."""
    return Library(tuple(range(len(space.decisions))), tuple(tuple(range(count)) for count in space.num_choices))


@functools.singledispatch
def of_networks(space: SearchSpace, archs: np.ndarray) -> Library:
    """What networks are assembled of, from the networks int [N, D] that searches for blocks found.

    For MBConv spaces every layer chooses among the operations that were found in its stage (the layers of one width;
    those alone that the layer has). For cell spaces the genome is one gene, the cell. For other spaces, which have one
    level, it is every choice of every decision.
    """
    del archs
    return every_choice(space)


@of_networks.register
def _(space: CellSpace, archs: np.ndarray) -> Library:
    cells = np.unique(np.asarray(archs), axis=0)
    return Library((0,) * len(space.decisions), tuple(tuple(column) for column in cells.T.tolist()))


@of_networks.register
def _(space: MBConvSpace, archs: np.ndarray) -> Library:
    archs, rows = np.asarray(archs), []
    for _, group in itertools.groupby(enumerate(space.layers), key=lambda item: item[1].out_channels):
        stage = list(group)
        found = {layer.operations[choice].name for d, layer in stage for choice in archs[:, d]}
        for _, layer in stage:
            names = [operation.name for operation in layer.operations]
            rows.append(tuple(choice for choice, name in enumerate(names) if name in found))
    return Library(tuple(range(len(rows))), tuple(rows))
