"""What a compiled program does, counted: programs whose operations and bytes are known by hand."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import hlo_counts, hlo_text

# As the TPU compiler writes: tiles, memory spaces, a loop without its trip count, slices and updates within fusions.
LOOP = """
    HloModule jit_f, is_scheduled=true

    %fused (table: bf16[6,16,128], index: s32[], x: bf16[16,128]) -> (bf16[16,128], bf16[6,16,128]) {
      %table = bf16[6,16,128]{2,1,0:T(8,128)(2,1)} parameter(0)
      %index = s32[]{:T(128)S(6)} parameter(1)
      %x = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} parameter(2)
      %zero = s32[]{:T(128)} constant(0)
      %one = bf16[1,16,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%table, %index, %zero, %zero), dynamic_slice_sizes={1,16,128}
      %row = bf16[16,128]{1,0:T(8,128)(2,1)} bitcast(%one)
      %sum = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} add(%row, %x)
      %back = bf16[1,16,128]{2,1,0:T(8,128)(2,1)} bitcast(%sum)
      %written = bf16[6,16,128]{2,1,0:T(8,128)(2,1)} dynamic-update-slice(%table, %back, %index, %zero, %zero)
      ROOT %both = (bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, bf16[6,16,128]{2,1,0:T(8,128)(2,1)}) tuple(%sum, %written)
    }

    %body (state: (s32[], bf16[16,128], bf16[6,16,128], s32[])) -> (s32[], bf16[16,128], bf16[6,16,128], s32[]) {
      %state = (s32[]{:T(128)}, bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, bf16[6,16,128]{2,1,0:T(8,128)(2,1)}, /*index=3*/s32[]{:T(128)}) parameter(0)
      %i = s32[]{:T(128)} get-tuple-element(%state), index=0
      %step = s32[]{:T(128)} get-tuple-element(%state), index=3
      %i.copy = s32[]{:T(128)S(6)} copy(%i)
      %next = s32[]{:T(128)S(6)} add(%i.copy, %step)
      %x.1 = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state), index=1
      %table.1 = bf16[6,16,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=2
      %call = (bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, bf16[6,16,128]{2,1,0:T(8,128)(2,1)}) fusion(%table.1, %i.copy, %x.1), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/while/body=%other/add"}
      %x.2 = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%call), index=0
      %table.2 = bf16[6,16,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%call), index=1
      ROOT %result = (s32[]{:T(128)}, bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, bf16[6,16,128]{2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) tuple(%next, %x.2, %table.2, %step)
    }

    %condition (state.1: (s32[], bf16[16,128], bf16[6,16,128], s32[])) -> pred[] {
      %bound = s32[]{:T(128)} constant(6)
      %state.1 = (s32[]{:T(128)}, bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, bf16[6,16,128]{2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) parameter(0)
      %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
      ROOT %less = pred[]{:T(512)} compare(%i.1, %bound), direction=LT
    }

    ENTRY %main (x.3: bf16[16,128], table.3: bf16[6,16,128]) -> bf16[16,128] {
      %x.3 = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
      %table.3 = bf16[6,16,128]{2,1,0:T(8,128)(2,1)} parameter(1)
      %copy-start = (bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, bf16[16,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%x.3)
      %x.4 = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
      %first = s32[]{:T(128)} constant(FIRST)
      %by = s32[]{:T(128)} constant(BY)
      %start = (s32[]{:T(128)}, bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, bf16[6,16,128]{2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) tuple(%first, %x.4, %table.3, %by)
      %loop = (s32[]{:T(128)}, bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, bf16[6,16,128]{2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) while(%start), condition=%condition, body=%body
      ROOT %x.5 = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%loop), index=1
    }
"""  # noqa: E501
ROW = 16 * 128 * 2


def loop(first=0, by=1):
    return textwrap.dedent(LOOP).replace("FIRST", str(first)).replace("BY", str(by))


@pytest.mark.parametrize(("first", "by", "trips"), [(0, 1, 6), (2, 1, 4), (0, 2, 3), (1, 2, 3), (6, 1, 0)])
def test_a_loop_counts_as_often_as_it_runs(first, by, trips):
    counts = hlo_counts.count(loop(first, by))
    once = hlo_counts.count(loop(first, by), loops_once=True)
    assert counts.elementwise == trips * (16 * 128 + 1) + trips  # the fused sum, the counter's; the condition's compare
    assert once.elementwise == 16 * 128 + 2
    assert counts.unknown_loops == 0
    # In the device's memory: x once, and of the table a row read and a row written each time. A single number takes 512
    # bytes: those of the comparison (three), the counter to be copied, and the step.
    assert counts.memory_bytes == ROW + trips * (2 * ROW + 5 * 512)
    # On the chip: x copied to it; x read and written each time; the counter written, read twice, and its successor.
    assert counts.bytes_accessed - counts.memory_bytes == ROW + trips * (2 * ROW + 4 * 512)
    assert counts.moved_bytes == 0  # x and the counter only come to the chip


def test_a_loop_without_a_known_trip_count_is_reported():
    text = loop().replace("direction=LT", "direction=NE")
    assert hlo_counts.count(text).unknown_loops == 1
    assert hlo_counts.count(text).elementwise == hlo_counts.count(text, loops_once=True).elementwise


def test_slices_that_are_fetched_and_arrays_that_are_laid_out_anew():
    text = """
    HloModule jit_f

    ENTRY %main (x: bf16[4,16,128]) -> bf16[16,512] {
      %x = bf16[4,16,128]{2,1,0:T(8,128)(2,1)} parameter(0)
      %one = ((bf16[4,16,128]{2,1,0:T(8,128)(2,1)}), bf16[1,16,128]{2,1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:1], [0:16], [0:128]}
      %two = bf16[1,16,128]{2,1,0:T(8,128)(2,1)S(1)} slice-done(%one)
      %named = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} custom-call(%two), custom_call_target="ConcatBitcast"
      %turned = bf16[4,16,128]{2,0,1:T(8,128)(2,1)} copy(%x)
      ROOT %flat = bf16[16,512]{1,0:T(8,128)(2,1)} reshape(%turned)
    }
    """  # noqa: E501
    counts = hlo_counts.count(textwrap.dedent(text))
    padded = 16 * 8 * 128 * 2  # of four rows to a tile of eight, where these are the second to last axis in memory
    assert counts.moved_bytes == (4 * ROW + padded) + (padded + 4 * ROW)
    assert counts.memory_bytes == ROW + counts.moved_bytes
    assert counts.bytes_accessed == 2 * ROW + counts.moved_bytes
    assert counts.kernels == 3
    assert not counts.library_calls


def test_a_conditional_counts_as_the_mean_of_its_branches():
    text = """
    HloModule jit_f

    %double (x: f32[8,4]) -> f32[8,4] {
      %x = f32[8,4]{1,0} parameter(0)
      ROOT %y = f32[8,4]{1,0} add(%x, %x)
    }

    %product (x.1: f32[8,4]) -> f32[8,4] {
      %x.1 = f32[8,4]{1,0} parameter(0)
      %w = f32[4,4]{1,0} constant({...})
      ROOT %y.1 = f32[8,4]{1,0} dot(%x.1, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
    }

    ENTRY %main (choice: s32[], x.2: f32[8,4]) -> f32[8,4] {
      %choice = s32[] parameter(0)
      %x.2 = f32[8,4]{1,0} parameter(1)
      ROOT %y.2 = f32[8,4]{1,0} conditional(%choice, %x.2, %x.2), branch_computations={%double, %product}
    }
    """
    counts = hlo_counts.count(textwrap.dedent(text))
    assert counts.flops == 2 * 8 * 4 * 4 / 2
    assert counts.elementwise == 8 * 4 / 2
    assert counts.bytes_accessed == (4 * (32 + 32 + 32) + 4 * (32 + 16 + 32)) / 2
    assert counts.kernels == 1


def test_exchanges_and_calls_of_libraries():
    text = """
    HloModule jit_f

    %add (a: f32[], b: f32[]) -> f32[] {
      %a = f32[] parameter(0)
      %b = f32[] parameter(1)
      ROOT %c = f32[] add(%a, %b)
    }

    ENTRY %main (x: bf16[2,8,8,16], k: bf16[16,3,3,1], g: f32[10], h: f32[6]) -> bf16[2,8,8,16] {
      %x = bf16[2,8,8,16]{3,2,1,0} parameter(0)
      %k = bf16[16,3,3,1]{3,2,1,0} parameter(1)
      %g = f32[10]{0} parameter(2)
      %h = f32[6]{0} parameter(3)
      %both = (f32[10]{0}, f32[6]{0}) all-reduce(%g, %h), replica_groups={{0,1}}, to_apply=%add
      %start = f32[6]{0} all-reduce-start(%h), replica_groups={{0,1}}, to_apply=%add
      %done = f32[6]{0} all-reduce-done(%start)
      %conv = (bf16[2,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, feature_group_count=16, custom_call_target="__cudnn$convForward"
      %y = bf16[2,8,8,16]{3,2,1,0} get-tuple-element(%conv), index=0
      %wide = (bf16[16,3,3,1]{3,2,1,0}, u8[64]{0}) custom-call(%x, %y), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, feature_group_count=16, custom_call_target="__cudnn$convBackwardFilter"
      ROOT %z = bf16[2,8,8,16]{3,2,1,0} bitcast(%y)
    }
    """  # noqa: E501
    counts = hlo_counts.count(textwrap.dedent(text))
    assert counts.collectives == {"all-reduce": 2}
    assert counts.all_reduce_bytes == 4 * (10 + 6 + 6)
    assert counts.library_calls == {"__cudnn$convForward": 1, "__cudnn$convBackwardFilter": 1}
    taps = (8 + 7 + 7) ** 2  # of a row: the middle tap meets 8 inputs, the outer ones 7
    assert counts.flops == 2 * (2 * taps * 2 * 16)


def compiled(function, *shapes):
    return jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile()


def test_a_compiled_scan_of_matrix_products():
    """Each trip multiplies [64, 128] by [128, 128]; what is added to a program by a trip is known by hand."""

    def program(x, weights):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]

    counts = {trips: hlo_counts.count(compiled(program, (64, 128), (trips, 128, 128)).as_text()) for trips in (3, 5, 9)}
    for trips, one in counts.items():
        assert one.flops == trips * 2 * 64 * 128 * 128
        assert one.unknown_loops == 0
    by_trip = [
        (counts[5].bytes_accessed - counts[3].bytes_accessed) / 2,
        (counts[9].bytes_accessed - counts[5].bytes_accessed) / 4,
    ]
    assert by_trip[0] == by_trip[1]
    product = 4 * (64 * 128 + 128 * 128 + 64 * 128)
    weights = 4 * 2 * 128 * 128  # taken out of the table, where the compiler does so
    assert product <= by_trip[0] <= product + weights + 4 * 64 * 128 * 2 + 64
    once = hlo_counts.count(compiled(program, (64, 128), (9, 128, 128)).as_text(), loops_once=True)
    assert once.flops == 2 * 64 * 128 * 128


def taps_of_ones(size, kernel, stride, padding, spread, dilation):
    """A convolution of ones with ones along one axis: its outputs, and their sum, which is the number of products."""
    signal = np.zeros((size - 1) * spread + 1)
    signal[::spread] = 1
    signal = np.pad(signal, padding)
    reach = dilation * (kernel - 1) + 1
    outputs = [signal[begin : begin + reach : dilation].sum() for begin in range(0, len(signal) - reach + 1, stride)]
    return len(outputs), sum(outputs)


@given(
    size=st.integers(5, 9),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    padding=st.integers(2, 4),
    spread=st.integers(1, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
)
def test_convolutions_count_the_taps_that_meet_an_input(size, kernel, stride, padding, spread, dilation, groups):
    outputs, taps = taps_of_ones(size, kernel, stride, padding, spread, dilation)

    def both(name, value):
        return f"{name}={value}x{value}"

    window = [both("size", kernel), both("pad", f"{padding}_{padding}")]
    window += [both("stride", stride)] * (stride > 1) + [both("lhs_dilate", spread)] * (spread > 1)
    window += [both("rhs_dilate", dilation)] * (dilation > 1)
    text = f"""
    ENTRY %main (x: f32[2,{size},{size},4], w: f32[{kernel},{kernel},{4 // groups},8]) -> f32[] {{
      %x = f32[2,{size},{size},4]{{3,2,1,0}} parameter(0)
      %w = f32[{kernel},{kernel},{4 // groups},8]{{3,2,1,0}} parameter(1)
      ROOT %y = f32[2,{outputs},{outputs},8]{{3,2,1,0}} convolution(%x, %w), window={{{" ".join(window)}}}, \
dim_labels=b01f_01io->b01f, feature_group_count={groups}
    }}
    """
    assert hlo_counts.count(textwrap.dedent(text)).flops == 2 * 2 * (4 // groups) * 8 * taps**2


def test_bytes_of_whole_tiles():
    line = "%x = (bf16[64,16]{0,1:T(8,128)(2,1)}, f32[3]{0:T(256)S(1)}, pred[], f32[2,3,5]{1,2,0}) custom-call()"
    first, second, third, fourth = hlo_text.parse(f"ENTRY %main () -> f32[] {{\n  ROOT {line}\n}}").root("main").arrays
    assert (first.bytes, first.space) == (16 * 128 * 2, 0)  # the axis of 64 is the minor one
    assert (second.bytes, second.space) == (256 * 4, 1)
    assert (third.bytes, third.size) == (1, 1)
    assert fourth.bytes == 2 * 3 * 5 * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("HloModule jit_f", "ENTRY computation"),
        ("ENTRY %main () -> f32[] {\n  no instruction\n}", "cannot read this line"),
        ("ENTRY %main () -> f32[] {\n  ROOT %x = what parameter(0)\n}", "cannot read a shape"),
        ("ENTRY %main () -> f32[] {\n  ROOT %x = f32[] 7\n}", "cannot read the opcode"),
    ],
)
def test_text_that_is_no_program(text, message):
    with pytest.raises(ValueError, match=message):
        hlo_text.parse(text)
