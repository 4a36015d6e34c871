"""Programs as data: a function's jaxpr, walked through, or evaluated in another arithmetic.

`exact_form` is what two models are compared in. It computes in float32 what a model computes in a half precision, and
draws the same numbers whatever the shape of the draw, so that the difference of two models is never rounding of the
model's own or chance.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

HALVES = (np.dtype(jnp.bfloat16), np.dtype(np.float16))
# Options for programs that run a few times: they compile in a third of the time.
COMPILE_FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def compile_fast(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Compiles a function that runs a few times."""
    lowered = jax.jit(function).lower(*arguments)
    try:
        return lowered.compile(compiler_options=COMPILE_FAST)
    except Exception:  # a backend that does not know an option
        return lowered.compile()


def trace(function: Callable[..., Any], *arguments: Any) -> core.Jaxpr:
    """A function's jaxpr, without what its outputs do not depend on."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def subprograms(equation: core.JaxprEqn) -> list[core.Jaxpr]:
    """The jaxprs inside an equation: of a call, a loop's body, a conditional's branches."""
    found = []
    for value in equation.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                found.append(part.jaxpr)
            elif isinstance(part, core.Jaxpr):
                found.append(part)
    return found


def equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """All equations, those of nested jaxprs in place of the equation that calls them."""
    for equation in jaxpr.eqns:
        inner = subprograms(equation)
        if not inner:
            yield equation
        for part in inner:
            yield from equations(part)


def exact_form(function: Callable[..., Any], zero_units: bool = False) -> Callable[..., Any]:
    """The function in float32 arithmetic at least, with random bits that are all 0.

    Args:
      function: arrays to arrays.
      zero_units: whether to shift sigmoids and their kin so that they are 0 at 0, to find out whether they matter.
    """

    def evaluate(*arguments: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        used, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
        outputs = _evaluate(used, closed.consts, jax.tree.leaves(arguments), zero_units)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return evaluate


def _promote(value: Any) -> Any:
    return value.astype(jnp.float32) if getattr(value, "dtype", None) in HALVES else value


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], zero_units: bool) -> list[Any]:
    environment: dict[core.Var, Any] = {}

    def read(atom: Any) -> Any:
        return _promote(atom.val) if isinstance(atom, core.Literal) else environment[atom]

    def run(part: core.ClosedJaxpr | core.Jaxpr, values: Sequence[Any]) -> list[Any]:
        if isinstance(part, core.ClosedJaxpr):
            return _evaluate(part.jaxpr, part.consts, values, zero_units)
        return _evaluate(part, (), values, zero_units)

    for variables, values in ((jaxpr.constvars, consts), (jaxpr.invars, arguments)):
        environment.update(zip(variables, map(_promote, values)))
    for equation in jaxpr.eqns:
        with _scope(equation):
            outputs = _equation(equation, [read(atom) for atom in equation.invars], run, zero_units)
        environment.update(zip(equation.outvars, outputs))
    return [read(atom) for atom in jaxpr.outvars]


def _scope(equation: core.JaxprEqn) -> contextlib.AbstractContextManager[Any]:
    name = str(equation.source_info.name_stack)
    return jax.named_scope(name) if name else contextlib.nullcontext()


def _equation(equation: core.JaxprEqn, values: list[Any], run: Callable[..., list[Any]], zero_units: bool) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name == "random_bits":
        return [jnp.zeros(var.aval.shape, var.aval.dtype) for var in equation.outvars]
    if name == "reduce_precision":
        return values
    if zero_units and name == "logistic":
        return [jax.nn.sigmoid(values[0]) - 0.5]
    if zero_units and name == "cos":
        return [jnp.cos(values[0]) - 1]
    if zero_units and name == "log1p":  # of softplus
        return [jnp.log1p(values[0]) - jnp.log(2.0)]
    if name == "scan":
        return _scan(equation, values, run)
    if name == "while":
        return _while(params, values, run)
    if name == "cond":
        branches = [lambda *operands, branch=branch: run(branch, operands) for branch in params["branches"]]
        return jax.lax.switch(values[0], branches, *values[1:])
    if name in (
        "jit",
        "pjit",
        "remat2",
        "checkpoint",
        "closed_call",
        "core_call",
        "custom_jvp_call",
        "custom_vjp_call",
    ):
        (called,) = (params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
        return run(called, values)
    return _bind(equation, values)


def _bind(equation: core.JaxprEqn, values: list[Any]) -> list[Any]:
    def bind(values: Sequence[Any], params: dict[str, Any]) -> list[Any]:
        bound = equation.primitive.get_bind_params(params)
        functions, params = bound if isinstance(bound, tuple) else ((), bound)
        outputs = equation.primitive.bind(*functions, *values, **params)
        return list(outputs) if equation.primitive.multiple_results else [outputs]

    half = any(var.aval.dtype in HALVES for var in (*equation.invars, *equation.outvars) if hasattr(var.aval, "dtype"))
    if not half:
        return bind(values, equation.params)
    try:
        if equation.primitive.name == "bitcast_convert_type":
            raise TypeError("bits of another width")
        promoted = {
            key: np.dtype(np.float32) if key.endswith(("dtype", "element_type")) and value in HALVES else value
            for key, value in equation.params.items()
        }
        return bind(values, promoted)
    except (TypeError, ValueError):  # an equation that takes nothing but its own types
        own = [
            value.astype(var.aval.dtype) if var.aval.dtype in HALVES else value
            for var, value in zip(equation.invars, values)
        ]
        return [_promote(output) for output in bind(own, equation.params)]


def _scan(equation: core.JaxprEqn, values: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
    params = equation.params
    # What is scanned over has one axis less inside. JAX's own counts have other names in each release.
    inner = getattr(params["jaxpr"], "jaxpr", params["jaxpr"])
    inputs, outputs = (
        [outside.aval.ndim == inside.aval.ndim for outside, inside in zip(*pair)]
        for pair in ((equation.invars, inner.invars), (equation.outvars, inner.outvars))
    )
    carries = sum(outputs)
    consts = sum(inputs) - carries
    constants, carry, rest = values[:consts], values[consts : consts + carries], values[consts + carries :]

    def body(carry: list[Any], rest: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs = run(params["jaxpr"], [*constants, *carry, *rest])
        return outputs[:carries], outputs[carries:]

    carry, stacked = jax.lax.scan(body, carry, rest, length=params["length"], reverse=params["reverse"])
    return [*carry, *stacked]


def _while(params: dict[str, Any], values: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
    conditions, bodies = params["cond_nconsts"], params["body_nconsts"]
    of_condition, of_body = values[:conditions], values[conditions : conditions + bodies]
    return jax.lax.while_loop(
        lambda carry: run(params["cond_jaxpr"], [*of_condition, *carry])[0],
        lambda carry: run(params["body_jaxpr"], [*of_body, *carry]),
        values[conditions + bodies :],
    )
