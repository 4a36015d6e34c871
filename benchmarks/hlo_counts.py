"""What a compiled program does when it runs: operations, bytes, kernels and collectives, with the trip counts of loops.

XLA's own `cost_analysis()` counts the body of a loop once, whatever its trip count. Here each instruction counts as
often as it runs:

- A loop's body counts as often as it runs: the trip count that the compiler found, or what follows from the counter's
  first value, step and bound. A loop without either counts once, and is reported.
- A conditional counts as the mean of its branches: in a supernet these are the choices of a layer, so that the figures
  are those of uniformly drawn architectures.
- A fusion reads its operands and writes its results once; what it only slices counts as the slices, and what it updates
  in place as the update, as XLA counts them.
- Bytes are those in memory, with the padding of tiles.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.hlo_bytes import COLLECTIVES, operand_arrays, touched, touched_by_fusion
from benchmarks.hlo_flops import flops
from benchmarks.hlo_text import Computation, Instruction, Program, parse

# Neither run nor moved: names for what is there already.
_FREE = frozenset(
    [
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "opt-barrier",
        "partition-id",
        "replica-id",
        "add-dependency",
        "copy-done",
        "all-reduce-done",
        "all-gather-done",
        "collective-permute-done",
        "async-done",
        "async-update",
        "send-done",
        "recv-done",
        "slice-done",
        "dynamic-slice-done",
        "dynamic-update-slice-done",
    ]
)
_ARITHMETIC = frozenset(
    [
        "add",
        "subtract",
        "multiply",
        "divide",
        "maximum",
        "minimum",
        "power",
        "remainder",
        "negate",
        "abs",
        "exponential",
        "exponential-minus-one",
        "log",
        "log-plus-one",
        "tanh",
        "logistic",
        "sqrt",
        "rsqrt",
        "cbrt",
        "sine",
        "cosine",
        "tan",
        "erf",
        "floor",
        "ceil",
        "round-nearest-even",
        "select",
        "compare",
        "clamp",
        "and",
        "or",
        "xor",
        "not",
        "sign",
    ]
)
_COPIES, _MOVES = frozenset(("copy", "copy-start")), frozenset(("transpose", "reshape"))
# Calls that name memory: nothing runs.
_NAMES = frozenset(("AllocateBuffer", "CreateBuffer", "ConcatBitcast"))


@dataclass(frozen=True)
class Counts:
    """Of one run of a program, on one device.

    Attributes:
      flops: of matrix products and convolutions, two a multiply-add; taps that fall on padding are not counted.
      elementwise: results of arithmetic operations elsewhere, and values that reductions read.
      bytes_accessed: read and written by all kernels, wherever the arrays lie.
      memory_bytes: of these, in the device's memory; the rest stays on the chip.
      moved_bytes: of `bytes_accessed`, of kernels that only bring arrays into another layout or another place of the
        same memory.
      kernels: that are started.
      library_calls: of these, calls of libraries such as cuDNN, by name.
      collectives: exchanges between devices, by name.
      all_reduce_bytes: that a device contributes to all-reduces.
      unknown_loops: loops whose trip count is not known; their bodies count once.
    """

    flops: float = 0.0
    elementwise: float = 0.0
    bytes_accessed: float = 0.0
    memory_bytes: float = 0.0
    moved_bytes: float = 0.0
    kernels: float = 0.0
    library_calls: Counter[str] = field(default_factory=Counter)
    collectives: Counter[str] = field(default_factory=Counter)
    all_reduce_bytes: float = 0.0
    unknown_loops: int = 0

    def plus(self, other: "Counts", times: float = 1.0) -> "Counts":
        """These, and the other ones some times."""
        total = {}
        for name in (each.name for each in dataclasses.fields(self)):
            mine, its = getattr(self, name), getattr(other, name)
            if name == "unknown_loops":
                total[name] = mine + its
            elif isinstance(mine, Counter):
                total[name] = mine + Counter({key: value * times for key, value in its.items()})
            else:
                total[name] = mine + its * times
        return Counts(**total)


def count(text: str, loops_once: bool = False) -> Counts:
    """Counts a compiled program.

    Args:
      text: `compiled.as_text()`.
      loops_once: whether each loop's body counts once, as in XLA's `cost_analysis()`.
    """
    program = parse(text)
    total = Counts()
    for _, times, one in executed(program, loops_once):
        total = total.plus(one, times)
    return total


def executed(program: Program, loops_once: bool = False) -> Iterator[tuple[Instruction, float, Counts]]:
    """Every instruction that runs: with how often it does, in the mean over branches, and the counts of one run."""
    yield from _walk(program, program.entry, 1.0, loops_once)


def _walk(program: Program, name: str, times: float, loops_once: bool) -> Iterator[tuple[Instruction, float, Counts]]:
    computation = program.computations[name]
    for each in computation.values():
        if each.opcode == "while":
            trips = None if loops_once else trip_count(program, computation, each)
            if trips is None:
                yield each, 1.0, Counts(unknown_loops=0 if loops_once else 1)
            for role in ("condition", "body"):
                yield from _walk(program, each.computation(role), times * (1 if trips is None else trips), loops_once)
        elif each.opcode == "conditional":
            for branch in each.branches:
                yield from _walk(program, branch, times / len(each.branches), loops_once)
        elif each.opcode == "call" or (each.opcode == "async-start" and each.computation("calls")):
            yield from _walk(program, each.computation("to_apply") or each.computation("calls"), times, loops_once)
        elif each.opcode not in _FREE and not _names_memory(each):
            yield each, times, _of_kernel(program, computation, each)


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int | None:
    """How often the body of a loop runs; None if the program does not tell."""
    known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
    if known is not None:
        return int(known)
    names = [loop.computation(role) for role in ("condition", "body")]
    condition, body = (program.computations[name] for name in names)
    test, after = (program.root(name) for name in names)
    start = computation[loop.operands[0]]
    if test.opcode != "compare" or "direction=LT" not in test.attributes or {start.opcode, after.opcode} != {"tuple"}:
        return None

    def known_value(inside: Computation, name: str) -> int | None:
        """A constant, also one that the loop carries along."""
        place = _carried(inside, name)
        return _constant(inside, name) if place is None else _constant(computation, start.operands[place])

    counter = _carried(condition, test.operands[0])
    if counter is None:
        return None
    update = _through_copies(body, after.operands[counter])
    if update.opcode != "add":
        return None
    steps = [b for a, b in itertools.permutations(update.operands) if _carried(body, a) == counter]
    first, bound = _constant(computation, start.operands[counter]), known_value(condition, test.operands[1])
    step = known_value(body, steps[0]) if steps else None
    if first is None or bound is None or step is None or step <= 0:
        return None
    return max(0, math.ceil((bound - first) / step))


def _through_copies(computation: Computation, name: str) -> Instruction:
    each = computation[name]
    while each.opcode in ("copy", "bitcast", "convert", "reshape") and len(each.operands) == 1:
        each = computation[each.operands[0]]
    return each


def _constant(computation: Computation, name: str) -> int | None:
    each = _through_copies(computation, name)
    return int(each.arguments) if each.opcode == "constant" and re.fullmatch(r"-?\d+", each.arguments) else None


def _carried(computation: Computation, name: str) -> int | None:
    """Which element of the loop's state a value is, in a computation whose only parameter is this state."""
    each = _through_copies(computation, name)
    if each.opcode != "get-tuple-element" or computation[each.operands[0]].opcode != "parameter":
        return None
    return int(each.attribute(r"index=(\d+)"))


def _names_memory(each: Instruction) -> bool:
    return each.opcode == "custom-call" and each.attribute(r'custom_call_target="([^"]*)"') in _NAMES


def _of_kernel(program: Program, computation: Computation, each: Instruction) -> Counts:
    """The counts of one instruction that runs as a kernel."""
    fused = each.opcode == "fusion"
    arrays = touched_by_fusion(program, computation, each) if fused else touched(computation, each)
    everywhere = float(sum(array.bytes for array in arrays))
    inside = _arithmetic(program, computation, each)
    target = each.attribute(r'custom_call_target="([^"]*)"') if each.opcode == "custom-call" else None
    return inside.plus(
        Counts(
            bytes_accessed=everywhere,
            memory_bytes=float(sum(array.bytes for array in arrays if array.space == 0)),
            moved_bytes=everywhere if _only_moves(program, computation, each) else 0.0,
            kernels=1.0,
            library_calls=Counter() if target is None else Counter({target: 1}),
        )
    )


def _only_moves(program: Program, computation: Computation, each: Instruction) -> bool:
    if each.opcode in _COPIES:  # between memories it is how arrays get to where they are used
        source, target = computation[each.operands[0]].arrays[0], each.arrays[0]
        return source.space == target.space or source.minor_to_major != target.minor_to_major
    if each.opcode != "fusion":
        return each.opcode in _MOVES
    inside = program.computations[each.computation("calls")]
    return all(_only_moves(program, inside, one) for one in inside.values() if one.opcode not in _FREE)


def _arithmetic(program: Program, computation: Computation, each: Instruction) -> Counts:
    """Operations and exchanges of an instruction, of a fusion those of all inside."""
    if each.opcode == "fusion":
        name = each.computation("calls")
        inside = program.computations[name]
        parts = (_arithmetic(program, inside, one) for one in inside.values())
        return functools.reduce(Counts.plus, parts, Counts())
    kind = each.opcode.removesuffix("-start")
    if kind in COLLECTIVES:
        size = float(sum(array.bytes for array in operand_arrays(computation, each)))
        return Counts(collectives=Counter({kind: 1}), all_reduce_bytes=size if kind == "all-reduce" else 0.0)
    if each.opcode in _ARITHMETIC:
        return Counts(elementwise=float(each.arrays[0].size))
    if each.opcode in ("reduce", "reduce-window"):
        half = len(each.operands) // 2
        return Counts(elementwise=float(sum(computation[name].arrays[0].size for name in each.operands[:half])))
    return Counts(flops=flops(computation, each))
