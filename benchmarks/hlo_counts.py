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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from benchmarks.hlo_text import Array, Computation, Instruction, Program, parse

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
_SLICES = frozenset(("dynamic-slice", "slice", "gather"))
_COLLECTIVES = frozenset(
    ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", "collective-broadcast")
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
    touched = _touched_by_fusion(program, computation, each) if each.opcode == "fusion" else _touched(computation, each)
    everywhere = float(sum(array.bytes for array in touched))
    inside = _arithmetic(program, computation, each)
    target = each.attribute(r'custom_call_target="([^"]*)"') if each.opcode == "custom-call" else None
    return inside.plus(
        Counts(
            bytes_accessed=everywhere,
            memory_bytes=float(sum(array.bytes for array in touched if array.space == 0)),
            moved_bytes=everywhere if _only_moves(program, computation, each) else 0.0,
            kernels=1.0,
            library_calls=Counter() if target is None else Counter({target: 1}),
        )
    )


def _operand_arrays(computation: Computation, each: Instruction) -> list[Array]:
    return [array for name in each.operands for array in computation[name].arrays]


def _touched(computation: Computation, each: Instruction) -> list[Array]:
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
    if each.opcode.removesuffix("-start") in _COLLECTIVES:
        operands = _operand_arrays(computation, each)
        return [*operands, *(each.arrays if each.opcode in _COLLECTIVES else operands)]
    return [*_operand_arrays(computation, each), *each.arrays]


def _touched_by_fusion(program: Program, computation: Computation, each: Instruction) -> list[Array]:
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
    if kind in _COLLECTIVES:
        size = float(sum(array.bytes for array in _operand_arrays(computation, each)))
        return Counts(collectives=Counter({kind: 1}), all_reduce_bytes=size if kind == "all-reduce" else 0.0)
    if each.opcode in _ARITHMETIC:
        return Counts(elementwise=float(each.arrays[0].size))
    if each.opcode in ("reduce", "reduce-window"):
        half = len(each.operands) // 2
        return Counts(elementwise=float(sum(computation[name].arrays[0].size for name in each.operands[:half])))
    return Counts(flops=flops(computation, each))


def flops(computation: Computation, each: Instruction) -> float:
    """Operations of a matrix product or convolution, also of one by cuDNN or cuBLAS; 0 of anything else."""
    target = each.attribute(r'custom_call_target="([^"]*)"') or ""
    shapes = [computation[name].arrays[0].shape for name in each.operands if computation[name].arrays]
    if each.opcode == "dot" or target.startswith("__cublas"):
        contracted = each.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
        if contracted is None:
            contracted = (each.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]') or "").replace('"', "")
        axes = [int(axis) for axis in contracted.split(",") if axis]
        return 2.0 * each.arrays[0].size * math.prod(shapes[0][axis] for axis in axes)
    result = each.arrays[0].shape if each.arrays else ()
    if (
        each.opcode == "convolution"
        or target.startswith("__cudnn$convForward")
        or target.startswith("__cudnn$convBias")
    ):
        return _convolution(each, shapes[0], shapes[1], result)
    if target == "__cudnn$convBackwardInput":
        return _convolution(each, result, shapes[1], shapes[0])
    if target == "__cudnn$convBackwardFilter":
        return _convolution(each, shapes[0], result, shapes[1])
    return 0.0


def _convolution(
    each: Instruction, inputs: tuple[int, ...], kernel: tuple[int, ...], outputs: tuple[int, ...]
) -> float:
    """As XLA counts: each output, feature and tap that falls on an input, two operations."""
    labels = re.match(r"(\w+)_(\w+)->(\w+)", each.attribute(r"dim_labels=([\w>\-]+)"))
    places = [{label: place for place, label in enumerate(group)} for group in labels.groups()]
    groups = int(each.attribute(r"batch_group_count=(\d+)") or 1)
    total = 2.0 * outputs[places[2]["b"]] * outputs[places[2]["f"]] * kernel[places[1]["i"]]
    if groups > 1:  # each group of images meets its own part of the features only
        total = 2.0 * inputs[places[0]["b"]] / groups * outputs[places[2]["f"]] * kernel[places[1]["i"]]
    for axis, window in enumerate(_windows(each)):
        label = str(axis)
        total *= _taps(window, inputs[places[0][label]], outputs[places[2][label]])
    return total


def _windows(each: Instruction) -> list[dict[str, int]]:
    """Size, stride, padding and dilations of each spatial axis."""
    text = each.attribute(r"window=\{([^}]*)\}")
    if text is None:
        return []
    fields = dict(part.split("=") for part in text.split())
    axes = len(fields["size"].split("x"))
    values = {name: fields[name].split("x") if name in fields else [None] * axes for name in _WINDOW}
    return [
        {
            "size": int(values["size"][axis]),
            "stride": int(values["stride"][axis] or 1),
            "before": int((values["pad"][axis] or "0_0").split("_")[0]),
            "inner": int(values["lhs_dilate"][axis] or 1),
            "outer": int(values["rhs_dilate"][axis] or 1),
        }
        for axis in range(axes)
    ]


_WINDOW = ("size", "stride", "pad", "lhs_dilate", "rhs_dilate")


def _taps(window: dict[str, int], inputs: int, outputs: int) -> int:
    """Pairs of an output and a tap of the kernel that meet an input, along one axis."""
    places = np.arange(outputs)[:, None] * window["stride"] + np.arange(window["size"]) * window["outer"]
    places = places - window["before"]
    last = (inputs - 1) * window["inner"]
    return int(((places >= 0) & (places <= last) & (places % window["inner"] == 0)).sum())
