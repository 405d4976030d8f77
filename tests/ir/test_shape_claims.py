"""Shapes are what is proven, not what is likely."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir
import pytest
from checking import model_from, run_onnxruntime

from graphopt.ir import DataType, SymbolicDim
from graphopt.ir.evaluate import evaluate
from graphopt.ir.io import load
from graphopt.ir.shape_claims import slice_range

HEAD = (
    "g (float[N] x, float[M] z, float[N, S, 4] w, int64[1] k, int64[2] k2, float[N, S, 129] big) => (float[Q] y) "
    "<int64[1] zero = {0}, int64[1] one = {1}, int64[1] far = {9223372036854775807}, "
    "int64[1] h = {128}, int64[1] last = {2}, int64[1] minus = {-1}, float[1] one_float = {1.0}, "
    "float[1, 128] table = {" + ", ".join(["0.0"] * 128) + "}>"
)


def shape_of(nodes: str) -> list[str]:
    model = model_from(f"{HEAD} {{ {nodes} y = Neg(r) }}")
    value = next(v for n in model.graph for v in n.outputs if v.name == "r")
    assert value.shape is not None
    return [
        "?" if isinstance(d, SymbolicDim) and str(d.value).startswith("_d") else str(d)
        for d in value.shape.dims
    ]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("r = Add(x, z)", ["?"]),
        ("r = Add(x, x)", ["N"]),
        ("a = Unsqueeze(x, one) r = Add(a, z)", ["N", "M"]),
        ("s = Shape(z) r = Expand(x, s)", ["?"]),
        ("s = Shape(x) r = Expand(x, s)", ["N"]),
        ("r = Reshape(x, k)", ["?"]),
        ("r = Unique<axis = 1>(w)", ["N", "?", "4"]),
        ("r = Unique<axis = -1>(w)", ["N", "S", "?"]),
        ("r = Unique(w)", ["?"]),
        ("r = Slice(w, zero, one, k)", ["?", "?", "?"]),
        ("r = Slice(w, zero, one, one, k)", ["N", "?", "4"]),
        ("r, q = Split<axis = 2>(w, k2)", ["N", "S", "?"]),
        ("t = Add(one, zero) u = Concat<axis = 0>(t, h) r, q = Split<axis = 2>(big, u)", ["N", "S", "1"]),
        ("r = Expand(x, h)", ["128"]),
        ('r = Einsum<equation = "abc,b->abc">(w, x)', ["N", "?", "4"]),
        ('r = Einsum<equation = "abc,a -> abc">(w, x)', ["N", "S", "4"]),
        ('r = Einsum<equation = "abc,c->ca">(w, z)', ["4", "N"]),
        ('r = Einsum<equation = "...c,c->c...">(w, one_float)', ["4", "N", "S"]),
        ('r = Einsum<equation = "c...,dc->d...c">(z, table)', ["1", "128"]),
        ('r = Einsum<equation = "ab,cb->acb">(table, table)', ["1", "1", "128"]),
        ('r = Einsum<equation = "a,ba->ba">(one_float, table)', ["1", "?"]),  # ONNX's inference says 1
        ("r = Slice(w, zero, h, one)", ["N", "?", "4"]),
        ("r = Slice(w, zero, far, one)", ["N", "S", "4"]),
        ("r = Slice(w, k, far, one)", ["N", "?", "4"]),
        (
            "s = Shape<start = 1, end = 2>(w) t = Slice(table, zero, s, one) r = Add(t, t)",
            ["1", "Min(128, S)"],
        ),
        (
            "s = Shape<start = 1, end = 2>(w) t = Slice(table, zero, s, one) "
            "u = Unsqueeze(t, last) r = Add(u, w)",
            ["N", "S", "4"],
        ),
        ("s = Shape(w) r = ConstantOfShape(s)", ["N", "S", "4"]),
        ("s = Shape(x) d = Sub(s, last) r = ConstantOfShape(d)", ["?"]),
        ("s = Shape(x) m = Mul(s, h) q = Div(m, last) r = ConstantOfShape(q)", ["64*N"]),
        ("s = Shape(x) m = Mul(s, minus) q = Div(m, last) r = ConstantOfShape(q)", ["?"]),
        ("s = Shape(z) e = Equal(s, far) t = Where(e, one, s) r = Expand(one_float, t)", ["?"]),
        ("s = Shape(z) e = Equal(s, minus) t = Where(e, one, s) r = Expand(one_float, t)", ["M"]),
        (
            "s = Shape(z) d = Sub(s, one) e = Equal(d, minus) t = Where(e, one, d) r = Expand(one_float, t)",
            ["?"],
        ),
        ("s = Shape(z) p = Concat<axis = 0>(zero, s) r = Pad(x, p)", ["M + N"]),
        ("s = Shape(z) p = Concat<axis = 0>(s, minus) r = Pad(x, p)", ["M + N - 1"]),
        ("p = Concat<axis = 0>(zero, one) r = Pad(x, p, , k)", ["?"]),
        (
            "p = Concat<axis = 0>(zero, one) v = ReduceSum(one_float, zero) r = Pad(w, p, , one)",
            ["N", "S + 1", "4"],
        ),
        (
            "s = Shape(x) t = Shape(z) p = Concat<axis = 0>(s, t) c = Concat<axis = 0>(x, z) q, r = Split(c, p)",
            ["M"],
        ),
        ("t = Concat<axis = 0>(k, k) q, r = Split(x, t)", ["?"]),
        ("s = Shape<start = 1, end = 2>(w) d = Sub(s, s) r = Slice(table, d, s, one)", ["1", "Min(128, S)"]),
    ],
)
def test_dimension_is_proven_or_unknown(nodes: str, expected: list[str]) -> None:
    assert shape_of(nodes) == expected


@pytest.mark.parametrize("size", [0, 1, 3])
@pytest.mark.parametrize("step", [1, 2, -1, -2])
def test_a_slice_takes_what_onnx_runtime_takes(size: int, step: int) -> None:
    x = np.arange(size, dtype=np.float32)
    far = 2**63 - 1
    for start, end in itertools.product(
        (0, 1, -1, -2, 5, -100, -far - 1, far), (0, 1, 2, -1, 100, -100, -far - 1)
    ):
        bounds = " ".join(
            f"{name} = Constant <value = int64[1] {{{number}}}> ()"
            for name, number in (("s", start), ("e", end), ("a", 0), ("p", step))
        )
        model = model_from(f"g (float[{size}] x) => (float[K] y) {{ {bounds} y = Slice(x, s, e, a, p) }}")
        expected = run_onnxruntime(model, {"x": x})["y"]
        assert model.graph.outputs[0].shape is not None
        assert list(model.graph.outputs[0].shape.dims) == [expected.size], (start, end)
        np.testing.assert_array_equal(x[[*slice_range(size, start, end, step)]], expected)
        found = evaluate(
            model.graph[0], [x, *(np.array([n]) for n in (start, end, 0, step))], opset=18, max_bytes=10**6
        )
        np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize(
    "node",
    [
        "AveragePool <kernel_shape = [1], strides = [3], ceil_mode = 1> (x)",
        "MaxPool <kernel_shape = [1], strides = [3], ceil_mode = 1> (x)",
        'MaxPool <kernel_shape = [1], strides = [2], ceil_mode = 1, auto_pad = "SAME_UPPER"> (x)',
        'MaxPool <kernel_shape = [2], strides = [1], dilations = [2], auto_pad = "SAME_UPPER"> (x)',
        'MaxPool <kernel_shape = [3], strides = [3], dilations = [2], auto_pad = "VALID"> (x)',
        'ConvTranspose <strides = [2], auto_pad = "SAME_UPPER"> (x, w)',
    ],
)
def test_a_size_that_implementations_disagree_on_stays_open(node: str) -> None:
    source = f"g (float[1, 1, 3] x, float[1, 1, 1] w) => (float[1, 1, K] y) {{ y = {node} }}"
    model = model_from(source)
    shape = model.graph.outputs[0].shape
    assert shape is not None
    feeds = {"x": np.ones((1, 1, 3), np.float32), "w": np.ones((1, 1, 1), np.float32)}
    assert run_onnxruntime(model, feeds)["y"].shape[:2] == tuple(shape.dims[:2])
    assert isinstance(shape.dims[2], SymbolicDim)
    onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)


def test_an_ordinary_pool_keeps_its_size() -> None:
    model = model_from(
        "g (float[1, 1, 6] x) => (float[1, 1, K] y) "
        "{ y = MaxPool <kernel_shape = [3], strides = [2], ceil_mode = 1> (x) }"
    )
    assert model.graph.outputs[0].shape is not None
    assert model.graph.outputs[0].shape.dims[2] == 3


def test_a_slice_that_ends_before_its_axis_is_empty() -> None:
    model = model_from(
        "g (float[N] x) => (float[K] y) <int64[1] s = {0}, int64[1] e = {-9223372036854775808}> "
        "{ y = Slice(x, s, e, s) }"
    )
    assert model.graph.outputs[0].shape is not None
    assert list(model.graph.outputs[0].shape.dims) == [0]


def test_shape_that_a_default_decides_is_left_open() -> None:
    """A caller may override the scales of the Resize: what they make of the sizes is not known."""
    model = load(
        """<ir_version: 8, opset_import: ["" : 19]>
        g (float[N, 3, 6, 6] x, float[4] scales) => (float[a, b, c, d] y)
        <float[4] scales = {1, 1, 2, 2}> { y = Resize <mode = "nearest"> (x, "", scales) }"""
    )
    assert model.graph.outputs[0].shape is not None
    assert not any(isinstance(d, int) for d in model.graph.outputs[0].shape.dims[2:])


def test_operators_that_the_runtime_fused_have_the_shape_of_the_standard_ones() -> None:
    model = model_from("""g (float[N, 3, 9, H] x, float[4, 3, 3, 3] w, float[N, 5] a, float[6, 5] b)
        => (float[A, B, C, D] y, float[E, F] z) {
        p = com.microsoft.FusedConv<activation = "Relu", pads = [1, 1, 1, 1]>(x, w) y = Neg(p)
        q = com.microsoft.FusedGemm<activation = "Relu", transB = 1>(a, b) z = Neg(q) }""")
    shapes = {v.name: str(v.shape) for n in model.graph for v in n.outputs}
    assert shapes["p"] == "[N,4,9,H]"
    assert shapes["q"] == "[N,6]"


def test_a_squeeze_of_all_unit_axes_has_no_known_rank_where_a_size_is_open() -> None:
    model = model_from(
        "g (float[N, 1, 4] x, float[2, 1, 4] z) => (float y, float r) { y = Squeeze(x) r = Squeeze(z) }"
    )
    shapes = {v.name: v.shape for n in model.graph for v in n.outputs}
    assert shapes["y"] is None or len(shapes["y"]) == 0 or all("_d" in str(d) for d in shapes["y"].dims)
    assert shapes["r"] is not None


@pytest.mark.parametrize(
    "nodes",
    [
        "r = Slice(v, zero, one, axes)",
        "r = Slice(v, zero, one, zero, axes)",
        "r = Pad(v, pads)",
        "r, q = Split<axis = 0>(v, pads)",
        "r = Expand(v, axes)",
        "a = Add(axes, zero) s = Mul(a, a) r = ConstantOfShape(s)",
    ],
)
def test_no_default_that_a_caller_may_override_decides_a_size(nodes: str) -> None:
    """Axes, steps, amounts, sizes and targets, read directly or through arithmetic."""
    model = load(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[1] v, int64[1] axes, int64[2] pads) => (float[a] y)
        <int64[1] axes = {{1}}, int64[2] pads = {{1, 1}}, int64[1] zero = {{0}}, int64[1] one = {{1}}>
        {{ {nodes} y = Identity(r) }}"""
    )
    shape = next(v for n in model.graph for v in n.outputs if v.name == "r").shape
    assert shape is None or not isinstance(shape.dims[0], int)


def test_one_branch_says_nothing_of_the_shape_of_the_other() -> None:
    model = load(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (bool b, float[2, N] x) => (float y)
        <float[2, 3] c = {1, 2, 3, 4, 5, 6}> {
            r = If(b) <then_branch = t () => (float p) { p = Identity(c) },
                       else_branch = e () => (float q) { q = Squeeze(x) }>
            y = Neg(r)
        }"""
    )
    assert next(v for n in model.graph for v in n.outputs if v.name == "r").shape is None


@pytest.mark.parametrize(
    "nodes", ["r = Squeeze(w, k)", "u = Reshape(x, k2) v = Squeeze(u, k) r = Expand(v, one)"]
)
def test_no_rank_is_claimed_where_an_operand_decides_it(nodes: str) -> None:
    """Squeeze of unknown axes, and Expand of what may have more axes than its target."""
    model = model_from(f"{HEAD} {{ {nodes} y = Neg(r) }}")
    assert next(v for n in model.graph for v in n.outputs if v.name == "r").shape is None


def test_the_rank_that_a_scan_declares_is_kept() -> None:
    """ONNX Runtime refuses a Scan of whose results it does not know the rank."""
    model = load(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[2, N, 3] x, int64[1] axes) => (float[a, b] y) <int64[1] zero = {0}, int64[1] one = {1}> {
            y = Scan<num_scan_inputs = 1, body = b (float[n, m] e) => (float[k] r) {
                t = Add(e, e) u = Slice(t, zero, one, axes) r = Squeeze(u)
            }>(x)
        }"""
    )
    feeds = {"x": np.ones((2, 3, 3), np.float32), "axes": np.array([0])}
    assert run_onnxruntime(model, feeds)["y"].shape == (2, 3)


def test_a_reshape_of_unknown_rank_has_a_type() -> None:
    model = model_from(
        "g (float[N] x, int64[M] s) => (float[A] y) { r = Reshape(x, s) a = Abs(r) y = Reshape(a, s) }"
    )
    made = [value for node in model.graph for value in node.outputs]
    assert [value.dtype for value in made] == [DataType.FLOAT] * 3
    assert made[0].shape is None
