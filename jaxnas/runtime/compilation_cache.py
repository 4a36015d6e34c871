"""JAX's persistent compilation cache in the user's cache folder, so that a second start compiles nothing."""

import os
from pathlib import Path

import jax


def default_directory() -> Path:
    """`$JAXNAS_CACHE`, or `jaxnas/xla` in the user's cache folder."""
    if "JAXNAS_CACHE" in os.environ:
        return Path(os.environ["JAXNAS_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jaxnas" / "xla"


def enable(directory: Path | None = None) -> None:
    """Turns the cache on, unless the user has set JAX's own (JAX_COMPILATION_CACHE_DIR)."""
    if jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", str(directory or default_directory()))
    # Programs of a supernet are few and slow to compile; small ones are quicker compiled than looked up.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
