"""Calls of JAX functions by ONNX Runtime."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnxruntime

from jaxnas.export.onnx_function import to_onnx
from jaxnas.export.onnx_operations import UnsupportedOperationError


def compiled(function: Callable[..., Any], *arguments: Any, threads: int = 1) -> Callable[[], list[np.ndarray]]:
    """A call of a function by ONNX Runtime, on the processor: to the leaves of what the function returns.

    Args:
      function: arrays to arrays.
      *arguments: of the call.
      threads: that ONNX Runtime computes with. Several do not spin while they wait, which would disturb all that is
        timed beside them.

    Raises:
      ValueError: in one line, if the function has an operation that is not known here, or ONNX Runtime refuses it.
    """
    try:
        model = to_onnx(function, *arguments)
    except UnsupportedOperationError as error:
        raise ValueError(f"the model cannot be run by onnxruntime: {error}; use runtime='jax'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common class but this
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} refuses the model, use runtime='jax': "
            f"{str(error).splitlines()[0]:.300}"
        ) from error
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(arguments)]
    given = {each.name: leaves[int(each.name.removeprefix("input_"))] for each in session.get_inputs()}
    return lambda: session.run(None, given)
