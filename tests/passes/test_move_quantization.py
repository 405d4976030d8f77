"""move-quantization."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from checking import check_pass, model_from
from rewriting import operators

from graphopt.passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from graphopt.passes.eliminate_dead_nodes import EliminateDeadNodes
from graphopt.passes.fold_constants import FoldConstants
from graphopt.passes.fuse_matmul_add import FuseMatmulAdd
from graphopt.passes.move_quantization import MoveQuantization

KINDS = {"uint8": 128, "int8": -3}
FRAME = """g ({kind}[2, 4, 6, 6] q, float[2, 4, 6, 6] x) => ({kind}[A, B, C, D] y)
    <float s = {{0.1}}, {kind} z = {{{zero}}}, float t = {{0.2}}, {kind} u = {{1}}, int64[1] one = {{1}},
    int64[4] shape = {{0, 6, 4, -1}}, int64[1] five = {{5}}, int64[2] some = {{1, 0}}, float one_f = {{1.0}}> {{
    {nodes} }}"""


def framed(nodes: str, kind: str = "uint8", zero: int = 128) -> str:
    return FRAME.format(nodes=nodes, kind=kind, zero=zero)


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_comes_back(kind: str) -> None:
    limits = np.iinfo(kind)
    numbers = np.resize(np.arange(limits.min, limits.max + 1), (2, 4, 6, 6)).astype(kind)
    for seed, scale in enumerate((0.1, 0.007, 123.0, 3e-5)):
        source = framed("a = DequantizeLinear(q, s, z) y = QuantizeLinear(a, s, z)", kind, KINDS[kind])
        after = framed("y = Identity(q)", kind, KINDS[kind])
        scaled = f"s = {{{scale}}}"
        check_pass(
            MoveQuantization(),
            before=source.replace("s = {0.1}", scaled),
            after=after.replace("s = {0.1}", scaled),
            feeds={"q": np.roll(numbers, seed), "x": np.zeros((2, 4, 6, 6), np.float32)},
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "move",
    [
        "Transpose<perm = [0, 2, 3, 1]>(@)",
        "Reshape(@, shape)",
        "Slice(@, one, five, one, one)",
        "Gather<axis = 1>(@, some)",
        "DepthToSpace<blocksize = 2>(@)",
        "Concat<axis = 1>(@, @)",
    ],
)
def test_movement_between_equal_parameters(move: str, kind: str) -> None:
    nodes = f"a = DequantizeLinear(q, s, z) b = {move.replace('@', 'a')} y = QuantizeLinear(b, s, z)"
    zero = KINDS[kind]
    check_pass(
        MoveQuantization(),
        before=framed(nodes, kind, zero),
        after=framed(f"y = {move.replace('@', 'q')}", kind, zero),
        feeds={
            "q": np.random.default_rng(0).integers(0, 100, (2, 4, 6, 6)).astype(kind),
            "x": np.zeros((2, 4, 6, 6), np.float32),
        },
    )


@pytest.mark.parametrize(
    "nodes",
    [
        "a = DequantizeLinear(q, s, z) y = QuantizeLinear(a, t, z)",
        "a = DequantizeLinear(q, s, z) y = QuantizeLinear(a, s, u)",
        "a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) c = Neg(b) y = QuantizeLinear(c, s, z)",
        "a = DequantizeLinear(q, s, z) b = AveragePool<kernel_shape = [2, 2]>(a) y = QuantizeLinear(b, s, z)",
        "a = DequantizeLinear(q, s, z) b = Transpose(a) c = Exp(b) d = Add(b, c) y = QuantizeLinear(d, s, z)",
        """a = DequantizeLinear(q, s, z) b = DequantizeLinear(q, t, z) c = Concat<axis = 0>(a, b)
        y = QuantizeLinear(c, s, z)""",
        """a = DequantizeLinear(q, s, z)
        b = MaxPool<kernel_shape = [2, 2]>(a) y = QuantizeLinear(b, s, z)""",
    ],
)
def test_near_misses(nodes: str) -> None:
    check_pass(MoveQuantization(), before=framed(nodes))


PAIRS = """g (float[2, 4] x) => (float[A, B] y) <float s = {0.1}, KIND z = {3},
    KIND[2, 4] c = {1, 2, 3, 4, 5, 6, 7, 8}, int64[1] some = {1}> { NODES }"""


@pytest.mark.parametrize(
    "nodes",
    [
        """q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) m = Transpose(a)
        r = QuantizeLinear(m, s, z) y = DequantizeLinear(r, s, z)""",
        """q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) m = Concat<axis = 0>(a, a)
        r = QuantizeLinear(m, s, z) y = DequantizeLinear(r, s, z)""",
        """q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) m = Transpose(a)
        r = QuantizeLinear(m, s, z) y = Cast<to = 1>(r)""",
    ],
)
def test_int8_is_not_moved_between_a_pair_that_becomes_uint8(nodes: str) -> None:
    """ONNX Runtime would run what is around it in float32."""
    for kind, moves in (("int8", False), ("uint8", True)):
        model = model_from(PAIRS.replace("KIND", kind).replace("NODES", nodes))
        assert MoveQuantization().run(model).modified == moves


def test_rows_of_a_quantised_table_are_taken_before_they_are_dequantised() -> None:
    nodes = """a = DequantizeLinear(c, s, z) m = Gather(a, some) r = QuantizeLinear(m, s, z)
        d = DequantizeLinear(r, s, z) e = Transpose(d) y = MatMul(x, e)"""
    model = model_from(PAIRS.replace("KIND", "int8").replace("NODES", nodes))
    MoveQuantization().run(model)
    EliminateDeadNodes().run(model)
    assert operators(model) == ["Gather", "DequantizeLinear", "Transpose", "MatMul"]


WEIGHT = """g (float[N, 3] x) => (float[N, 2] y) <int8[2, 3] w = {{1, -2, 3, 4, -5, 6}}, float[2] c = {{0.5, 0.25}},
    int8[2] z = {{1, 0}}, float s = {{0.5}}, int8[3, 2] v = {{1, 4, -2, -5, 3, 6}}> {{ {nodes} }}"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("d = DequantizeLinear(w, s) t = Transpose(d)", "u = Transpose(w) t = DequantizeLinear(u, s)"),
        (
            "d = DequantizeLinear<axis = 0>(w, c, z) t = Transpose<perm = [1, 0]>(d)",
            "u = Transpose<perm = [1, 0]>(w) t = DequantizeLinear<axis = 1>(u, c, z)",
        ),
    ],
)
def test_the_layout_of_a_quantised_weight_goes_to_the_constant(before: str, after: str) -> None:
    product = "q = QuantizeLinear(x, s) e = DequantizeLinear(q, s) y = MatMul(e, t)"
    source = WEIGHT.format(nodes=f"{before} {product}")
    check_pass(MoveQuantization(), before=source, after=WEIGHT.format(nodes=f"{after} {product}"))
    model = model_from(source)
    MoveQuantization().run(model)
    FoldConstants().run(model)
    assert sorted(operators(model)) == ["DequantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear"]


@pytest.mark.parametrize(
    "nodes",
    [
        # Without the Transpose ONNX Runtime takes the product of floats as one of 8 bits, which is not exact.
        "d = DequantizeLinear(w, s) t = Transpose(d) y = MatMul(x, t)",
        "d = DequantizeLinear<axis = 0>(w, c, z) t = Transpose<perm = [1, 0]>(d) y = MatMul(x, t)",
        "d = DequantizeLinear(w, s) t = Transpose(d) k = ReduceSum(d) a = MatMul(x, t) y = Add(a, k)",
        "q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) t = Transpose(d) u = Transpose(t) y = MatMul(u, t)",
    ],
)
def test_other_movements_of_quantised_values_stay(nodes: str) -> None:
    assert not MoveQuantization().run(model_from(WEIGHT.format(nodes=nodes))).modified


QDQ = """g (float[4, 3] x) => (float[4, 2] y, float[4, 2] o) <int8[3, 2] w = {1, -2, 3, 4, -5, 6},
    int8[3, 2] w2 = {2, 2, 3, 4, -5, 6}, float s = {0.5},
    float t = {0.05}, uint8 z = {100}, int8 u = {0}, float[2] b = {0.5, 0.25}> {
    q = QuantizeLinear(x, t, z) d = DequantizeLinear(q, t, z) e = DequantizeLinear(q, t, z)
    v = DequantizeLinear(w, s, u) m = MatMul(d, v) y = Add(m, b) v2 = DequantizeLinear(w2, s, u) n = MatMul(e, v2)
    r = QuantizeLinear(n, s, z) o = DequantizeLinear(r, s, z) }"""


def test_quantised_products_stay_whole_for_the_runtime() -> None:
    """What folding, sharing and fusing leave is still taken as quantised products by ONNX Runtime."""
    model = model_from(QDQ)
    for pass_ in (FoldConstants(), EliminateCommonSubexpressions(), MoveQuantization(), FuseMatmulAdd()):
        pass_.run(model)
    assert operators(model).count("MatMul") == 2
    assert "Gemm" not in operators(model)
    assert operators(model).count("DequantizeLinear") == 4  # the two of x are one
    assert model.graph.initializers["w"].const_value.dtype.name == "INT8"


def test_onnx_runtime_fuses_what_is_left(tmp_path: object) -> None:
    import onnx
    import onnx_ir

    model = model_from(QDQ)
    for pass_ in (FoldConstants(), EliminateCommonSubexpressions(), MoveQuantization(), FuseMatmulAdd()):
        pass_.run(model)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/optimized.onnx"
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        onnx_ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    left = {node.op_type for node in onnx.load(f"{tmp_path}/optimized.onnx").graph.node}
    assert "QLinearMatMul" in left
