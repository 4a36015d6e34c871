"""A graph in ONNX under construction.

ONNX convolves channels first. Every array of rank 4 is stored [B, C, H, W], where JAX has [B, H, W, C]: the only
transposition is that of the images. A scale or shift of channels, as batch norm is in inference, becomes part of the
convolution before it; max(x, 0) becomes Relu, and Clip if a minimum follows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

# Read by ONNX Runtime since 1.12 (2022).
OPSET, IR_VERSION = 17, 8

CHANNELS_FIRST, CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


@dataclass(frozen=True)
class Tensor:
    """An array that depends on the images.

    Attributes:
      name: in the graph.
      shape: in JAX, where the batch is symbolic.
      dtype: of its elements.
    """

    name: str
    shape: tuple[Any, ...]
    dtype: Any


# What depends on no image is a constant, in JAX's order of axes.
Value = Tensor | np.ndarray


@dataclass
class Graph:
    """Nodes, constants, and which node made what."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    made_by: dict[str, onnx.NodeProto] = field(default_factory=dict)

    def node(self, kind: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Adds a node; arrays among the inputs become constants as they are. Returns the name of its output."""
        names = [self._constant(value) if isinstance(value, np.ndarray) else value for value in inputs]
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, names, [output], **attributes))
        self.made_by[output] = self.nodes[-1]
        return output

    def elementwise(self, kind: str, *operands: Value) -> str:
        """Adds an elementwise operation, which broadcasts.

        With a constant it becomes part of the node before it, where the two are one operation of ONNX.
        """
        return self._folded(kind, *operands) or self.node(kind, *map(stored, operands))

    def channels_first(self, name: str, rank: int) -> str:
        """From JAX's order of axes to the graph's."""
        return self.node("Transpose", name, perm=CHANNELS_FIRST) if rank == 4 else name

    def channels_last(self, x: Tensor) -> str:
        """From the graph's order of axes to JAX's."""
        return self.node("Transpose", x.name, perm=CHANNELS_LAST) if len(x.shape) == 4 else x.name

    def repeated(self, values: np.ndarray, images: str) -> str:
        """A constant [1, ...] once for each image."""
        batch = self.node("Slice", self.node("Shape", images), integers(0), integers(1))
        return self.node("Expand", values, self.node("Concat", batch, integers(*values.shape[1:]), axis=0))

    def model(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Mapping[str, onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The finished model.

        Args:
          name: of the graph.
          inputs: of the graph.
          outputs: results by their names in the graph, and what they become; the nodes that they need are kept.
        """
        needed = set(outputs)
        nodes = [onnx.helper.make_node("Identity", [result], [output.name]) for result, output in outputs.items()]
        for node in reversed(self.nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                nodes.append(node)
        arrays = [onnx.numpy_helper.from_array(array, key) for key, array in self.constants.items() if key in needed]
        graph = onnx.helper.make_graph(nodes[::-1], name, list(inputs), list(outputs.values()), arrays)
        opset = [onnx.helper.make_opsetid("", OPSET)]
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="jaxnas")
        onnx.checker.check_model(model)
        return model

    def _constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def _folded(self, kind: str, *operands: Value) -> str | None:
        """The result of an operation with a constant as part of the node before it; None if it needs its own."""
        if len(operands) != 2 or not any(isinstance(operand, np.ndarray) for operand in operands):
            return None
        x, constant = operands
        if isinstance(x, np.ndarray):
            if kind not in ("Add", "Mul", "Max", "Min"):
                return None
            x, constant = constant, x
        if any(size not in (1, whole) for size, whole in zip(constant.shape, x.shape)):
            return None  # it gives x a new shape
        if kind in ("Add", "Sub") and not constant.any():
            return x.name
        if kind == "Max" and not constant.any():
            return self.node("Relu", x.name)
        before = self.made_by.get(x.name)
        if before is None:
            return None
        if kind == "Min" and constant.ndim == 0 and before.op_type == "Relu":
            return self.node("Clip", before.input[0], np.zeros((), constant.dtype), constant)
        of_channels = constant.ndim == 0 or constant.size == constant.shape[-1]
        if kind in ("Add", "Sub", "Mul", "Div") and before.op_type == "Conv" and of_channels:
            return self._with_convolution(kind, before, constant.reshape(-1))
        return None

    def _with_convolution(self, kind: str, conv: onnx.NodeProto, constant: np.ndarray) -> str:
        """A convolution whose outputs are those of `conv`, scaled or shifted; `conv` goes if nothing else needs it."""
        images, kernel, bias = conv.input[0], self.constants[conv.input[1]], self.constants[conv.input[2]]
        if kind in ("Mul", "Div"):
            scale = constant if kind == "Mul" else 1 / constant
            kernel, bias = kernel * scale[:, None, None, None], bias * scale
        else:
            bias = bias + (constant if kind == "Add" else -constant)
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in conv.attribute}
        return self.node("Conv", images, kernel, bias, **attributes)


def stored(value: Value) -> str | np.ndarray:
    """An operand as the graph stores it."""
    if isinstance(value, Tensor):
        return value.name
    return value.transpose(CHANNELS_FIRST) if value.ndim == 4 else value


def integers(*values: Any) -> np.ndarray:
    """A list of whole numbers, as nodes take them."""
    return np.asarray(values, np.int64)
