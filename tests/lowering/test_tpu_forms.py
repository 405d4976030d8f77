"""What the TPU compiler is given, and what it makes of it: arguments, products and copies of one layer."""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest
from rewriting import arrays, with_weights

import graphopt
from graphopt.ir import Model
from graphopt.lowering.xla.aot import tpu_compiler_installed
from graphopt.lowering.xla.export import export_model
from graphopt.lowering.xla.hlo import parse_module

WIDTH, ROWS = 256, 128

LAYER = f"""g (int64[2, {ROWS}] ids, int64[2, {ROWS}] seen, float[1000, {WIDTH}] table, float[{WIDTH}] s,
    float[{WIDTH}] b, float[{WIDTH}, {3 * WIDTH}] qkv, float[{3 * WIDTH}] qkv_bias, float[{WIDTH}, {WIDTH}] o,
    float[{WIDTH}, {4 * WIDTH}] up, float[{4 * WIDTH}, {WIDTH}] down, float zero, float low, int64[2] axes) => (float[2, {ROWS}, {WIDTH}] y) {{
    x = Gather(table, ids)
    n = LayerNormalization(x, s, b)
    p = MatMul(n, qkv)
    pb = Add(p, qkv_bias)
    q, k, v = Split<axis = -1, num_outputs = 3>(pb)
    m = Cast<to = 9>(seen)
    m4 = Unsqueeze(m, axes)
    bias = Where(m4, zero, low)
    a = Attention<q_num_heads = 4, kv_num_heads = 4>(q, k, v, bias)
    ao = MatMul(a, o)
    h = Add(ao, n)
    n2 = LayerNormalization(h, s, b)
    u = MatMul(n2, up)
    g1 = Gelu(u)
    d = MatMul(g1, down)
    y = Add(d, n2)
}}"""


def layer() -> Model:
    """A layer of a transformer with its embedding."""
    w = WIDTH
    shapes = {"table": (1000, w), "s": (w,), "b": (w,), "qkv": (w, 3 * w), "qkv_bias": (3 * w,), "o": (w, w)}
    weights = arrays(**shapes, up=(w, 4 * w), down=(4 * w, w))
    weights = {k: v if v.ndim == 1 else v * np.float32(w**-0.5) for k, v in weights.items()}
    fixed = {"zero": np.float32(0), "low": np.finfo(np.float32).min, "axes": np.array([1, 2], np.int64)}
    return with_weights(LAYER, {**weights, **fixed}, opset=23)


@pytest.fixture(scope="module")
def optimized() -> Model:
    return graphopt.optimize(layer(), target="tpu:v5e", precision="bf16").model


def test_arguments_are_bfloat16_and_products_too(optimized: Model) -> None:
    exported, _ = export_model(optimized, precision="bf16")
    hlo = exported.hlo or ""
    weights = [v for v in optimized.graph.initializers.values() if v.const_value.nbytes > 256]  # type: ignore[union-attr]
    assert {v.dtype.name for v in weights} == {"BFLOAT16"}  # type: ignore[union-attr]
    products = re.findall(r"= (\w+)\[[^\]]*\]\S* dot\(", hlo)
    assert len(products) == 6, products  # the projections of query, key and value are one, as they are small
    operands = {dtype for dtypes in _operand_types(hlo, "dot") for dtype in dtypes}
    assert operands == {"bf16"}
    # Only the interface is of 64 bits: what it is narrowed from.
    assert len(re.findall(r"= s64\[", hlo)) <= 4


def _operand_types(hlo: str, opcode: str) -> list[list[str]]:
    types = dict(re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\w+)\[", hlo, re.MULTILINE))
    found = re.findall(rf" {opcode}\(([^)]*)\)", hlo)
    return [[types[re.split(r"[ %]", name.strip())[-1]] for name in each.split(",")] for each in found]


def test_results_are_those_of_bfloat16(optimized: Model) -> None:
    """Against float32, in units of what bfloat16 rounds."""
    plain = graphopt.compile(layer(), target="xla-cpu", level=0)
    narrow = graphopt.compile(layer(), target="xla-cpu", precision="bf16")
    generator = np.random.default_rng(0)
    seen = np.ones((2, ROWS), np.int64)
    seen[1, -20:] = 0
    feeds = {"ids": generator.integers(0, 1000, (2, ROWS)), "seen": seen}
    expected, found = (e.run(feeds)["y"] for e in (plain, narrow))
    unit = float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < 2 * unit, error


@pytest.mark.tpu_compiler
@pytest.mark.skipif(
    not tpu_compiler_installed(), reason="libtpu is not installed: pip install 'graphopt[tpu]'"
)
def test_the_compiler_moves_and_converts_next_to_nothing() -> None:
    executable = graphopt.compile(layer(), target="tpu:v5e", precision="bf16")
    assert executable.cost is not None
    computations, entry = parse_module(executable.files["tpu.hlo.txt"].decode())
    items = computations[entry or ""]
    moved = sum(item.cycles or 0 for item in items if item.opcode in ("copy", "transpose"))
    assert moved < 0.02 * executable.cost["total_cycles"]
    # A bias or a scale that is widened by a kernel of its own costs as much as a small product.
    widened = [i for i in items if i.opcode == "convert" and i.elements >= WIDTH]
    assert not [i.name for i in widened if len(i.shapes[0].dims) == 1]
