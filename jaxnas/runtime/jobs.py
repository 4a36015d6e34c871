"""How the processes of a job meet, and how one of them leaves a job that is broken off."""

import ipaddress
import logging
import os
import socket
import sys

import jax

from jaxnas.runtime.devices import LostProcessError, first_line

_LOGGER = logging.getLogger(__name__)
AUTO = "auto"  # a coordinator that JAX finds itself, from Slurm, TPU metadata, Open MPI or Kubernetes
# Seconds until a silent process is given up. A killed one is noticed at once where connections break (CPUs).
HEARTBEAT_SECONDS = 30
SHUTDOWN_SECONDS = 10


def start(coordinator: str | None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the processes of a job, once; must come before anything that touches a device.

    The processes trust each other and everything that can connect to the coordinator: there is no authentication and no
    encryption. The coordinator listens on the address that is given where this host has it, else on all.

    Args:
      coordinator: "host:port" of process 0, "auto" for JAX's own cluster detection, None for a job of one process.
      num_processes: how many there are; for "auto" as detected.
      process_id: which of them this is, likewise.

    Raises:
      ValueError: if arguments are missing or contradict each other, or nothing is detected.
      LostProcessError: if the others do not come.
    """
    explicit = {"num_processes": num_processes, "process_id": process_id}
    if coordinator is None:
        given = [name for name, value in explicit.items() if value is not None]
        if given:
            raise ValueError(f"coordinator must be given with {' and '.join(given)}: host:port of process 0, or {AUTO}")
        return
    if coordinator != AUTO:
        missing = [name for name, value in explicit.items() if value is None]
        if missing:
            raise ValueError(f"{' and '.join(missing)} must be given with the coordinator {coordinator}")
        if ":" not in coordinator or not coordinator.rpartition(":")[2].isdecimal():
            raise ValueError(f"coordinator must be host:port of process 0, or {AUTO}, got {coordinator!r}")
        if num_processes < 1 or not 0 <= process_id < num_processes:
            raise ValueError(f"process_id must be from 0 to num_processes - 1, got {process_id} of {num_processes}")
    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # CPUs have no other between processes
    try:
        jax.distributed.initialize(
            None if coordinator == AUTO else coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            coordinator_bind_address=_bind_address(coordinator) if coordinator != AUTO and process_id == 0 else None,
        )
    except jax.errors.JaxRuntimeError as error:
        raise LostProcessError(
            f"the processes of the job did not meet at {coordinator}: {first_line(error)}"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"coordinator {coordinator!r} cannot be used: {first_line(error)}") from error


def _bind_address(coordinator: str) -> str | None:
    """Where process 0 listens; None for JAX's own default, every address of the host.

    That is where the name given is not of an address of this host alone: of a service in a cluster, or, as Debian has
    it, of the host itself by an address that other hosts cannot reach.
    """
    host, _, port = coordinator.rpartition(":")
    host = host.strip("[]")
    try:
        family, *_, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.bind((address[0], 0))
    except OSError as error:
        _LOGGER.warning("the coordinator listens on every address of this host: %s is none (%s)", host, error)
        return None
    if ipaddress.ip_address(address[0].partition("%")[0]).is_loopback and host not in (address[0], "localhost"):
        _LOGGER.warning("the coordinator listens on every address of this host: %s is %s here", host, address[0])
        return None
    return f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"


def abandon(code: int) -> None:
    """Ends this process at once where it belongs to a job that is broken off.

    A usual exit would wait for the other processes, and be aborted by JAX's runtime when they do not answer.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
