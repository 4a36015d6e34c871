"""The backend that programs are written for: the only place that asks JAX for its default."""

import jax


def resolve_backend(backend: str | None = None) -> str:
    """The backend given, or that of JAX's default device: "cpu", "gpu" or "tpu".

    Give it to compile for devices that are not there. What JAX says then is the backend of this machine.
    """
    return jax.default_backend() if backend is None else backend
