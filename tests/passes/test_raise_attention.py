"""raise-attention against ONNX Runtime: where the scale stands, masks and the rows they close, layouts."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import check_declines, check_rewrite, operators, with_weights

from graphopt.ir import Model
from graphopt.passes.raise_attention import RaiseAttention

LOWEST = float(np.finfo(np.float32).min)
B, H, S, T, D = 2, 3, 4, 5, 8
SHAPES = f"float[{B},{H},{S},{D}] q, float[{B},{H},{T},{D}] k, float[{B},{H},{T},{D}] v"
HEAD = "kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, kt)"
TAIL = "w = Softmax<axis = -1>(m) y = MatMul(w, v)"


def source(body: str, more: str = "", weights: dict[str, np.ndarray] | None = None) -> str:
    constants = "".join(f", {_type(a)} {n}" for n, a in (weights or {}).items())
    return f"g ({SHAPES}{more}{constants}) => (float[A, E, F, G] y) {{ {body} }}"


def _type(array: np.ndarray) -> str:
    kind = {"f": "float", "b": "bool", "i": "int64"}[array.dtype.kind]
    return f"{kind}[{','.join(map(str, array.shape))}]" if array.ndim else kind


def number(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


def check(body: str, after: str, more: str = "", feeds: dict | None = None, **weights: np.ndarray) -> Model:
    text = source(body, more, weights)
    model = with_weights(text, weights, 23)
    if feeds:
        generator = np.random.default_rng(0)
        for name, shape in (("q", (B, H, S, D)), ("k", (B, H, T, D)), ("v", (B, H, T, D))):
            feeds.setdefault(name, generator.standard_normal(shape).astype(np.float32))
    return check_rewrite(RaiseAttention(), model, after, opset=23, feeds=feeds)[0]


def declines(body: str, reason: str, more: str = "", **weights: np.ndarray) -> None:
    check_declines(RaiseAttention(), source(body, more, weights), reason, weights=weights, opset=23)


def attribute(model: Model, name: str) -> object:
    node = next(n for n in model.graph if n.op_type == "Attention")
    return node.attributes[name].value if name in node.attributes else None


C = number(1 / np.sqrt(D))


@pytest.mark.parametrize(
    "body",
    [
        f"{HEAD} m = Mul(s, c) {TAIL}",
        f"{HEAD} m = Mul(c, s) {TAIL}",
        f"{HEAD} m = Div(s, r) {TAIL}",
        f"qs = Mul(q, c) kt = Transpose<perm = [0, 1, 3, 2]>(k) m = MatMul(qs, kt) {TAIL}",
        f"ks = Mul(k, c) kt = Transpose<perm = [0, 1, 3, 2]>(ks) m = MatMul(q, kt) {TAIL}",
        f"kt = Transpose<perm = [0, 1, 3, 2]>(k) ks = Div(kt, r) m = MatMul(q, ks) {TAIL}",
        f"""qs = Mul(q, h) kt = Transpose<perm = [0, 1, 3, 2]>(k) ks = Mul(kt, h)
            m = MatMul(qs, ks) {TAIL}""",
    ],
)
def test_the_scale_stands_anywhere(body: str) -> None:
    weights = {"c": C, "r": number(np.sqrt(D)), "h": number(D**-0.25)}
    used = {k: v for k, v in weights.items() if f", {k})" in body or f"({k}," in body}
    assert attribute(check(body, "Attention", **used), "scale") is None


def test_another_scale_is_an_attribute() -> None:
    model = check(f"{HEAD} m = Mul(s, c) {TAIL}", "Attention", c=number(0.25))
    assert attribute(model, "scale") == 0.25
    model = check(f"kt = Transpose<perm = [0, 1, 3, 2]>(k) m = MatMul(q, kt) {TAIL}", "Attention")
    assert attribute(model, "scale") == 1.0


def test_capped_scores() -> None:
    body = f"{HEAD} t = Mul(s, c) d = Div(t, cap) h = Tanh(d) u = Mul(h, cap) m = Add(u, mask) {TAIL}"
    mask = np.where(np.tril(np.ones((S, T), bool)), 0, -np.inf).astype(np.float32)
    model = check(body, "Attention", c=C, cap=number(0.7), mask=mask)
    assert attribute(model, "scale") is None
    assert attribute(model, "softcap") == pytest.approx(0.7)
    model = check(body.replace("Div(t, cap)", "Div(t, c)"), "Attention", c=C, cap=number(0.7), mask=mask)
    assert attribute(model, "scale") == pytest.approx(0.7)
    declines(body.replace("m = Add(u, mask)", "a = Add(u, mask) m = Mul(a, cap)"), "after a mask or a cap",
             c=C, cap=number(0.7), mask=mask)  # fmt: skip


def test_the_key_may_come_transposed_otherwise() -> None:
    text = f"""g (float[{B},{H},{S},{D}] q, float[{B},{T},{H},{D}] k, float[{B},{H},{T},{D}] v)
        => (float[A, E, F, G] y) {{ kt = Transpose<perm = [0, 2, 3, 1]>(k) m = MatMul(q, kt) {TAIL} }}"""
    check_rewrite(RaiseAttention(), text, "Transpose Attention", opset=23)


def test_the_key_may_be_transposed_with_batch_and_heads_in_one() -> None:
    body = f"""f = Reshape(k, flat) g = Transpose<perm = [0, 2, 1]>(f) kt = Reshape(g, SHAPE) m = MatMul(q, kt)
        {TAIL}"""
    flat, four = np.array([B * H, T, D]), np.array([B, H, D, T])
    check(body.replace("SHAPE", "four"), "Attention", flat=flat, four=four)
    declines(body.replace("perm = [0, 2, 1]>(f)", "perm = [0, 1, 2]>(f)").replace("SHAPE", "four"),
             "not transposed", flat=flat, four=four)  # fmt: skip


@pytest.mark.parametrize("keys", [1, T])
def test_a_mask_of_unknown_length_is_expanded(keys: int) -> None:
    feeds = {"mask": np.zeros((S, keys), np.float32)}
    after = "Mul ReduceMax Mul Add Expand Attention"
    check(MASKED, after, f", float[{S}, M] mask", feeds, c=C)


MASKED = f"{HEAD} t = Mul(s, c) m = Add(t, mask) {TAIL}"


@pytest.mark.parametrize("shape", [(S, T), (H, S, T), (1, 1, S, T), (B, 1, S, T), (B, H, S, T)])
def test_open_masks_are_taken_as_they_are(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    check(MASKED, "Attention", c=C, mask=mask)
    check(MASKED.replace("Add(t, mask)", "Add(mask, t)"), "Attention", c=C, mask=mask)


@pytest.mark.parametrize("shape", [(T,), (1, T), (S, 1), (B, 1, 1, T), (B, H, S, 1), (1,)])
def test_masks_are_expanded_to_queries_and_keys(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    check(MASKED, "Expand Attention", c=C, mask=mask)


def closed_rows(value: float) -> np.ndarray:
    mask = np.zeros((B, 1, S, T), np.float32)
    mask[0, 0, 1:] = value
    mask[0, 0, 2, :2] = -1.0
    mask[1, 0, 0, 1:] = value
    return mask


@pytest.mark.parametrize("value", [-np.inf, LOWEST, -1e9, 2.0])
def test_rows_without_a_key_stay_what_they_are(value: float) -> None:
    feeds = {"mask": closed_rows(value)}
    check(MASKED, "Mul ReduceMax Mul Add Attention", f", float[{B},1,{S},{T}] mask", feeds, c=C)


def test_rows_of_lowest_and_minus_infinity() -> None:
    mask = closed_rows(LOWEST)
    mask[0, 0, 1, 2] = -np.inf
    check(MASKED, "Mul ReduceMax Mul Add Attention", f", float[{B},1,{S},{T}] mask", {"mask": mask}, c=C)


@pytest.mark.parametrize("low", [LOWEST, -np.inf])
def test_a_mask_chosen_from_two_numbers(low: float) -> None:
    body = f"{HEAD} t = Mul(s, c) a = Where(p, z, low) m = Add(t, a) {TAIL}"
    after = "Where Attention" if low == LOWEST else "Where ReduceMax Mul Add Attention"
    feeds = {"p": closed_rows(1.0) == 0}
    check(body, after, f", bool[{B},1,{S},{T}] p", feeds, c=C, z=number(0), low=number(low))


def test_a_mask_of_truth_values_as_numbers() -> None:
    body = f"{HEAD} t = Mul(s, c) f = Cast<to = 1>(p) o = Sub(one, f) a = Mul(o, low) m = Add(t, a) {TAIL}"
    feeds = {"p": np.array([[True, False, True, False, True], [False] * T]).reshape(B, 1, 1, T)}
    after = "Cast Sub Mul Expand Attention"
    check(body, after, f", bool[{B},1,1,{T}] p", feeds, c=C, one=number(1), low=number(LOWEST))
    check(body, after, f", bool[{B},1,1,{T}] p", dict(feeds), c=C, one=number(1), low=number(-1e4))


CHOSEN = f"{HEAD} t = Mul(s, c) m = Where(p, t, low) {TAIL}"


@pytest.mark.parametrize("low", [LOWEST, -np.inf])
def test_scores_replaced_where_a_mask_is_false(low: float) -> None:
    after = "Where Attention" if low == LOWEST else "Where ReduceMax Mul Add Attention"
    feeds = {"p": closed_rows(1.0) == 0}
    check(CHOSEN, after, f", bool[{B},1,{S},{T}] p", feeds, c=C, low=number(low))
    other = CHOSEN.replace("Where(p, t, low)", "Where(p, low, t)")
    check(other, after, f", bool[{B},1,{S},{T}] p", dict(feeds), c=C, low=number(low))


def test_constant_truth_values_stay_a_mask() -> None:
    causal = np.tril(np.ones((S, T), bool))
    check(CHOSEN, "Attention", c=C, low=number(-np.inf), p=causal)
    check(CHOSEN, "Attention", c=C, low=number(LOWEST), p=causal)


GUARD = "u = Softmax<axis = -1>(m) n = IsNaN(u) w = Where(n, zero, u) y = MatMul(w, v)"


def test_rows_that_are_set_to_zero() -> None:
    body = f"{HEAD} t = Mul(s, c) m = Where(p, t, low) {GUARD}"
    feeds = {"p": closed_rows(1.0) == 0}
    check(body, "Attention", f", bool[{B},1,{S},{T}] p", feeds, c=C, low=number(-np.inf), zero=number(0))
    body = f"{HEAD} t = Mul(s, c) a = Where(p, zero, low) m = Add(t, a) {GUARD}"
    for low in (LOWEST, -np.inf):
        check(body, "Where Attention", f", bool[{B},1,{S},{T}] p", dict(feeds), c=C,
              low=number(low), zero=number(0))  # fmt: skip


def test_two_masks() -> None:
    body = f"{HEAD} t = Mul(s, c) n = Add(t, bias) m = Add(n, mask) {TAIL}"
    generator = np.random.default_rng(1)
    bias = generator.standard_normal((1, H, S, T)).astype(np.float32)
    check(body, "Add Mul ReduceMax Mul Add Attention", f", float[{B},1,{S},{T}] mask", None, c=C, bias=bias)


def test_free_dimensions() -> None:
    text = f"""g (float[N, 3, L, 8] q, float[N, 3, L, 8] k, float[N, 3, L, 8] v, bool[N, 1, 1, L] p, float c,
        float z, float low) => (float[A, E, F, G] y) {{ {HEAD} t = Mul(s, c) a = Where(p, z, low)
        m = Add(t, a) {TAIL} }}"""
    weights = {"c": C, "z": number(0), "low": number(-1e9)}
    after = "Where Shape Shape Concat Expand Attention"
    check_rewrite(RaiseAttention(), text, after, weights=weights, opset=23, dims={"N": 2, "L": 5})


def test_near_misses() -> None:
    plain = f"{HEAD} m = Mul(s, c) {TAIL}"
    declines(plain.replace("axis = -1", "axis = 2"), "not over the last axis", c=C)
    declines(plain, "not a positive number", c=number(-0.5))
    declines(plain.replace("Transpose<perm = [0, 1, 3, 2]>(k)", "Reshape(k, r)"), "not transposed",
             c=C, r=np.array([B, H, D, T]))  # fmt: skip
    declines(
        plain, "something else than a number", c=np.random.default_rng(0).random((S, T)).astype(np.float32)
    )
    declines(f"{HEAD} t = Add(s, c) m = Mul(t, c) {TAIL}", "after a mask or a cap", c=C)
    declines(CHOSEN, "below -1e30", f", bool[{B},1,{S},{T}] p", c=C, low=number(-1e9))
    declines(f"{HEAD} m = Mul(s, c) {GUARD}", "something else than 0", c=C, zero=number(1))
    used = f"{HEAD} m = Mul(s, c) w = Softmax<axis = -1>(m) o = MatMul(w, v) z = ReduceMax(w) y = Add(o, z)"
    declines(used, "used elsewhere", c=C)


def test_broadcast_operands_are_left() -> None:
    text = f"""g (float[{B},{H},{S},{D}] q, float[1,{H},{T},{D}] k, float[{B},{H},{T},{D}] v, float c)
        => (float[A, E, F, G] y) {{ {HEAD} m = Mul(s, c) {TAIL} }}"""
    check_declines(RaiseAttention(), text, "not known to be equal", weights={"c": C}, opset=23)
    text = f"""g (float[1,{H},{S},{D}] q, float[1,{H},{T},{D}] k, float[1,{H},{T},{D}] v, float[2,1,1,{T}] mask)
        => (float[A, E, F, G] y) {{ {HEAD} m = Add(s, mask) {TAIL} }}"""
    check_declines(RaiseAttention(), text, "not known to fit", opset=23)


def test_double_precision_is_left() -> None:
    text = source(f"{HEAD} m = Mul(s, c) {TAIL}", ", float c").replace("float", "double")
    check_declines(RaiseAttention(), text, "precision", weights={"c": np.asarray(C, np.float64)}, opset=23)


def test_the_opset_is_raised_only_if_asked_and_of_use() -> None:
    text = source(f"{HEAD} m = Mul(s, c) {TAIL}", weights={"c": C})
    check_declines(RaiseAttention(), text, "needs opset 23", weights={"c": C}, opset=18)
    model, _ = check_rewrite(RaiseAttention(upgrade=True), text, "Attention", weights={"c": C}, opset=18)
    assert model.opset_imports[""] == 23
    other = with_weights(source(f"{HEAD} m = Mul(s, c) {TAIL}", ", float c"), {}, 18)
    assert not RaiseAttention(upgrade=True).run(other).modified
    assert other.opset_imports[""] == 18
    assert "Softmax" in operators(other)


SPLIT = """qr = Reshape(q, heads) qt = Transpose<perm = [0, 2, 1, 3]>(qr)
    kr = Reshape(k, heads) kt = Transpose<perm = [0, 2, 3, 1]>(kr)
    vr = Reshape(v, heads) vt = Transpose<perm = [0, 2, 1, 3]>(vr)
    s = MatMul(qt, kt) t = Mul(s, c) w = Softmax<axis = -1>(t) o = MatMul(w, vt)"""
JOINED = "b = Transpose<perm = [0, 2, 1, 3]>(o)"
HIDDEN = "float[N, L, 24] q, float[N, L, 24] k, float[N, L, 24] v, int64[4] heads, int64[Z] joined, float c"


def hidden(body: str, after: str, joined: list[int], output: str = "A, E, F") -> Model:
    text = f"g ({HIDDEN}) => (float[{output}] y) {{ {body} }}"
    weights = {"heads": np.array([0, 0, 3, 8]), "joined": np.array(joined), "c": C}
    dims = {"N": 2, "L": 5}
    return check_rewrite(RaiseAttention(), text, after, weights=weights, opset=23, dims=dims)[0]


def test_heads_are_split_and_merged_by_the_operator() -> None:
    model = hidden(f"{SPLIT} {JOINED} y = Reshape(b, joined)", "Attention", [0, 0, 24])
    assert (attribute(model, "q_num_heads"), attribute(model, "kv_num_heads")) == (3, 3)
    assert attribute(model, "scale") is None


def test_merged_heads_may_be_reshaped_otherwise() -> None:
    hidden(f"{SPLIT} {JOINED} y = Reshape(b, joined)", "Attention Reshape Reshape", [-1, 24], "A, E")
    hidden(f"{SPLIT} y = Transpose<perm = [0, 2, 1, 3]>(o)", "Attention Reshape", [1], "A, E, F, G")


def test_heads_that_were_never_merged_are_merged_by_reshape() -> None:
    text = """g (float[N, L, 3, 8] q, float[N, L, 3, 8] k, float[N, L, 3, 8] v, float c)
        => (float[A, E, F, G] y) {
        qt = Transpose<perm = [0, 2, 1, 3]>(q) kt = Transpose<perm = [0, 2, 3, 1]>(k)
        vt = Transpose<perm = [0, 2, 1, 3]>(v) s = MatMul(qt, kt) t = Mul(s, c)
        w = Softmax<axis = -1>(t) o = MatMul(w, vt) y = Transpose<perm = [0, 2, 1, 3]>(o) }"""
    after = "Reshape Reshape Reshape Attention Reshape"
    check_rewrite(RaiseAttention(), text, after, weights={"c": C}, opset=23, dims={"N": 2, "L": 5})


def test_a_value_with_its_heads_elsewhere_keeps_four_axes() -> None:
    body = SPLIT.replace("Reshape(v, heads) vt = Transpose<perm = [0, 2, 1, 3]>(vr)",
                         "Reshape(v, joined) vt = Reshape(vr, joined)")  # fmt: skip
    text = f"g ({HIDDEN}) => (float[A, E, F, G] y) {{ {body} {JOINED} y = Identity(b) }}"
    weights = {"heads": np.array([2, 5, 3, 8]), "joined": np.array([2, 3, 5, 8]), "c": C}
    _, changes = check_rewrite(
        RaiseAttention(), text, "Reshape Transpose Reshape Reshape Reshape Transpose Attention Transpose Identity",
        weights=weights, opset=23, dims={"N": 2, "L": 5},
    )  # fmt: skip
    assert any("heads moved forward" in reason for reason in changes.declined)


GROUPED = f"""g (float[N,4,L,{D}] q, float[N,2,L,{D}] k, float[N,2,L,{D}] v, int64[1] axis, int64[5] five,
    int64[4] four) => (float[A, E, F, G] y) {{ ku = Unsqueeze(k, axis) vu = Unsqueeze(v, axis)
    ke = COPIES_K ve = COPIES_V kr = Reshape(ke, four) vr = Reshape(ve, four)
    kt = Transpose<perm = [0, 1, 3, 2]>(kr) s = MatMul(q, kt) w = Softmax<axis = -1>(s) y = MatMul(w, vr) }}"""


@pytest.mark.parametrize(
    ("copies", "five"),
    [
        ("Expand({0}u, five)", [1, 2, 2, 1, D]),
        ("Tile({0}u, five)", [1, 1, 2, 1, 1]),
        ("Concat<axis = 2>({0}u, {0}u)", [0] * 5),
    ],
)
def test_heads_repeated_for_groups(copies: str, five: list[int]) -> None:
    text = GROUPED.replace("COPIES_K", copies.format("k")).replace("COPIES_V", copies.format("v"))
    weights = {"axis": np.array([2]), "five": np.array(five), "four": np.array([0, 4, -1, D])}
    model, _ = check_rewrite(
        RaiseAttention(), text, "Attention", weights=weights, opset=23, dims={"N": 2, "L": 3}
    )
    assert attribute(model, "scale") == 1.0


def test_heads_repeated_in_another_order_are_kept() -> None:
    text = GROUPED.replace("COPIES_K", "Expand(ku, five)").replace("COPIES_V", "Expand(vu, five)")
    weights = {"axis": np.array([1]), "five": np.array([1, 2, 2, 1, D]), "four": np.array([0, 4, -1, D])}
    after = "Unsqueeze Unsqueeze Expand Expand Reshape Reshape Attention"
    _, changes = check_rewrite(
        RaiseAttention(), text, after, weights=weights, opset=23, dims={"N": 2, "L": 3}
    )
    assert any("are not repeated" in reason for reason in changes.declined)
