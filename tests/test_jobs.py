"""Processes of one job: who can reach the coordinator, and how wrong options of one end all."""

import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import pytest

from jaxnas.runtime import compilation_cache

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = textwrap.dedent("""
    import dataclasses, sys
    from experiments import cli
    from jaxnas.runtime import devices

    @dataclasses.dataclass(frozen=True)
    class Config:
        coordinator: str | None = None
        num_processes: int | None = None
        process_id: int | None = None
        noise: float = 0.0

    def main(config):
        print("up", devices.process(), flush=True)
        sys.stdin.readline()

    cli.run(main, Config, job=True)
""")


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def listening_addresses(port):
    """Addresses, in hexadecimal as /proc has them, on which something listens at a port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in pathlib.Path(table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.split(":")[1], 16) == port:
                found.add(address.split(":")[0])
    return found


@pytest.mark.long
@pytest.mark.skipif(not pathlib.Path("/proc/net/tcp").exists(), reason="needs /proc/net/tcp")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_coordinator_listens_on_the_given_address_alone(host):
    port = free_port()
    process = start(f"--coordinator={host}:{port}", "--num-processes=1", "--process-id=0")
    assert process.stdout.readline() == "up (0, 1)\n"
    loopback = {"0100007F", "0" * 16 + "FFFF0000" + "0100007F", "0" * 24 + "01000000"}  # of IPv4, in IPv6, of IPv6
    assert listening_addresses(port)
    assert listening_addresses(port) <= loopback
    _, errors = process.communicate("\n", timeout=60)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.long
@pytest.mark.parametrize("wrong", [0, 1])
def test_wrong_options_on_one_process_end_all_with_a_line(wrong):
    address = f"--coordinator=127.0.0.1:{free_port()}"
    both = [
        start(address, "--num-processes=2", f"--process-id={number}", *(["--noise=much"] if number == wrong else []))
        for number in range(2)
    ]
    lines = [process.communicate("\n", timeout=300)[1].splitlines() for process in both]
    assert [process.returncode for process in both] == [2, 2]
    for number, found in enumerate(lines):
        found = [line for line in found if line.startswith("error: ")]
        assert len(found) == 1
        assert "much" in found[0]
        assert (f"process {wrong} cannot go on" in found[0]) == (number != wrong)
    assert all("Traceback" not in line for found in lines for line in found)


def test_the_compilation_cache_is_private(tmp_path, monkeypatch):
    (tmp_path / "xla").mkdir(mode=0o755)
    before = {name: getattr(compilation_cache.jax.config, name) for name in ("jax_compilation_cache_dir",)}
    try:
        compilation_cache.jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.enable(tmp_path / "xla")
        assert (tmp_path / "xla").stat().st_mode & 0o777 == 0o700
        assert compilation_cache.jax.config.jax_compilation_cache_dir == str(tmp_path / "xla")
        compilation_cache.jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        compilation_cache.enable(tmp_path / "xla")
        assert compilation_cache.jax.config.jax_compilation_cache_dir is None
    finally:
        for name, value in before.items():
            compilation_cache.jax.config.update(name, value)


def test_damaged_entries_of_the_cache_are_removed(tmp_path):
    entry = compilation_cache.compilation_cache.compress_executable(b"\0\0\0\1program")
    contents = {"whole": entry, "cut": entry[:-3], "empty": b"", "text": b"no program"}
    for name, content in contents.items():
        (tmp_path / f"{name}-cache").write_bytes(content)
    compilation_cache._remove_damaged(tmp_path)
    assert [path.name for path in tmp_path.glob("*-cache")] == ["whole-cache"]
    # What was looked at once is not read again.
    (tmp_path / "old-cache").write_bytes(b"")
    os.utime(tmp_path / "old-cache", (0, 0))
    compilation_cache._remove_damaged(tmp_path)
    assert (tmp_path / "old-cache").exists()
