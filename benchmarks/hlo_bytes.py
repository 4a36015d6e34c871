"""The arrays that a kernel of a compiled program reads and writes: slices and updates in place as what they are."""

import dataclasses
from collections.abc import Iterable

from benchmarks.hlo_text import Array, Computation, Instruction, Program

_SLICES = frozenset(("dynamic-slice", "slice", "gather"))
COLLECTIVES = frozenset(
    ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", "collective-broadcast")
)


def operand_arrays(computation: Computation, each: Instruction) -> list[Array]:
    """All arrays that an instruction takes."""
    return [array for name in each.operands for array in computation[name].arrays]


def touched(computation: Computation, each: Instruction) -> list[Array]:
    """The arrays that a kernel reads and writes, each as often as it does."""
    if each.opcode.removesuffix("-start") in _SLICES:
        sliced = each.arrays
        if each.opcode.endswith("-start"):  # its result names the source, what is sliced, and a context
            begin, end = each.elements[1]
            sliced = each.arrays[begin:end]
        return [*_in_space(sliced, computation[each.operands[0]].arrays[0].space), *sliced]
    if each.opcode == "dynamic-update-slice":
        update = computation[each.operands[1]].arrays
        return [*update, *_in_space(update, each.arrays[0].space)]
    if each.opcode == "copy-start":  # its result names destination, source and a context
        return [*each.arrays[:2]]
    if each.opcode.removesuffix("-start") in COLLECTIVES:
        operands = operand_arrays(computation, each)
        return [*operands, *(each.arrays if each.opcode in COLLECTIVES else operands)]
    return [*operand_arrays(computation, each), *each.arrays]


def touched_by_fusion(program: Program, computation: Computation, each: Instruction) -> list[Array]:
    """As `touched`, of a fusion: of an operand that is only sliced, the slices."""
    name = each.computation("calls")
    reads, in_place = _fusion_reads(program, name)
    touched = []
    for index, operand in enumerate(each.operands):
        read = reads.get(index)
        touched.extend(computation[operand].arrays if read is None else read)
    for index, array in enumerate(each.arrays):
        touched.extend(in_place.get(index, [array]))
    return touched


def _fusion_reads(program: Program, name: str) -> tuple[dict[int, list[Array]], dict[int, list[Array]]]:
    """What a fused computation reads of parameters that it does not read whole, and writes of results in place.

    Returns:
      By number of a parameter the arrays read in its place; by number of a result the arrays written in its place.
    """
    computation = program.computations[name]
    users: dict[str, list[Instruction]] = {}
    for each in computation.values():
        for operand in each.operands:
            users.setdefault(operand, []).append(each)
    root = program.root(name)
    results = [computation[operand] for operand in root.operands] if root.opcode == "tuple" else [root]
    in_place, updates = {}, set()
    for index, result in enumerate(results):
        update = _behind_bitcasts(computation, result)
        if update.opcode == "dynamic-update-slice":
            target = _behind_bitcasts(computation, computation[update.operands[0]])
            if target.opcode == "parameter":
                written = computation[update.operands[1]].arrays
                in_place[index] = _in_space(written, result.arrays[0].space)
                updates.add(update.name)
    reads = {}
    for each in computation.values():
        if each.opcode == "parameter":
            read = _partial_reads(program, computation, users, each, updates)
            if read is not None:
                reads[int(each.arguments)] = read
    return reads, in_place


def _behind_bitcasts(computation: Computation, each: Instruction) -> Instruction:
    while each.opcode == "bitcast":
        each = computation[each.operands[0]]
    return each


def _partial_reads(
    program: Program,
    computation: Computation,
    users: dict[str, list[Instruction]],
    value: Instruction,
    updates: set[str],
) -> list[Array] | None:
    """The slices that are all that is read of a value; None if something reads it whole."""
    read = []
    for user in users.get(value.name, ()):
        first = user.operands[0] == value.name and value.name not in user.operands[1:]
        if user.opcode in _SLICES and first:
            read.extend(user.arrays)
        elif user.name in updates and first:
            continue  # written in place
        elif user.opcode == "bitcast":
            deeper = _partial_reads(program, computation, users, user, updates)
            if deeper is None:
                return None
            read.extend(deeper)
        elif user.opcode == "fusion":
            inner, _ = _fusion_reads(program, user.computation("calls"))
            for index, operand in enumerate(user.operands):
                if operand == value.name:
                    if index not in inner:
                        return None
                    read.extend(inner[index])
        else:
            return None
    return _in_space(read, value.arrays[0].space)


def _in_space(arrays: Iterable[Array], space: int) -> list[Array]:
    """A slice lies where the array does that it is read from or written to."""
    return [dataclasses.replace(array, space=space) for array in arrays]
