"""The files that an export writes. All hold weights and architecture; images come in as float32, normalised.

The exported programs compute with XLA's own convolutions, which every backend and converter knows, not with those that
the library trains with on CPUs; the numbers agree to rounding.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.export import saved
from jaxnas.export.saved import Network
from jaxnas.results.files import replacing, to_plain

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
INPUT, OUTPUT = "images", "logits"
# Custom calls that a program for any batch size holds: the check of shapes, done while it is compiled.
CUSTOM_CALLS = ("shape_assertion",)
_CALLS = (
    re.compile(r"custom_call\s*@\"?([^\s(\"]+)"),
    re.compile(r"call_target_name\s*=\s*\"([^\"]*)"),
    re.compile(r"\bstablehlo\.(infeed|outfeed|send|recv)\b"),
)

# Logits [B, classes] of normalised float32 images [B, H, W, 3].
Inference = Callable[[chex.Array], chex.Array]

# What ONNX Runtime says of a model whose operator set, or whose format, came out after it.
_TOO_NEW = re.compile(r"Opset \d+ is under development|Unsupported model IR version")


class FormatUnavailableError(ValueError):
    """A network cannot be written in a form, or its file not be read, for want of a package or of an operation."""


@dataclass(frozen=True)
class Format:
    """One form of export.

    Attributes:
      suffix: of its file; None where it is `network.json` and `weights.safetensors`, which every export has.
      write: (network, path of the file) -> None; FormatUnavailableError in one line if that is not possible here.
      load: path -> what computes logits.
      usage: lines of Python that use the file, called FILE in them.
    """

    suffix: str | None
    write: Callable[[Network, pathlib.Path], None]
    load: Callable[[pathlib.Path], Inference]
    usage: str


def _plain(network: Network) -> Callable[[jax.Array], jax.Array]:
    """The network as a function of normalised images alone, in operations that all backends have."""
    plain = saved.make(network.description, network.variables, convolve=jax.lax.conv_general_dilated)
    return lambda images: plain.apply(plain.variables, images)


def write_stablehlo(network: Network, path: pathlib.Path) -> None:
    """StableHLO by `jax.export`, for any batch size and all of `PLATFORMS`; XLA keeps it readable for years."""
    (batch,) = jax.export.symbolic_shape("batch")
    size = network.description.image_size
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    exported = jax.export.export(jax.jit(_plain(network)), platforms=PLATFORMS)(images)
    with replacing(path) as temporary:
        temporary.write_bytes(exported.serialize())


def load_stablehlo(path: str | os.PathLike[str]) -> Inference:
    """Reads a `.stablehlo` file.

    Returns:
      Normalised float32 images [B, H, W, 3] -> logits [B, classes].

    Raises:
      ValueError: in one line, if the file is missing, damaged or of something else.
    """
    try:
        content = saved.read_verified(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    exported = parse_stablehlo(content, path)
    try:
        accepted = _takes_images(exported)
    except Exception as error:  # whatever the avals of another program lead to
        raise ValueError(f"{path} is no StableHLO export of a network, or damaged") from error
    if not accepted:
        raise ValueError(f"{path} is no StableHLO export of a network: it does not make logits of float32 images")
    try:
        jax.jit(exported.call).lower(jax.ShapeDtypeStruct((1, *exported.in_avals[0].shape[1:]), jnp.float32))
    except Exception as error:
        raise ValueError(f"{path} is no StableHLO export of a network, or damaged") from error
    return jax.jit(exported.call)


def parse_stablehlo(content: bytes, path: str | os.PathLike[str]) -> jax.export.Exported:
    """Reads the content of a `.stablehlo` file; nothing of it is run.

    Args:
      content: of the file.
      path: of the file, for messages.

    Raises:
      ValueError: in one line, if it is damaged, or calls anything outside of StableHLO.
    """
    try:
        exported = jax.export.deserialize(bytearray(content))
        text = exported.mlir_module()
        calls = sorted({name for pattern in _CALLS for name in pattern.findall(text)} - set(CUSTOM_CALLS))
    except Exception as error:  # the reader of flat buffers raises whatever the bytes lead it to
        raise ValueError(f"{path} is no StableHLO export of a network, or damaged") from error
    if calls:
        raise ValueError(f"{path} calls code outside of StableHLO: {', '.join(calls)[:200]}; it is not run")
    return exported


def _takes_images(exported: jax.export.Exported) -> bool:
    """Whether a program is float32 [B, H, W, 3] -> float32 [B, classes]."""
    (images,), (logits,) = exported.in_avals, exported.out_avals
    shapes = len(images.shape) == 4 and images.shape[3] == 3 and len(logits.shape) == 2
    return shapes and images.dtype == logits.dtype == jnp.float32


def write_onnx(network: Network, path: pathlib.Path) -> None:
    """ONNX for any batch size, with the network's description as its metadata.

    Raises:
      FormatUnavailableError: if `onnx` is not installed, or the network has an operation that is not converted.
    """
    try:
        from jaxnas.export import onnx_operations
    except ImportError as error:
        raise FormatUnavailableError(f"format onnx needs a package: pip install 'jaxnas[export]' ({error})") from error
    size = network.description.image_size
    try:
        model = onnx_operations.to_onnx(_plain(network), (size, size, 3), network.description.space, INPUT, OUTPUT)
    except onnx_operations.UnsupportedOperationError as error:
        raise FormatUnavailableError(f"format onnx cannot be written: {error}") from error
    for name, value in to_plain(network.description).items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def load_onnx(path: str | os.PathLike[str]) -> Inference:
    """Reads an `.onnx` file into ONNX Runtime, on the CPU.

    Raises:
      FormatUnavailableError: if ONNX Runtime is not installed.
      ValueError: in one line, if the file is missing, damaged, or newer than ONNX Runtime.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise FormatUnavailableError("an onnx file needs a runtime: pip install 'jaxnas[export]'") from error
    try:
        content = saved.read_verified(path)
        external = _holds_external_data(onnx.load_model_from_string(content))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    except saved.DamagedFileError:
        raise
    except Exception as error:  # protocol buffers' exceptions have no common class but this
        raise ValueError(f"{path} is no ONNX model, or damaged") from error
    if external:
        raise ValueError(f"{path} keeps weights in other files, which are not read; save it with all in one file")
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        names = [each.name for each in (*session.get_inputs(), *session.get_outputs())]
    except Exception as error:  # ONNX Runtime's exceptions have no common class but this
        if _TOO_NEW.search(str(error)):
            raise ValueError(
                f"{path} is of a release of ONNX that onnxruntime {onnxruntime.__version__} does not read; "
                "upgrade it: pip install --upgrade onnxruntime"
            ) from error
        raise ValueError(f"{path} is no ONNX model, or damaged") from error
    if names != [INPUT, OUTPUT]:
        raise ValueError(f"{path} is no ONNX export of a network: it has {', '.join(names)[:200] or 'no input'}")
    return lambda images: session.run([OUTPUT], {INPUT: np.asarray(images, np.float32)})[0]


def _holds_external_data(message: Any) -> bool:
    """Whether a protocol buffer of ONNX, or any inside it, is a tensor that lies in another file."""
    if message.DESCRIPTOR.name == "TensorProto":
        return bool(message.external_data) or message.data_location != 0
    values = (
        each
        for field, value in message.ListFields()
        if field.message_type is not None
        for each in ([value] if hasattr(value, "DESCRIPTOR") else value)  # one, or repeated
    )
    return any(_holds_external_data(each) for each in values)


def _load_folder(path: pathlib.Path) -> Inference:
    network = saved.load(path)
    return lambda images: network.apply(network.variables, jnp.asarray(images))


_USE_FOLDER = """\
import jaxnas

network = jaxnas.load(".")  # the folder of this card
logits = network(images)  # uint8 [B, H, W, 3]"""
_USE_STABLEHLO = """\
import jax

exported = jax.export.deserialize(bytearray(open("FILE", "rb").read()))
logits = exported.call(normalised)"""
_USE_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession("FILE")
(logits,) = session.run(["logits"], {"images": normalised})"""


def _save(network: Network, path: pathlib.Path) -> None:
    saved.save(path, network.description, network.variables)


FORMATS: dict[str, Format] = {
    "flax": Format(None, _save, _load_folder, _USE_FOLDER),
    "stablehlo": Format(".stablehlo", write_stablehlo, load_stablehlo, _USE_STABLEHLO),
    "onnx": Format(".onnx", write_onnx, load_onnx, _USE_ONNX),
}
