"""Shapes with layouts, flops, bytes, trip counts and memory, read from the text of compiled modules."""

from __future__ import annotations

import math

import numpy as np
import pytest

import graphopt
from graphopt.lowering.xla.aot import tpu_compiler_installed
from graphopt.lowering.xla.hlo import parse_module, parse_shapes
from graphopt.lowering.xla.memory import peak
from graphopt.lowering.xla.trips import trip_count
from graphopt.lowering.xla.work import contraction, hbm_bytes


@pytest.mark.parametrize(
    ("text", "used", "padded"),
    [
        ("f32[21,197]{1,0:T(8,128)}", 21 * 197 * 4, 24 * 256 * 4),
        ("f32[21,197]{0,1:T(8,128)}", 21 * 197 * 4, 200 * 128 * 4),  # the other dimension along the row
        ("f32[5,3]{1,0:T(8,128)S(1)}", 60, 8 * 128 * 4),
        ("bf16[2,9,128]{2,1,0:T(8,128)(2,1)}", 2 * 9 * 128 * 2, 2 * 16 * 128 * 2),
        ("pred[40,4]{0,1:T(4,128)(4,1)}", 160, 4 * 128),
        ("pred[2]{0:T(512)(128)(4,1)}", 2, 512),
        ("f32[10]{0:T(128)}", 40, 512),
        ("f32[]{:T(128)}", 4, 512),
        ("s4[3,5]{1,0}", 8, 8),
        ("f32[0,7]{1,0:T(8,128)}", 0, 0),
        ("f8e4m3fn[8,128]{1,0:T(8,128)(4,1)}", 1024, 1024),
        ("f32[<=5,128]{1,0:T(8,128)}", 5 * 128 * 4, 8 * 128 * 4),
        ("s64[2,16]{1,0:T(2,128)}", 2 * 16 * 8, 2 * 128 * 8),
    ],
)
def test_bytes_with_and_without_padding(text: str, used: int, padded: int) -> None:
    (shape,) = parse_shapes(text)
    assert (shape.used_bytes, shape.padded_bytes) == (used, padded)


def test_padded_dimensions() -> None:
    shape, other, semaphore = parse_shapes(
        "(f32[21,197]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)})"
    )
    assert shape.padded_dims == ((1, 197, 256), (0, 21, 24))
    assert other.padded_dims == ()
    assert (shape.space, other.space, semaphore.space) == (1, 0, 2)


def convolution_by_counting(
    size: int, kernel: int, stride: int, pad: tuple[int, int], base: int, window: int
) -> tuple[int, int]:
    """Outputs of one dimension, and pairs of an output and a kernel position that meet a number."""
    laid = np.zeros(pad[0] + (size - 1) * base + 1 + pad[1], int)
    laid[pad[0] : pad[0] + (size - 1) * base + 1 : base] = 1
    outputs = (len(laid) - (kernel - 1) * window - 1) // stride + 1
    return outputs, sum(int(laid[o * stride + k * window]) for o in range(outputs) for k in range(kernel))


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("stride", "base"), [(1, 1), (2, 1), (3, 4), (1, 2)])
@pytest.mark.parametrize("pad", [(0, 0), (1, 2), (4, 4)])
@pytest.mark.parametrize("window", [1, 2])
def test_convolutions_count_what_meets_numbers(
    size: int, kernel: int, stride: int, base: int, pad: tuple[int, int], window: int
) -> None:
    outputs, meetings = convolution_by_counting(size, kernel, stride, pad, base, window)
    if outputs < 1:
        return
    text = f"""ENTRY %m (a: f32[2,6,{size}], b: f32[8,3,{kernel}]) -> f32[2,8,{outputs}] {{
  %a = f32[2,6,{size}]{{2,1,0}} parameter(0)
  %b = f32[8,3,{kernel}]{{2,1,0}} parameter(1)
  ROOT %c = f32[2,8,{outputs}]{{2,1,0}} convolution(%a, %b), window={{size={kernel} stride={stride} pad={pad[0]}_{pad[1]} lhs_dilate={base} rhs_dilate={window}}}, dim_labels=bf0_oi0->bf0, feature_group_count=2, operand_precision={{highest,highest}}
}}
"""
    modules, entry = parse_module(text)
    items = {i.name: i for i in modules[entry or ""]}
    found = contraction(items["c"], items)
    assert found is not None
    assert found.flops == 2 * 2 * 8 * 3 * meetings
    assert found.passes == 6


def test_batched_products_as_the_compiler_writes_them() -> None:
    """A batch of 4 products of 5x8 by 8x5, as a convolution whose window meets one number at a time."""
    modules, entry = parse_module(
        """ENTRY %m (a: f32[4,5,8], b: f32[4,5,8]) -> f32[4,5,5] {
  %a = bf16[4,5,8]{2,1,0} parameter(0)
  %b = bf16[4,5,8]{2,1,0} parameter(1)
  ROOT %c = bf16[4,5,5]{2,1,0:T(8,128)(2,1)} convolution(%a, %b), window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0oi->0bf
}
"""
    )
    items = {i.name: i for i in modules[entry or ""]}
    found = contraction(items["c"], items)
    assert found is not None
    assert (found.flops, found.passes) == (2 * 4 * 5 * 8 * 5, 1)
    assert (
        found.occupied_flops == 2 * (4 * 8 * 128) * 128
    )  # full tiles, and a contraction of 8 fills 128 rows


BYTES = """%table (p0: f32[1000,128], p1: s32[8]) -> f32[8,128] {
  %p0 = f32[1000,128]{1,0:T(8,128)} parameter(0)
  %p1 = s32[8]{0:T(128)} parameter(1)
  ROOT %g = f32[8,128]{1,0:T(8,128)} gather(%p0, %p1), offset_dims={1}
}

%update (q0: f32[100,128], q1: f32[1,128], q2: s32[]) -> f32[100,128] {
  %q0 = f32[100,128]{1,0:T(8,128)} parameter(0)
  %q1 = f32[1,128]{1,0:T(1,128)} parameter(1)
  %q2 = s32[] parameter(2)
  ROOT %u = f32[100,128]{1,0:T(8,128)} dynamic-update-slice(%q0, %q1, %q2, %q2)
}

ENTRY %m (t: f32[1000,128], i: s32[8], c: f32[100,128], r: f32[1,128], z: s32[]) -> f32[100,128] {
  %t = f32[1000,128]{1,0:T(8,128)} parameter(0)
  %i = s32[8]{0:T(128)} parameter(1)
  %c = f32[100,128]{1,0:T(8,128)} parameter(2)
  %r = f32[1,128]{1,0:T(1,128)} parameter(3)
  %z = s32[]{:S(6)} parameter(4)
  %rows = f32[8,128]{1,0:T(8,128)} fusion(%t, %i), kind=kCustom, calls=%table
  %start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%rows)
  %here = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%start)
  %twice = f32[8,128]{1,0:T(8,128)S(1)} add(%here, %here)
  ROOT %next = f32[100,128]{1,0:T(8,128)} fusion(%c, %r, %z), kind=kLoop, calls=%update
}
"""


def test_bytes_from_and_to_hbm() -> None:
    modules, entry = parse_module(BYTES)
    items = {i.name: i for i in modules[entry or ""]}
    moved = {name: hbm_bytes(item, items, modules) for name, item in items.items()}
    assert moved["rows"] == 8 * 128 * 4 + 512 + 8 * 128 * 4  # eight rows of the table, not the table
    assert moved["start"] == 8 * 128 * 4  # read there, written on the chip
    assert moved["here"] == moved["twice"] == 0
    assert moved["next"] == 2 * 512  # one row, in place
    assert moved["t"] == 0


LOOP = """%body (s: (u32[], u32[], f32[4])) -> (u32[], u32[], f32[4]) {{
  %s = (u32[], u32[], f32[4]{{0}}) parameter(0)
  %one = u32[] constant({step})
  %low = u32[] get-tuple-element(%s), index=0
  %high = u32[] get-tuple-element(%s), index=1
  %x = f32[4]{{0}} get-tuple-element(%s), index=2
  %add = u32[] add(%low, %one)
  %over = pred[] compare(%add, %low), direction=LT
  %carried = u32[] add(%high, %one)
  %sel = u32[] select(%over, %carried, %high)
  %y = f32[4]{{0}} add(%x, %x)
  ROOT %t = (u32[], u32[], f32[4]{{0}}) tuple(%add, %sel, %y)
}}

%cond (s.1: (u32[], u32[], f32[4])) -> pred[] {{
  %s.1 = (u32[], u32[], f32[4]{{0}}) parameter(0)
  %zero = u32[] constant(0)
  %limit = u32[] constant(8)
  %low.1 = u32[] get-tuple-element(%s.1), index=0
  %high.1 = u32[] get-tuple-element(%s.1), index=1
  %same = pred[] compare(%high.1, %zero), direction=EQ
  %less = pred[] compare(%low.1, %limit), direction=LT
  ROOT %both = pred[] and(%same, %less)
}}

ENTRY %m (x0: f32[4], n: u32[]) -> (u32[], u32[], f32[4]) {{
  %x0 = f32[4]{{0}} parameter(0)
  %n = u32[] parameter(1)
  %c0 = u32[] constant({start})
  %c1 = u32[] copy({high})
  %init = (u32[], u32[], f32[4]{{0}}) tuple(%c0, %c1, %x0)
  ROOT %w = (u32[], u32[], f32[4]{{0}}) while(%init), condition=%cond, body=%body{known}
}}
"""


@pytest.mark.parametrize(
    ("start", "step", "high", "known", "trips"),
    [
        (0, 1, "%c0", "", 8),  # a 64-bit counter in two halves, as the compiler splits it
        (0, 3, "%c0", "", 3),
        (9, 1, "%c0", "", None),  # its high half is 9 as well: never equal to 0, so the body never runs …
        (0, 0, "%c0", "", None),  # it never ends
        (0, 1, "%n", "", None),  # the data say
        (0, 1, "%n", ', backend_config={"known_trip_count":{"n":"5"}}', 5),
    ],
)
def test_trip_counts(start: int, step: int, high: str, known: str, trips: int | None) -> None:
    modules, entry = parse_module(LOOP.format(start=start, step=step, high=high, known=known))
    items = {i.name: i for i in modules[entry or ""]}
    assert trip_count(items["w"], items, modules) == (0 if start == 9 else trips)


SCHEDULE = """%half (h: f32[1024,1024]) -> f32[1024,1024] {
  %h = f32[1024,1024]{1,0:T(8,128)} parameter(0)
  %big = f32[2048,1024]{1,0:T(8,128)} broadcast(%h), dimensions={}
  %small = f32[1024,1024]{1,0:T(8,128)} slice(%big), slice={[0:1024]}
  ROOT %k = f32[1024,1024]{1,0:T(8,128)} add(%small, %h)
}

ENTRY %m (x: f32[1024,1024]) -> (f32[1024,1024], f32[8,128]) {
  %x = f32[1024,1024]{1,0:T(8,128)} parameter(0), metadata={op_name="args[0][\\'fc.weight\\']"}
  %a = f32[1024,1024]{1,0:T(8,128)} tanh(%x)
  %chip = f32[1024,1024]{1,0:T(8,128)S(1)} exponential(%a)
  %view = f32[1048576]{0} bitcast(%a)
  %b = f32[1024,1024]{1,0:T(8,128)} negate(%chip)
  %called = f32[1024,1024]{1,0:T(8,128)} call(%b), to_apply=%half
  %out2 = f32[8,128]{1,0:T(8,128)} slice(%view), slice={[0:1024]}
  %out1 = f32[1024,1024]{1,0:T(8,128)} add(%called, %called)
  ROOT %t = (f32[1024,1024]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) tuple(%out1, %out2)
}
"""
MIB = 1 << 20


def test_the_peak_of_memory() -> None:
    """At the call %a (its view is used later), %b, its result, and 8 MiB within it are alive.

    Sums are written over an operand: the result's memory becomes the output's. The other output is not
    made yet.
    """
    modules, entry = parse_module(SCHEDULE)
    found = peak(modules, entry)
    assert found.at == "called"
    assert found.made_bytes == (4 + 4 + 4 + 8) * MIB
    alive = {b.name: (b.kind, b.bytes) for b in found.alive}
    assert alive == {
        "x": ("argument", 4 * MIB),
        "a": ("temporary", 4 * MIB),
        "b": ("temporary", 4 * MIB),
        "called": ("output", 4 * MIB),
    }


FUSED = """%residual (p0: f32[1024,1024], p1: f32[1024,1024], p2: f32[1024,1024]) -> f32[1024,1024] {
  %p0 = f32[1024,1024]{1,0:T(8,128)} parameter(0)
  %p1 = f32[1024,1024]{1,0:T(8,128)} parameter(1)
  %p2 = f32[1024,1024]{1,0:T(8,128)} parameter(2)
  %dot = f32[1024,1024]{1,0:T(8,128)} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %sum = f32[1024,1024]{1,0:T(8,128)} add(%dot, %OPERAND)
}

ENTRY %m (x: f32[1024,1024]) -> f32[1024,1024] {
  %x = f32[1024,1024]{1,0:T(8,128)} parameter(0)
  %a = f32[1024,1024]{1,0:T(8,128)} tanh(%x)
  %b = f32[1024,1024]{1,0:T(8,128)} negate(%x)
  ROOT %y = f32[1024,1024]{1,0:T(8,128)} fusion(%a, %x, %b), kind=kOutput, calls=%residual
}
"""


@pytest.mark.parametrize(("operand", "tensors"), [("p2", 2), ("p1", 3)])
def test_a_fusion_writes_over_what_it_reads_in_step(operand: str, tensors: int) -> None:
    """The residual is read number by number, so the result takes its place; the product's operand is not."""
    found = peak(*parse_module(FUSED.replace("OPERAND", operand)))
    assert found.made_bytes == tensors * 4 * MIB


def test_the_root_of_a_computation_may_be_its_argument() -> None:
    text = "ENTRY %m (x: f32[8,128]) -> f32[8,128] {\n  ROOT %x = f32[8,128]{1,0:T(8,128)} parameter(0)\n}\n"
    found = peak(*parse_module(text))
    assert found.made_bytes == 0
    assert [b.kind for b in found.alive] == ["argument"]


def split(x: np.ndarray, parts: int) -> list[np.ndarray]:
    """Float32 numbers as sums of bfloat16 numbers."""
    import ml_dtypes

    found = []
    for _ in range(parts):
        found.append(x.astype(ml_dtypes.bfloat16).astype(np.float64))
        x = (x - found[-1]).astype(np.float32)
    return found


@pytest.mark.parametrize(("precision", "parts", "passes"), [("fp32", 3, 6), ("tf32", 2, 3), ("bf16", 1, 1)])
def test_the_stated_errors_of_precisions(precision: str, parts: int, passes: int) -> None:
    """The products of parts that a matrix unit leaves out make up the error that the report states."""
    from graphopt.lowering.xla.report import PRECISIONS

    generator = np.random.default_rng(0)
    x, y = (generator.uniform(1, 2, 200_000).astype(np.float32) for _ in range(2))
    exact = x.astype(np.float64) * y
    xs, ys = split(x, parts), split(y, parts)
    pairs = [(i, j) for i in range(parts) for j in range(parts) if i + j < parts]
    assert len(pairs) == passes
    error = np.max(np.abs(sum(xs[i] * ys[j] for i, j in pairs) - exact) / exact)
    stated = -int(PRECISIONS[precision].partition("2^")[2].partition(",")[0])
    assert 2.0 ** -(stated + 3) < error <= 2.0**-stated
    assert f"{passes} " in PRECISIONS[precision]
    assert math.isfinite(error)


@pytest.mark.tpu_compiler
@pytest.mark.skipif(
    not tpu_compiler_installed(), reason="libtpu is not installed: pip install 'graphopt[tpu]'"
)
def test_the_peak_agrees_with_what_the_compiler_allots() -> None:
    """256 MiB activations do not fit on the chip: what is alive by the schedule fills the compiler's heap."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[N, 2048] x, float[2048, 2048] w) => (float[N, 2048] y) {
        a = MatMul(x, w) s = Softmax(a) b = MatMul(s, w) y = Add(b, a)
    }"""
    made = graphopt.compile(text, target="tpu:v5e", dims={"N": 32768}, precision="bf16")
    memory = made.memory
    assert memory is not None
    allotted = memory["temp"] + memory["output"]
    alive = sum(a["bytes"] for a in memory["alive_at_peak"] if a["kind"] in ("temporary", "output"))
    assert memory["temp"] > 100 * MIB
    assert 0.97 * allotted <= alive <= allotted
    assert memory["peak_made"] == alive
    nodes = {a["node"] for a in memory["alive_at_peak"] if a["kind"] == "temporary"}
    assert nodes & {row["node"] for row in (made.cost or {})["nodes"]}
