"""A JAX function of images as an ONNX model, for networks of convolutions, pools, dense layers, elementwise operations.

The function is traced once for any batch size, and each of its operations becomes one of ONNX. What depends on weights
alone is computed here, by JAX, so that the graph holds only what depends on images.

The package `jax2onnx` converts far more operations. It replaces functions inside JAX and Flax, so that each of its
releases needs certain releases of these (0.17 fails with JAX 0.12). This module uses public interfaces alone:
`jax.jit(...).trace`, `jax.extend.core` and the `onnx` package.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx.helper
from jax.extend import core

from jaxnas.export.onnx_graph import CHANNELS_FIRST, Graph, Tensor, Value, integers

ELEMENTWISE = {
    "abs": "Abs", "add": "Add", "div": "Div", "erf": "Erf", "exp": "Exp", "log": "Log", "logistic": "Sigmoid",
    "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg", "pow": "Pow", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip


_LOOPS = ("scan", "while", "cond", "shard_map", "pallas_call")

# (equation, values of its operands) -> values of its results.
Add = Callable[[core.JaxprEqn, list[Value]], list[Value]]


class UnsupportedOperationError(ValueError):
    """The function has an operation that has no counterpart here."""


def to_onnx(
    function: Callable[[jax.Array], jax.Array], image_shape: Sequence[int], name: str, input_name: str, output_name: str
) -> onnx.ModelProto:
    """The model of a function.

    Args:
      function: float32 images [B, H, W, C] -> float32 [B, outputs], for any B.
      image_shape: H, W, C.
      name: of the graph.
      input_name: of the images in the graph.
      output_name: of the outputs.

    Raises:
      UnsupportedOperationError: if the function has an operation that is not known here.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    traced = jax.jit(function).trace(jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)).jaxpr
    (image,), (out,) = traced.in_avals, traced.out_avals
    chex.assert_rank([image, out], [4, 2])
    require(out.shape[0] == batch and not jax.export.is_symbolic_dim(out.shape[1]), "outputs that are not [B, outputs]")
    graph = Graph()
    images = Tensor(graph.channels_first(input_name, 4), image.shape, image.dtype)
    (result,) = run(traced.jaxpr, traced.consts, [images], lambda eqn, operands: [_add(graph, eqn, operands)])
    # A result that no image has a say in is constant, as where no cell has an operation.
    output = graph.repeated(result, input_name) if isinstance(result, np.ndarray) else result.name
    return graph.model(
        name,
        [onnx.helper.make_tensor_value_info(input_name, onnx.TensorProto.FLOAT, ["batch", *image_shape])],
        {output: onnx.helper.make_tensor_value_info(output_name, onnx.TensorProto.FLOAT, ["batch", out.shape[1]])},
    )


def run(jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Value], add: Add) -> list[Value]:
    """Adds the operations of a traced function to a graph; returns its outputs.

    Args:
      jaxpr: of the function.
      consts: its constants.
      inputs: its arguments; what depends on constants alone is computed here.
      add: adds an operation on values, and returns its results.
    """
    values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(_known, consts), strict=True))
    values |= zip(jaxpr.invars, inputs, strict=True)

    def read(atom: Any) -> Value:
        return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        # A function that is jitted or has a derivative of its own, or a part that is computed again for derivatives.
        if isinstance(inner, core.ClosedJaxpr) and eqn.primitive.name not in _LOOPS:
            results = run(inner.jaxpr, inner.consts, operands, add)
        elif isinstance(inner, core.Jaxpr) and eqn.primitive.name not in _LOOPS:
            results = run(inner, (), operands, add)
        elif all(isinstance(operand, np.ndarray) for operand in operands):
            results = _evaluate(eqn, operands)
        else:
            results = add(eqn, operands)
        values |= zip(eqn.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _known(constant: Any) -> Any:
    """A constant as an array of numpy; keys of random streams, which a model in use does not need, as they are."""
    return constant if jnp.issubdtype(constant.dtype, jax.dtypes.prng_key) else np.asarray(constant)


def _evaluate(eqn: core.JaxprEqn, operands: list[np.ndarray]) -> list[np.ndarray]:
    """An operation on constants. What is the same for every image has a batch of one: it broadcasts."""

    def known(value: Any) -> Any:
        if type(value) is tuple:
            return tuple(known(item) for item in value)
        return 1 if jax.export.is_symbolic_dim(value) else value

    params = {name: known(value) for name, value in eqn.params.items()}
    results = eqn.primitive.bind(*map(jnp.asarray, operands), **params)
    return [np.asarray(result) for result in (results if eqn.primitive.multiple_results else [results])]


def _add(graph: Graph, eqn: core.JaxprEqn, operands: list[Value]) -> Tensor:
    kind, out = eqn.primitive.name, eqn.outvars[0].aval
    if kind in ELEMENTWISE:
        name = graph.elementwise(ELEMENTWISE[kind], *operands)
    elif kind in _CONVERTERS:
        name = _CONVERTERS[kind](graph, operands, out, eqn.params)
    else:
        raise unknown(kind, [*ELEMENTWISE, *_CONVERTERS])
    return Tensor(name, out.shape, out.dtype)


def unknown(kind: str, known: Sequence[str]) -> UnsupportedOperationError:
    """The error of an operation that is none of those known."""
    return UnsupportedOperationError(
        f"the network has the operation {kind!r}; ONNX is written of {', '.join(sorted(known))}"
    )


def require(condition: bool, what: str) -> None:
    """Raises UnsupportedOperationError unless a condition holds, for what does not meet it."""
    if not condition:
        raise UnsupportedOperationError(f"the network has {what}, for which there is no conversion to ONNX")


def _axis(axis: int, rank: int) -> int:
    """Where the graph stores an axis."""
    return CHANNELS_FIRST.index(axis) if rank == 4 else axis


def _convolution(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    x, kernel = operands
    numbers = params["dimension_numbers"]
    require(isinstance(x, Tensor) and isinstance(kernel, np.ndarray), "a convolution with a kernel that is computed")
    plain = params["batch_group_count"] == 1 and set(params["lhs_dilation"]) == {1}
    require(
        plain and tuple(numbers.lhs_spec) == tuple(numbers.out_spec) == CHANNELS_FIRST,
        "a convolution that is not of images [B, H, W, C], or is transposed",
    )
    low, high = zip(*params["padding"])
    return graph.node(
        "Conv",
        x.name,
        kernel.transpose(numbers.rhs_spec),
        np.zeros(out.shape[3], kernel.dtype),
        strides=[int(stride) for stride in params["window_strides"]],
        pads=[int(pad) for pad in (*low, *high)],
        dilations=[int(dilation) for dilation in params["rhs_dilation"]],
        group=params["feature_group_count"],
    )


def _dense(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    x, weights = operands
    (left, right), batch = params["dimension_numbers"]
    require(isinstance(x, Tensor) and isinstance(weights, np.ndarray), "a product of two arrays that are computed")
    plain = tuple(left) == (len(x.shape) - 1,) and weights.ndim == 2 and not any(map(len, batch))
    require(plain, "a product of another form than [..., in] x [in, out]")
    name = graph.node("MatMul", graph.channels_last(x), weights if tuple(right) == (0,) else weights.T)
    return graph.channels_first(name, len(x.shape))


def _reshape(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    require(params.get("dimensions") is None, "a reshape that permutes")
    shape = [-1 if jax.export.is_symbolic_dim(size) else size for size in out.shape]
    require(shape.count(-1) == 1, "a reshape that splits or joins images")
    name = graph.node("Reshape", graph.channels_last(operands[0]), integers(*shape))
    return graph.channels_first(name, len(shape))


def _broadcast(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    x, axes = operands[0], params["broadcast_dimensions"]
    kept = all(size == (x.shape[axes.index(axis)] if axis in axes else 1) for axis, size in enumerate(out.shape))
    require(kept, "a broadcast to new sizes")  # elementwise operations broadcast by themselves
    return _reshape(graph, operands, out, {})


def _transpose(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    name = graph.node("Transpose", graph.channels_last(operands[0]), perm=params["permutation"])
    return graph.channels_first(name, len(out.shape))


def _sum(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    x, rank = operands[0], len(operands[0].shape)
    axes = sorted(_axis(axis, rank) for axis in params["axes"])
    left = [axis for axis in (CHANNELS_FIRST if rank == 4 else range(rank)) if axis not in params["axes"]]
    require(left == sorted(left), "a sum that leaves its axes in another order")
    return graph.node("ReduceSum", x.name, integers(*axes), keepdims=0)


def _window_sum(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    x, window, padding = operands[0], params["window_dimensions"], params["padding"]
    dilated = set(params["base_dilation"]) | set(params["window_dilation"])
    plain = len(window) == 4 and window[0] == window[3] == 1 and dilated == {1}
    require(plain, "a pooling that is not over the height and width of images")
    low, high = zip(*padding[1:3])
    average = graph.node(
        "AveragePool",
        x.name,
        kernel_shape=[int(size) for size in window[1:3]],
        strides=[int(stride) for stride in params["window_strides"][1:3]],
        pads=[int(pad) for pad in (*low, *high)],
        count_include_pad=1,
    )
    return graph.node("Mul", average, np.asarray(window[1] * window[2], x.dtype))


def _pad(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    x, value = operands
    require(isinstance(x, Tensor) and isinstance(value, np.ndarray), "padding by a value that is computed")
    config = params["padding_config"]
    require(all(inner == 0 and low >= 0 and high >= 0 for low, high, inner in config), "padding between elements")
    config = [config[axis] for axis in CHANNELS_FIRST] if len(config) == 4 else config
    low, high, _ = zip(*config)
    return graph.node("Pad", x.name, integers(*low, *high), value)


def _slice(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    (x,) = operands
    steps = params["strides"] or (1,) * len(x.shape)
    cuts = [
        (begin, end, _axis(axis, len(x.shape)), step)
        for axis, (begin, end, step) in enumerate(zip(params["start_indices"], params["limit_indices"], steps))
        if (begin, end, step) != (0, x.shape[axis], 1)
    ]
    require(not any(jax.export.is_symbolic_dim(end) for _, end, _, _ in cuts), "a slice of images")
    return graph.node("Slice", x.name, *(integers(*column) for column in zip(*cuts))) if cuts else x.name


def _cast(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    (x,) = operands
    if x.dtype == out.dtype:
        return x.name
    return graph.node("Cast", x.name, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(out.dtype)))


def _power(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    return graph.node("Pow", operands[0].name, np.asarray(params.get("y", 2), out.dtype))


def _inverse_root(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    return graph.node("Reciprocal", graph.node("Sqrt", operands[0].name))


_CONVERTERS: dict[str, Callable[[Graph, list[Value], Any, Mapping[str, Any]], str]] = {
    "broadcast_in_dim": _broadcast,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "dot_general": _dense,
    "integer_pow": _power,
    "pad": _pad,
    "reduce_sum": _sum,
    "reduce_window_sum": _window_sum,
    "reshape": _reshape,
    "rsqrt": _inverse_root,
    "slice": _slice,
    "square": _power,
    "squeeze": lambda graph, operands, out, params: _reshape(graph, operands, out, {}),
    "transpose": _transpose,
}
