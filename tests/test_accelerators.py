"""Programs compiled for accelerators that are not there: targets as data, the steps of searches, rows of a file."""

import itertools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import accelerators, hlo_counts, networks, step_programs, targets
from benchmarks.step_programs import Case
from benchmarks.targets import Target
from jaxnas import supernet
from jaxnas.runtime.placement import AllDevices, OneDevice
from jaxnas.supernet.mbconv_block import ONES
from tests import tiny_search

SMALL = Case("benchmark", "weights", "float32", "map", batch_size=4, samples=2, width=0.25, image_size=8)


def test_bounds_are_the_makers_figures():
    one, eight = Target("v5e-1"), Target("v5e-8")
    assert (one.count, eight.count, Target("h100").count) == (1, 8, 1)
    assert one.seconds("bfloat16", 197e12, 819e9, 1e9) == {"compute": 1.0, "memory": 1.0, "exchange": 0.0}
    # A ring sends 7 parts of 8 twice: once to add up, once to spread the sum.
    assert eight.seconds("float32", 0, 0, 200e9)["exchange"] == 2 * 7 / 8
    assert Target("h100").seconds("float32", 494e12, 0, 0)["compute"] == 1.0


def test_every_chip_is_described_in_full():
    for name, chip in targets.chips().items():
        assert chip.backend in ("tpu", "gpu")
        assert set(chip.flops) == {"float32", "bfloat16"}
        assert chip.memory_bytes % 2**30 == 0, name
        # Arithmetic is faster than memory everywhere: some hundred operations a byte.
        assert 20 < chip.flops["bfloat16"] / chip.memory_bandwidth < 1000
    assert targets.names() == ("h100", "v5e-1", "v5e-4", "v5e-8", "v6e-1", "v6e-4", "v6e-8")


def test_what_is_asked_for():
    config = accelerators.Config(target=("v5e-1", "h100"), distributions=(1, 16), samples=16)
    cases = list(config.cases())
    assert len(cases) == len(set(cases)) == 2 * 2 * 2 * 2 * 2
    assert {case.search for _, case in cases} == {"benchmark"}
    preset = accelerators.Config(target=("v5e-8",), preset="full", program=("weights",), batching=("vmap",))
    assert [case.search for _, case in preset.cases()] == ["cifar"] * 2 + ["imagenet"] * 2
    for wrong, message in (
        ({"target": ("v5e-3",)}, "target must be one of .*, got 'v5e-3'"),
        ({"network": "mine"}, "network must be one of benchmark, got 'mine'"),
        ({"network": "benchmark", "preset": "full"}, "either network or preset"),
        ({"program": ("both",)}, "program must be one of weights, distributions, got 'both'"),
        ({"precision": ("float16",)}, "precision must be one of float32, bfloat16, got 'float16'"),
        ({"batching": ("auto",)}, "batching must be one of vmap, map, got 'auto'"),
        ({"distributions": (3,), "samples": 4}, "samples must be a multiple of distributions, got 4 and 3"),
    ):
        with pytest.raises(ValueError, match=message):
            list(accelerators.Config(**wrong).cases())


def test_useful_work_is_the_mean_over_all_networks():
    space = tiny_search.tiny()
    archs = np.array(list(itertools.product(*(range(count) for count in space.num_choices))))
    mean = space.cost("macs").total(archs).mean()
    for program, passes in (("weights", 3), ("distributions", 1)):
        np.testing.assert_allclose(step_programs.useful_flops(program, space, 4, 8), passes * 2 * 4 * 8 * mean)


def test_what_is_executed_one_after_the_other_is_what_is_useful():
    space = tiny_search.tiny()
    module = supernet.build(space, backend="tpu")
    params = jax.eval_shape(module.init_params, jax.random.key(0))
    archs = jax.ShapeDtypeStruct((3, len(space.num_choices)), np.int32)
    images, labels = jax.ShapeDtypeStruct((4, 8, 8, 3), np.float32), jax.ShapeDtypeStruct((4,), np.int32)

    def program(params, images, labels, archs):
        def apply(params, images, arch):
            return module.apply({"params": params}, images, arch)

        return supernet.evaluate(apply, params, images, labels, archs, batching="map")

    counts = hlo_counts.count(jax.jit(program).lower(params, images, labels, archs).compile().as_text())
    assert counts.unknown_loops == 0
    stem, rest = mean_products(space)
    statistics = 3 * 2 * products_of_statistics(space, 4)
    # The compiler may take the stem, which is the same for all, out of the loop over architectures.
    expected = [4 * 2 * (3 * rest + times * stem) for times in (1, 3)]
    assert any(counts.flops - statistics == pytest.approx(value, rel=1e-12) for value in expected)
    assert counts.flops - statistics < step_programs.useful_flops("distributions", space, 3, 4)


def mean_products(space):
    """Multiply-adds of an image in stem and rest, the mean over all networks: taps that meet a pixel, by hand."""
    first, last = space.layers[0], space.layers[-1]
    stem = 3 * space.stem_channels * taps(3, first.resolution * space.stem_stride, space.stem_stride)
    total = last.out_resolution**2 * last.out_channels * space.head_channels + space.head_channels * space.num_classes
    for layer in (*space.fixed_layers, *space.layers):
        products = []
        for operation in layer.operations:
            inner, pixels = layer.in_channels * operation.expansion, layer.out_resolution**2
            if operation.is_skip:
                products.append(0 if layer.keeps_shape else pixels * layer.in_channels * layer.out_channels)
                continue
            expand = layer.resolution**2 * layer.in_channels * inner if operation.expansion > 1 else 0
            depthwise = inner * taps(operation.kernel, layer.resolution, layer.stride)
            products.append(expand + depthwise + pixels * inner * layer.out_channels)
        total += np.mean(products)
    return stem, total


def products_of_statistics(space, images):
    """Multiply-adds by which batch norm knows the expansion from its input: the mean over all networks, by hand.

    The covariance of the input, the columns of ones behind it, and the variances that follow from the covariance.
    """
    total = 0
    for layer in (*space.fixed_layers, *space.layers):
        products, channels = [], layer.in_channels
        for operation in layer.operations:
            inner, pixels = channels * operation.expansion, images * layer.resolution**2
            pays = not operation.is_skip and operation.expansion > 1
            products.append(
                pays * (pixels * ((channels + ONES) ** 2 + ONES * inner) + channels**2 * inner),
            )
        total += np.mean(products)
    return total


def taps(kernel, size, stride):
    reach = kernel // 2
    along = sum(0 <= place + offset < size for place in range(0, size, stride) for offset in range(-reach, reach + 1))
    return along**2


def test_a_step_is_traced_for_what_was_asked():
    case = Case("benchmark", "distributions", "bfloat16", "map", 2, samples=4, batch_size=4, width=0.25, image_size=8)
    step = step_programs.build(case, OneDevice(), "tpu")
    assert step.samples == 4
    assert step.useful_flops == step_programs.useful_flops("distributions", networks.benchmark_space(0.25, 8), 4, 4)
    state, minibatch, _ = step.lowered.args_info[0]
    assert state.params["stem"]["kernel"].donated
    assert minibatch.images.shape == (1, 4, 8, 8, 3)


def test_arguments_of_many_devices_have_an_axis_for_them():
    one, two = OneDevice(), AllDevices(meant=(object(), object()))
    tree = {"key": jax.random.key(0), "x": np.zeros((3, 4), np.int8)}
    assert one.shapes(tree)["x"].shape == (3, 4)
    assert two.count == 2
    assert two.shapes(tree)["x"].shape == (2, 3, 4)
    assert two.shapes(tree)["key"].data.shape == (2, 2)


def row(**changes):
    figures = {"compile_seconds": 1.0, "flops": 2e9, "useful_flops": 1e9, "bytes_accessed": 3e9, "memory_bytes": 2e9}
    figures |= {"temp_bytes": 2**30, "peak_bytes": 2**31, "all_reduce_bytes": 0.0, "roofline_seconds": 0.0024}
    return {**accelerators.row(Target("v5e-1"), SMALL), "asked_samples": 2, **figures, **changes}


def test_rows_that_are_in_the_file_are_not_compiled_again(tmp_path, capsys, monkeypatch):
    out = tmp_path / "figures.json"
    out.write_text(json.dumps({"rows": [row(), row(batching="vmap", error="did not compile within 5 s")]}))
    monkeypatch.setattr(Target, "missing", None)
    asked = accelerators.Config(
        target=("v5e-1",), program=("weights",), precision=("float32",), samples=2, batch_size=4, width=0.25,
        image_size=8, out=out,
    )  # fmt: skip
    accelerators.main(asked)
    printed = capsys.readouterr().out
    assert "2.40" in printed
    assert "did not compile within 5 s" in printed
    out.write_text("[]")
    with pytest.raises(ValueError, match="out must name a file of this program"):
        accelerators.main(asked)


def test_a_compiler_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"TPU v5e is not installed: pip install -e '.\[aot-tpu\]'"):
        accelerators.main(accelerators.Config(target=("v5e-1",)))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["v5e-1", "v5e-8", "h100"])
def test_a_small_step_compiles(tmp_path, target):
    """In a process of its own, where the compiler is installed."""
    missing = Target(target).missing
    if missing is not None:
        pytest.skip(missing)
    out = tmp_path / "figures.json"
    options = "--program weights --precision bfloat16 --batching vmap --batch-size 8 --width 0.25 --image-size 8"
    command = [sys.executable, "-m", "benchmarks.accelerators", "--target", target, *options.split(), "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(command, check=True, env=environment)
    (only,) = json.loads(out.read_text())["rows"]
    assert "error" not in only
    assert only["useful_flops"] < only["flops"] < 3 * only["useful_flops"]
    assert 0 < only["memory_bytes"] <= only["bytes_accessed"]
    assert only["unknown_loops"] == 0
    assert only["aliased_bytes"] >= 0.95 * only["output_bytes"]  # the state is donated
    if target == "v5e-8":
        parameters = networks.benchmark_space(0.25, 8).cost("params").lowest
        assert only["all_reduce_bytes"] > 4 * parameters
    else:
        assert only["all_reduces"] == 0
