"""select-unsigned-quantization."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass, model_from
from rewriting import operators

import graphopt
from graphopt.passes.select_unsigned_quantization import SelectUnsignedQuantization

FRAME = """g (float[2, 4] x, float s_in) => ({kind} y)
    <float s = {{0.1}}, float t = {{0.2}}, {constants} int64[1] some = {{1}}> {{ {nodes} }}"""
SIGNED = (
    "int8 z = {-3}, int8 w = {5}, int8[4] c = {-128, -1, 0, 127}, float[2, 4] k = {1, 2, 3, 4, 5, 6, 7, 8},"
)
UNSIGNED = (
    SIGNED + "uint8 zu = {125}, uint8 wu = {133}, uint8[4] cu = {0, 127, 128, 255}, uint8 zero = {128},"
)


def framed(nodes: str, constants: str = SIGNED, kind: str = "float[A, B]") -> str:
    return FRAME.format(nodes=nodes, constants=constants, kind=kind)


ACTIVATIONS = [
    (
        "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
        "q = QuantizeLinear(x, s, zu) y = DequantizeLinear(q, s, zu)",
    ),
    (  # read twice, with another scale and zero point
        "q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) b = DequantizeLinear(q, t, w) y = Sub(a, b)",
        "q = QuantizeLinear(x, s, zu) a = DequantizeLinear(q, s, zu) b = DequantizeLinear(q, t, wu) y = Sub(a, b)",
    ),
    (  # moved on the way
        "q = QuantizeLinear(x, s, z) m = Transpose(q) n = Gather(m, some) y = DequantizeLinear(n, s, z)",
        "q = QuantizeLinear(x, s, zu) m = Transpose(q) n = Gather(m, some) y = DequantizeLinear(n, s, zu)",
    ),
    (  # without a zero point
        "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s)",
        "q = QuantizeLinear(x, s, zu) y = DequantizeLinear(q, s, zero)",
    ),
]


@pytest.mark.parametrize(("before", "after"), ACTIVATIONS)
def test_what_is_between_the_pair_becomes_unsigned(before: str, after: str) -> None:
    numbers = np.array([[-1e9, -12.55, -0.05, -0.0], [0.05, 0.149999, 12.65, np.inf]], np.float32)
    check_pass(
        SelectUnsignedQuantization(),
        before=framed(before),
        after=framed(after, UNSIGNED),
        feeds={"x": numbers, "s_in": np.array(1, np.float32)},
    )


def test_a_constant_beside_an_activation_becomes_unsigned() -> None:
    before = """q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) b = DequantizeLinear(c, t, w)
        y = {op}(a, b)"""
    after = """q = QuantizeLinear(x, s, zu) a = DequantizeLinear(q, s, zu) b = DequantizeLinear({c}, t, {w})
        y = {op}(a, b)"""
    for op in ("Add", "Mul"):
        made = framed(after.format(op=op, c="cu", w="wu"), UNSIGNED)
        check_pass(SelectUnsignedQuantization(), before=framed(before.format(op=op)), after=made)
    made = framed(after.format(op="Sub", c="c", w="w"), UNSIGNED)
    check_pass(SelectUnsignedQuantization(), before=framed(before.format(op="Sub")), after=made)


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        ("y = QuantizeLinear(x, s, z)", "int8[A, B]"),  # a result
        ("q = QuantizeLinear(x, s, z) y = Cast<to = 1>(q)", "float[A, B]"),  # read as it is
        (
            "q = QuantizeLinear(x, s, z) m = Transpose(q) a = DequantizeLinear(m, s, z) y = Identity(m)",
            "int8[A, B]",
        ),
        ("q = QuantizeLinear(k, s, z) y = DequantizeLinear(q, s, z)", "float[A, B]"),  # a weight
        ("b = DequantizeLinear(c, t, w) y = Add(x, b)", "float[A, B]"),  # nothing is quantised beside it
        (
            "i = Cast<to = 3>(s_in) q = QuantizeLinear(x, s, i) y = DequantizeLinear(q, s, i)",
            "float[A, B]",
        ),
        ("q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)", "float[A, B]"),  # it is unsigned
    ],
)
def test_near_misses(nodes: str, kind: str) -> None:
    check_pass(SelectUnsignedQuantization(), before=framed(nodes, kind=kind))


CONV = """g (float[1, 4, 8, 8] x) => (float[A, B, C, D] y)
    <float s = {0.05}, int8 z = {0}, float[4] t = {0.01, 0.02, 0.03, 0.04}, int8[4] u = {0, 0, 0, 0},
     float[4, 4, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}> {
    q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z)
    v = QuantizeLinear<axis = 0>(w, t, u) d = DequantizeLinear<axis = 0>(v, t, u)
    c = Conv(a, d) r = QuantizeLinear(c, s, z) y = DequantizeLinear(r, s, z) }"""


def test_weights_of_products_stay_signed() -> None:
    model = graphopt.optimize(model_from(CONV), target="cpu", level=3).model
    types = {n.op_type: [v.dtype.name for v in n.inputs if v is not None] for n in model.graph}
    assert types["QuantizeLinear"] == ["FLOAT", "FLOAT", "UINT8"]
    weight = next(n for n in model.graph if n.op_type == "Conv").inputs[1].producer()
    assert weight is not None
    assert weight.inputs[0].dtype.name == "INT8"
    default = graphopt.optimize(model_from(CONV), target="cpu").model
    assert not any(v.dtype.name == "UINT8" for n in default.graph for v in n.outputs)


def test_movement_follows() -> None:
    source = framed(
        """q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) m = Transpose(a)
        r = QuantizeLinear(m, s, z) b = DequantizeLinear(r, s, z) y = Relu(b)"""
    )
    assert operators(graphopt.optimize(model_from(source), target="cpu", level=3).model) == [
        *("QuantizeLinear", "Transpose", "DequantizeLinear", "Relu")
    ]
    standard = operators(graphopt.optimize(model_from(source)).model)
    assert standard.count("QuantizeLinear") == 2
