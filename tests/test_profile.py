"""Profiles: traces of the second program of each phase, and operations that carry the names of their parts."""

import jax
import jax.numpy as jnp
import pytest

from experiments import cifar_search, cli
from jaxnas import spaces, supernet
from jaxnas.runtime.profile import ProfileListener
from tests import tiny_search

pytestmark = pytest.mark.long


def traces(folder):
    """The phases that have a trace with something in it."""
    return {path.relative_to(folder).parts[0] for path in folder.rglob("*.xplane.pb") if path.stat().st_size > 1000}


def follow(listener, phases):
    """A run whose programs belong to these phases."""
    program = jax.jit(lambda x: x @ x)
    listener.on_start(None)
    for phase in phases:
        program(jnp.ones((8, 8))).block_until_ready()
        listener.on_steps([{"step": 1, "phase": phase}])


def test_the_second_program_of_each_phase_is_traced(tmp_path, caplog):
    listener = ProfileListener(tmp_path)
    follow(listener, ["weights"] * 3 + ["distributions"] * 2)
    listener.on_end()
    assert traces(tmp_path) == {"weights", "distributions"}
    assert not caplog.records
    with pytest.raises(RuntimeError):  # none is running
        jax.profiler.stop_trace()


def test_a_run_that_ends_before_says_so(tmp_path, caplog):
    listener = ProfileListener(tmp_path)
    follow(listener, ["weights"])
    listener.on_end()
    assert "profile of weights may hold no whole program" in caplog.text
    with pytest.raises(RuntimeError):
        jax.profiler.stop_trace()


def test_a_folder_that_cannot_be_made_ends_the_run_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        ProfileListener(tmp_path / "file" / "profile").on_start(None)


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (tiny_search.tiny(), ("stem", "layer_1", "layer_2", "head")),
        (spaces.nasbench201(channels=4, cells=1, image_size=8), ("stem", "stage_1", "reduction_1", "stage_3", "head")),
    ],
)
def test_operations_carry_the_names_of_their_parts(space, names):
    module = supernet.build(space)
    params = jax.eval_shape(module.init_params, jax.random.key(0))
    images, arch = jnp.zeros((2, 8, 8, 3)), jnp.zeros(len(space.num_choices), jnp.int32)
    lowered = jax.jit(lambda p, x, a: module.apply({"params": p}, x, a)).lower(params, images, arch)
    text = lowered.as_text(debug_info=True)
    for name in names:
        assert f"/{name}/" in text, name


def test_a_search_writes_a_profile(tmp_path):
    options = "--preset quickstart --space tiny --weight-steps 6 --distribution-steps 4 --steps-per-dispatch 2"
    options += " --batch-size 16 --candidates 0 --finish-steps 2"
    profile = tmp_path / "profile"
    command = [*options.split(), "--workdir", str(tmp_path / "run"), "--profile", str(profile)]
    cli.run(cifar_search.main, cifar_search.Config, command)
    assert traces(profile) == {"weights", "distributions", "finishing"}
