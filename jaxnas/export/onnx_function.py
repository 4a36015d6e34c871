"""Any JAX function of arrays of fixed shapes as an ONNX model.

Arrays keep JAX's order of axes; ONNX Runtime takes transpositions around convolutions out where it can. What depends on
weights alone is computed here. For networks of images there is `jaxnas.export.onnx_operations`, whose graphs take any
batch size and are as small as those written by hand.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
import onnx.helper
from jax.extend import core
from jax.interpreters import partial_eval

from jaxnas.export.onnx_graph import Graph, Tensor, Value, integers
from jaxnas.export.onnx_operations import ELEMENTWISE, require, run, unknown

_NODES = {
    **ELEMENTWISE,
    "and": "And", "ceil": "Ceil", "cos": "Cos", "eq": "Equal", "floor": "Floor", "ge": "GreaterOrEqual",
    "gt": "Greater", "le": "LessOrEqual", "lt": "Less", "not": "Not", "or": "Or", "sign": "Sign", "sin": "Sin",
    "xor": "Xor",
}  # fmt: skip
_SAME = ("copy", "copy_p", "name", "optimization_barrier", "reduce_precision", "sharding_constraint", "stop_gradient")


def to_onnx(function: Callable[..., Any], *arguments: Any) -> onnx.ModelProto:
    """The model of a function, whose inputs and outputs are the leaves of the function's, "input_0" and so on.

    Indices of rows that are gathered, as of embeddings, are taken to be within bounds.

    Args:
      function: arrays to arrays.
      *arguments: of a call, or their shapes.

    Raises:
      UnsupportedOperationError: if the function has an operation that is not known here.
    """
    traced = jax.make_jaxpr(function)(*arguments)
    jaxpr, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.out_avals), instantiate=True)
    graph = Graph()
    inputs = [Tensor(f"input_{place}", aval.shape, aval.dtype) for place, aval in enumerate(traced.in_avals)]
    results = run(jaxpr, traced.consts, inputs, functools.partial(_add, graph))
    outputs = {}
    for place, (result, aval) in enumerate(zip(results, traced.out_avals, strict=True)):
        name = graph.node("Identity", result if isinstance(result, np.ndarray) else result.name)
        outputs[name] = _information(f"output_{place}", aval)
    return graph.model("function", [_information(each.name, each) for each in inputs], outputs)


def _information(name: str, like: Any) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(like.dtype))
    return onnx.helper.make_tensor_value_info(name, kind, list(like.shape))


def _name(value: Value) -> str | np.ndarray:
    return value if isinstance(value, np.ndarray) else value.name


def _add(graph: Graph, eqn: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    kind, outs = eqn.primitive.name, [variable.aval for variable in eqn.outvars]
    if kind in _SAME:
        return operands
    if kind == "split":
        return _split(graph, operands[0], eqn.params, outs)
    if kind in _NODES:
        name = graph.node(_NODES[kind], *map(_name, operands))
    elif kind in _CONVERTERS:
        name = _CONVERTERS[kind](graph, operands, outs[0], eqn.params)
    else:
        raise unknown(kind, [*_NODES, *_CONVERTERS, *_SAME, "split"])
    return [Tensor(name, outs[0].shape, outs[0].dtype)]


def _reshaped(graph: Graph, x: str | np.ndarray, old: Sequence[int], new: Sequence[int]) -> str | np.ndarray:
    if isinstance(x, np.ndarray):
        return x.reshape(new)
    return x if tuple(old) == tuple(new) else graph.node("Reshape", x, integers(*new), allowzero=1)


def _permuted(graph: Graph, x: str | np.ndarray, axes: Sequence[int]) -> str | np.ndarray:
    if isinstance(x, np.ndarray):
        return x.transpose(axes)
    return x if list(axes) == list(range(len(axes))) else graph.node("Transpose", x, perm=list(axes))


def _product(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    """A matrix product [batch, rows, contracted] x [batch, contracted, columns] between permutations."""
    (contracted, batch), names = params["dimension_numbers"], []
    shapes = [operand.shape for operand in operands]
    free = [
        [axis for axis in range(len(shape)) if axis not in (*contracted[side], *batch[side])]
        for side, shape in enumerate(shapes)
    ]
    orders = [[*batch[0], *free[0], *contracted[0]], [*batch[1], *contracted[1], *free[1]]]
    sizes = [shapes[0][axis] for axis in batch[0]]
    inner = int(np.prod([shapes[0][axis] for axis in contracted[0]]))
    rows, columns = (int(np.prod([shape[axis] for axis in axes])) for shape, axes in zip(shapes, free))
    wanted = [(*sizes, rows, inner), (*sizes, inner, columns)]
    for operand, order, shape, new in zip(operands, orders, shapes, wanted):
        moved = _permuted(graph, _name(operand), order)
        names.append(_reshaped(graph, moved, [shape[axis] for axis in order], new))
    return _reshaped(graph, graph.node("MatMul", *names), (*sizes, rows, columns), out.shape)


def _convolution(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    numbers = params["dimension_numbers"]
    plain = params["batch_group_count"] == 1 and set(params["lhs_dilation"]) <= {1}
    require(plain, "a transposed convolution")
    x, kernel = (
        _permuted(graph, _name(each), axes) for each, axes in zip(operands, (numbers.lhs_spec, numbers.rhs_spec))
    )
    low, high = zip(*params["padding"])
    require(min(*low, *high) >= 0, "a convolution that cuts its input")
    name = graph.node(
        "Conv",
        x,
        kernel,
        strides=[int(stride) for stride in params["window_strides"]],
        pads=[int(pad) for pad in (*low, *high)],
        dilations=[int(dilation) for dilation in params["rhs_dilation"]],
        group=params["feature_group_count"],
    )
    return _permuted(graph, name, np.argsort(numbers.out_spec).tolist())


def _pool(kind: str, graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    x, window, strides, padding = operands[0], *(params[k] for k in ("window_dimensions", "window_strides", "padding"))
    rank, inner = len(window), range(1, len(window) - 1)
    dilated = {*params["base_dilation"], *params["window_dilation"]}
    plain = rank > 2 and window[0] == window[-1] == strides[0] == strides[-1] == 1 and dilated == {1}
    require(plain, "a pooling that is not over the inner axes of [B, ..., C]")
    pads = [int(padding[axis][side]) for side in (0, 1) for axis in inner]
    shape = {
        "kernel_shape": [int(window[axis]) for axis in inner],
        "strides": [int(strides[axis]) for axis in inner],
        "pads": pads,
    }
    first = _permuted(graph, _name(x), [0, rank - 1, *inner])
    if kind == "max":
        name = graph.node("MaxPool", first, **shape)
    else:
        average = graph.node("AveragePool", first, count_include_pad=1, **shape)
        name = graph.node("Mul", average, np.asarray(np.prod(shape["kernel_shape"]), x.dtype))
    return _permuted(graph, name, [0, *range(2, rank), 1])


def _broadcast(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    x, axes = operands[0], params["broadcast_dimensions"]
    shape = [x.shape[axes.index(axis)] if axis in axes else 1 for axis in range(len(out.shape))]
    name = _reshaped(graph, _name(x), x.shape, shape)
    return name if tuple(shape) == tuple(out.shape) else graph.node("Expand", name, integers(*out.shape))


def _reduce(kind: str, graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    axes = [int(axis) for axis in params["axes"]]
    if kind == "ReduceSum":  # the only one that takes axes as an input in this operator set
        return graph.node(kind, _name(operands[0]), integers(*axes), keepdims=0)
    return graph.node(kind, _name(operands[0]), axes=axes, keepdims=0)


def _gather(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    """Whole rows of an array, as embeddings are."""
    x, indices = operands
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    axes, positions = numbers.collapsed_slice_dims, indices.shape[:-1]
    whole = len(axes) == 1 and tuple(numbers.start_index_map) == tuple(axes) and indices.shape[-1] == 1
    whole = whole and all(size == (1 if axis in axes else n) for axis, (size, n) in enumerate(zip(sizes, x.shape)))
    whole = whole and not numbers.operand_batching_dims
    require(whole, "a gather of anything but whole rows")
    (axis,) = axes
    kept = [*range(axis), *range(axis + len(positions), len(out.shape))]
    require(list(numbers.offset_dims) == kept, "a gather into another order of axes")
    rows = _reshaped(graph, _name(indices), indices.shape, positions)
    return graph.node("Gather", _name(x), rows, axis=int(axis))


def _select(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    which, *cases = operands
    require(len(cases) == 2 and which.dtype == np.bool_, "a selection among more than two")
    return graph.node("Where", _name(which), _name(cases[1]), _name(cases[0]))


def _pad(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    low, high, inner = zip(*params["padding_config"])
    require(not any(inner) and min(*low, *high) >= 0, "padding between elements")
    return graph.node("Pad", _name(operands[0]), integers(*low, *high), _name(operands[1]))


def _slice(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    rank = len(operands[0].shape)
    columns = (params["start_indices"], params["limit_indices"], range(rank), params["strides"] or (1,) * rank)
    return graph.node("Slice", _name(operands[0]), *(integers(*column) for column in columns))


def _split(graph: Graph, x: Value, params: Mapping[str, Any], outs: Sequence[Any]) -> list[Value]:
    ends = np.cumsum(params["sizes"])
    return [
        Tensor(
            graph.node("Slice", _name(x), *(integers(n) for n in (end - size, end, params["axis"]))),
            out.shape,
            out.dtype,
        )
        for end, size, out in zip(ends, params["sizes"], outs)
    ]


def _cast(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    return graph.node("Cast", _name(operands[0]), to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(out.dtype)))


def _power(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    name, exponent = _name(operands[0]), params.get("y", 2)
    if exponent in (2, 3):  # which Pow takes far longer for
        square = graph.node("Mul", name, name)
        return square if exponent == 2 else graph.node("Mul", square, name)
    return graph.node("Pow", name, np.asarray(exponent, out.dtype))


def _clamp(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    low, x, high = map(_name, operands)
    return graph.node("Min", graph.node("Max", x, low), high)


def _chain(*kinds: str) -> Callable[..., str]:
    """One node after the other."""

    def convert(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
        names = [_name(operand) for operand in operands]
        for kind in kinds:
            names = [graph.node(kind, *names)]
        return names[0]

    return convert


def _reshape(graph: Graph, operands: list[Value], out: Any, params: Mapping[str, Any]) -> str:
    require(params.get("dimensions") is None, "a reshape that permutes")
    return _reshaped(graph, _name(operands[0]), operands[0].shape, out.shape)


_CONVERTERS: dict[str, Callable[[Graph, list[Value], Any, Mapping[str, Any]], str]] = {
    "argmax": lambda graph, operands, out, params: graph.node(
        "Cast",
        graph.node("ArgMax", _name(operands[0]), axis=int(params["axes"][0]), keepdims=0),
        to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(out.dtype)),
    ),
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": lambda graph, operands, out, params: graph.node(
        "Concat", *map(_name, operands), axis=int(params["dimension"])
    ),
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "cumsum": lambda graph, operands, out, params: graph.node(
        "CumSum", _name(operands[0]), np.asarray(params["axis"], np.int64), reverse=int(params["reverse"])
    ),
    "dot_general": _product,
    "erfc": lambda graph, operands, out, params: graph.node(
        "Sub", np.ones((), out.dtype), graph.node("Erf", _name(operands[0]))
    ),
    "expm1": lambda graph, operands, out, params: graph.node(
        "Sub", graph.node("Exp", _name(operands[0])), np.ones((), out.dtype)
    ),
    "gather": _gather,
    "integer_pow": _power,
    "log1p": lambda graph, operands, out, params: graph.node(
        "Log", graph.node("Add", _name(operands[0]), np.ones((), out.dtype))
    ),
    "ne": _chain("Equal", "Not"),
    "pad": _pad,
    "reduce_max": functools.partial(_reduce, "ReduceMax"),
    "reduce_min": functools.partial(_reduce, "ReduceMin"),
    "reduce_prod": functools.partial(_reduce, "ReduceProd"),
    "reduce_sum": functools.partial(_reduce, "ReduceSum"),
    "rem": lambda graph, operands, out, params: graph.node("Mod", *map(_name, operands), fmod=1),
    "reduce_window_max": functools.partial(_pool, "max"),
    "reduce_window_sum": functools.partial(_pool, "sum"),
    "reshape": _reshape,
    "rsqrt": _chain("Sqrt", "Reciprocal"),
    "select_n": _select,
    "slice": _slice,
    "square": _power,
    "squeeze": lambda graph, operands, out, params: _reshape(graph, operands, out, {}),
    "transpose": lambda graph, operands, out, params: _permuted(graph, _name(operands[0]), params["permutation"]),
}
