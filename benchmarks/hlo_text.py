"""The text of an optimised program (`compiled.as_text()`), as shapes, instructions and computations.

Read is what counting needs: opcodes, shapes with their layout in memory, operands, and the attributes that name other
computations. The text is that of XLA's HLO: https://openxla.org/xla/operation_semantics.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_BITS = {"pred": 8, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
_COMMENT = re.compile(r"/\*.*?\*/")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\]")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_TILE = re.compile(r"\(([\d,]*)\)")


@dataclass(frozen=True)
class Array:
    """An array in memory.

    Attributes:
      kind: of its elements, such as "bf16".
      shape: as the program sees it.
      minor_to_major: the axes, the one whose elements lie next to each other first.
      tiles: sizes of the tiles that the minor axes are cut into, the first of whole elements; empty for none.
      space: 0 for the memory of the device; others, such as a TPU's VMEM, are on the chip.
    """

    kind: str
    shape: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()
    space: int = 0

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes in memory, whole tiles: a TPU stores float32 [64, 16] as [64, 128]."""
        physical = [self.shape[axis] for axis in reversed(self.minor_to_major)] or list(self.shape)
        if self.tiles:
            tile = self.tiles[0]
            physical = [1] * (len(tile) - len(physical)) + physical
            for place, size in enumerate(reversed(tile), start=1):
                physical[-place] = -(-physical[-place] // size) * size
        return math.prod(physical) * bits(self.kind) // 8


def bits(kind: str) -> int:
    """Bits of an element in memory, such as 16 of "bf16"; at least a byte."""
    if kind in _BITS:
        return _BITS[kind]
    found = re.search(r"\d+", kind)
    if found is None:
        raise ValueError(f"an element's type must name its bits, got {kind!r}; add it to this reader")
    return max(int(found[0]), 8)  # of 4-bit numbers two share a byte only where a layout says so


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in its computation.
      opcode: such as "fusion".
      arrays: the result's arrays, of a tuple those of all its elements in order.
      elements: for each element of a result that is a tuple, where its arrays begin and end in `arrays`.
      operands: names of instructions of the same computation.
      arguments: the text between the parentheses, such as a constant's value.
      attributes: the text behind them.
      is_root: whether it is the computation's result.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    elements: tuple[tuple[int, int], ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    is_root: bool

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern in the attributes."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    def computation(self, role: str) -> str | None:
        """The computation named as `calls`, `body`, `condition` or `to_apply`."""
        return self.attribute(rf"\b{role}=%?([\w.\-]+)")

    @property
    def branches(self) -> tuple[str, ...]:
        """The computations that a conditional chooses from."""
        listed = self.attribute(r"branch_computations=\{([^}]*)\}")
        if listed is None:
            pair = (self.computation("true_computation"), self.computation("false_computation"))
            return tuple(name for name in pair if name is not None)
        return tuple(name.strip().lstrip("%") for name in listed.split(","))


Computation = Mapping[str, Instruction]  # by name, in order


@dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      computations: by name.
      entry: name of the one that runs.
    """

    computations: Mapping[str, Computation]
    entry: str

    def root(self, computation: str) -> Instruction:
        """The result of a computation."""
        return next(each for each in self.computations[computation].values() if each.is_root)


def parse(text: str) -> Program:
    """Reads the text of a compiled program.

    Raises:
      ValueError: if it has no entry computation, or a line that cannot be read.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        line = _COMMENT.sub("", line)
        if current is None:
            header = _HEADER.match(line)
            if header:
                current = computations[header[2]] = {}
                entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif line.strip():
            instruction = _instruction(line)
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("text must be that of a compiled program, with an ENTRY computation")
    return Program(computations, entry)


def _instruction(line: str) -> Instruction:
    found = _INSTRUCTION.match(line)
    if found is None:
        raise ValueError(f"cannot read this line of the program: {line.strip()[:120]!r}")
    arrays, elements, position = _shape(line, found.end())
    opcode = _OPCODE.match(line, position)
    if opcode is None:
        raise ValueError(f"cannot read the opcode in this line of the program: {line.strip()[:120]!r}")
    end = _closing(line, opcode.end() - 1)
    arguments = line[opcode.end() : end]
    literal = opcode[1] in ("constant", "parameter")
    return Instruction(
        name=found[2],
        opcode=opcode[1],
        arrays=arrays,
        elements=elements,
        operands=() if literal else tuple(re.findall(r"%([\w.\-]+)", arguments)),
        arguments=arguments,
        attributes=line[end + 1 :],
        is_root=found[1] is not None,
    )


def _shape(line: str, position: int) -> tuple[tuple[Array, ...], tuple[tuple[int, int], ...], int]:
    """Arrays and elements of the shape that begins at `position`, and where it ends."""
    if line[position] != "(":
        array, position = _array(line, position)
        return (array,), (), position
    arrays, elements, position = [], [], position + 1
    while line[position] != ")":
        if line[position] in ", ":
            position += 1
            continue
        inner, _, position = _shape(line, position)
        elements.append((len(arrays), len(arrays) + len(inner)))
        arrays.extend(inner)
    return tuple(arrays), tuple(elements), position + 1


def _array(line: str, position: int) -> tuple[Array, int]:
    found = _ARRAY.match(line, position)
    if found is None:
        raise ValueError(f"cannot read a shape in this line of the program: {line.strip()[:120]!r}")
    shape = tuple(int(size.lstrip("<=")) for size in found[2].split(",") if size)
    position = found.end()
    if line[position : position + 1] != "{":
        return Array(found[1], shape), position
    end = line.index("}", position)
    minor_to_major, tiles, space = _layout(line[position + 1 : end])
    return Array(found[1], shape, minor_to_major, tiles, space), end + 1


@functools.cache
def _layout(text: str) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...], int]:
    axes, _, rest = text.partition(":")
    tiling = re.search(r"T((?:\([\d,]*\))+)", rest)
    tiles = _numbers(_TILE.findall(tiling[1])) if tiling else ()
    space = re.search(r"S\((\d+)\)", rest)
    return tuple(map(int, filter(None, axes.split(",")))), tiles, int(space[1]) if space else 0


def _numbers(texts: list[str]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, filter(None, text.split(",")))) for text in texts)


def _closing(line: str, opening: int) -> int:
    """Where the parenthesis closes that opens at `opening`."""
    depth = 0
    for position, character in _parentheses(line, opening):
        depth += 1 if character == "(" else -1
        if not depth:
            return position
    raise ValueError(f"a parenthesis is not closed in this line of the program: {line.strip()[:120]!r}")


def _parentheses(line: str, begin: int) -> Iterator[tuple[int, str]]:
    for found in re.compile(r"[()]").finditer(line, begin):
        yield found.start(), found[0]
