"""prune of heads: removing heads equals giving weight 0 to the rows that read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from checking import run_onnxruntime
from pruning import DECOMPOSED, SIZES, attention, check_kept, check_pruned, head_weights, kept, operand
from rewriting import arrays, with_weights

from graphopt.ir.io import load
from graphopt.passes.prune import Prune

SAMPLES = Path(__file__).parents[2] / "samples" / "generated"
READER = {"wo": ("y", 0)}


def test_heads_go_with_their_rows_biases_and_constants() -> None:
    weights = head_weights()
    model, changes = check_pruned(attention(), weights, DECOMPOSED, dims=SIZES)
    assert changes.counts == {"head removed": 2}
    np.testing.assert_array_equal(operand(model, "o"), weights["wo"][2:6])
    np.testing.assert_array_equal(operand(model, "q1"), weights["bq"][2:6])
    np.testing.assert_array_equal(operand(model, "s1"), weights["bias"][1:3])
    np.testing.assert_array_equal(operand(model, "y"), weights["bo"])
    for result, name in (("q0", "wq"), ("k0", "wk"), ("v0", "wv")):
        np.testing.assert_array_equal(operand(model, result), weights[name][:, 2:6])
    (row,) = changes.details
    assert (row["unit"], row["before"], row["after"]) == ("head", 4, 2)
    # The four matrices, the bias of the queries and that of the scores; not the bias of the output.
    assert row["bytes_before"] == 4 * (4 * 64 + 8 + 4) and row["bytes_after"] == 4 * (4 * 32 + 4 + 2)
    (name,) = (n.name for n in model.graph if n.outputs[0].name == "o")
    assert row["layer"] == name


def test_at_least_one_head_stays() -> None:
    _, changes = check_pruned(attention(), head_weights(), DECOMPOSED, sparsity=0.99, dims=SIZES)
    assert changes.details[0]["after"] == 1


EXPANDED = """ax = Constant <value = int64[1] {2}> () ku = Unsqueeze(kt, ax) ke = Expand(ku, es) kr = Reshape(ke, rs)"""
EXPANDED_VALUES = "vu = Unsqueeze(vt, ax) ve = Expand(vu, es) vr = Reshape(ve, rs)"


@pytest.mark.parametrize(
    "sizes",
    [
        "es = Constant <value = int64[5] {1, 2, 2, 1, 1}> () rs = Constant <value = int64[4] {0, 4, -1, 2}> ()",
        """b = Shape <start = 0, end = 1> (x) n = Shape <start = 1, end = 2> (x) g = Constant <value = int64[2] {2, 2}> ()
        d = Constant <value = int64[1] {2}> () es = Concat <axis = 0> (b, g, n, d) rs = Shape(q)""",
        """b = Shape <start = 0, end = 1> (x) n = Shape <start = 1, end = 2> (x) d = Constant <value = int64[1] {2}> ()
        g = Shape <start = 1, end = 2> (kt) h = Constant <value = int64[1] {4}> ()
        es = Concat <axis = 0> (g, d, n, d) rs = Concat <axis = 0> (b, h, n, d)""",
    ],
    ids=["constants", "parts", "shapes"],
)
def test_query_heads_that_share_a_key_head_go_together(sizes: str) -> None:
    source = attention(2, grouping=sizes + EXPANDED, k="kr", values=EXPANDED_VALUES, v="vr")
    weights = head_weights(2)
    model, changes = check_pruned(source, weights, DECOMPOSED, dims=SIZES)
    assert changes.counts == {"head removed": 2}
    np.testing.assert_array_equal(operand(model, "o"), weights["wo"][:4])
    assert operand(model, "k0").shape == (8, 2)


def test_heads_merged_with_the_batch() -> None:
    # As the newer exporter writes the transpose of the keys.
    merged = """mh = Constant <value = int64[3] {-1, 3, 2}> () kf = Reshape(kt, mh)
        kg = Transpose <perm = [0, 2, 1]> (kf) b = Shape <start = 0, end = 1> (x)
        h = Constant <value = int64[3] {4, 2, 3}> () us = Concat <axis = 0> (b, h) ku = Reshape(kg, us)
        kr = Transpose <perm = [0, 1, 3, 2]> (ku)"""
    source = attention(grouping=merged, k="kr").replace("[B, S, 8]", "[B, 3, 8]")
    model, changes = check_pruned(source, head_weights(), DECOMPOSED, dims={"B": 2})
    assert changes.counts == {"head removed": 2}
    assert operand(model, "k0").shape == (8, 4)


def test_all_of_attention_by_merged_heads() -> None:
    # torch.nn.MultiheadAttention: [S, B·H, C], with the sizes as numbers.
    source = """g (float[3, 2, 8] x, float[8, 8] wq, float[8, 8] wk, float[8, 8] wv, float[8, 8] wo)
        => (float[6, 8] y) <int64[3] hs = {3, 8, 2}, int64[2] ms = {6, 8}> {
        q0 = MatMul(x, wq) q1 = Reshape(q0, hs) q = Transpose <perm = [1, 0, 2]> (q1)
        k0 = MatMul(x, wk) k1 = Reshape(k0, hs) k = Transpose <perm = [1, 2, 0]> (k1)
        v0 = MatMul(x, wv) v1 = Reshape(v0, hs) v = Transpose <perm = [1, 0, 2]> (v1)
        s = MatMul(q, k) p = Softmax <axis = -1> (s) nan = IsNaN(p) zero = Constant <value_float = 0.0> ()
        f = Where(nan, zero, p) c = MatMul(f, v) t = Transpose <perm = [1, 0, 2]> (c) m = Reshape(t, ms)
        y = MatMul(m, wo) }"""
    weights = {k: v for k, v in head_weights().items() if k.startswith("w")}
    model, changes = check_pruned(source, weights, READER)
    assert changes.counts == {"head removed": 2}
    assert operand(model, "q1").tolist() == [3, 4, 2] and operand(model, "m").tolist() == [6, 4]


MERGED = """g (float[B, S, 8] x, float[8, 24] w, float[24] b, float[8, 8] wo) => (float[B, S, 8] y)
    <int64[3] ms = {0, 0, 8}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}> {
    m0 = MatMul(x, w) m1 = Add(m0, b) %s
    s = MatMul(q, k) p = Softmax <axis = -1> (s) c = MatMul(p, v) t = Transpose <perm = [0, 2, 1, 3]> (c)
    m = Reshape(t, ms) y = MatMul(m, wo) }"""
KINDS = """hs = Constant <value = int64[5] {0, 0, %s, 2}> () h = Reshape(m1, hs)
    a = Transpose <perm = %s> (h) q = Gather(a, i0) k0 = Gather(a, i1) v = Gather(a, i2)
    k = Transpose <perm = [0, 1, 3, 2]> (k0)"""


@pytest.mark.parametrize(
    "text",
    [
        """a, e, f = Split <axis = 2, num_outputs = 3> (m1) hs = Constant <value = int64[4] {0, 0, 4, 2}> ()
        q0 = Reshape(a, hs) k0 = Reshape(e, hs) v0 = Reshape(f, hs) q = Transpose <perm = [0, 2, 1, 3]> (q0)
        k = Transpose <perm = [0, 2, 3, 1]> (k0) v = Transpose <perm = [0, 2, 1, 3]> (v0)""",
        KINDS % ("3, 4", "[2, 0, 3, 1, 4]"),
        KINDS % ("4, 3", "[3, 0, 2, 1, 4]"),
    ],
    ids=["split", "kinds before heads", "kinds in heads"],
)
def test_merged_projections(text: str) -> None:
    model, changes = check_pruned(
        MERGED % text, arrays(w=(8, 24), b=(24,), wo=(8, 8)), READER, dims={"B": 2, "S": 3}
    )
    assert changes.counts == {"head removed": 2}
    assert operand(model, "m0").shape == (8, 12) and operand(model, "m1").shape == (12,)
    assert [row["layer"] for row in changes.details] == [
        n.name for n in model.graph if n.outputs[0].name == "y"
    ]


def test_projections_packed_as_kinds_only() -> None:
    # torch.nn.MultiheadAttention: [S, B, 3·E] is taken apart into three before the heads are.
    source = """g (float[3, 2, 8] x, float[8, 24] w, float[24] b, float[8, 8] wo) => (float[6, 8] y)
        <int64[4] kinds = {3, 2, 3, 8}, int64[1] zero = {0}, int64[1] minus2 = {-2}, int64 i0 = {0}, int64 i1 = {1},
         int64 i2 = {2}, int64[3] hs = {3, 8, 2}, int64[2] ms = {6, 8}> {
        m0 = MatMul(x, w) m1 = Add(m0, b) m2 = Reshape(m1, kinds) m3 = Unsqueeze(m2, zero)
        m4 = Transpose <perm = [3, 1, 2, 0, 4]> (m3) m5 = Squeeze(m4, minus2)
        q0 = Gather(m5, i0) k0 = Gather(m5, i1) v0 = Gather(m5, i2)
        q1 = Reshape(q0, hs) q = Transpose <perm = [1, 0, 2]> (q1) k1 = Reshape(k0, hs)
        k = Transpose <perm = [1, 2, 0]> (k1) v1 = Reshape(v0, hs) v = Transpose <perm = [1, 0, 2]> (v1)
        s = MatMul(q, k) p = Softmax <axis = -1> (s) c = MatMul(p, v) t = Transpose <perm = [1, 0, 2]> (c)
        m = Reshape(t, ms) y = MatMul(m, wo) }"""
    model, changes = check_pruned(source, arrays(w=(8, 24), b=(24,), wo=(8, 8)), READER)
    assert changes.counts == {"head removed": 2}
    assert operand(model, "m2").tolist() == [3, 2, 3, 4] and operand(model, "m0").shape == (8, 12)


def test_projections_as_gemm() -> None:
    # The newer exporter flattens to rows, multiplies by the transposed matrix, and folds back.
    source = """g (float[2, 3, 8] x, float[8, 8] wq, float[8, 8] wk, float[8, 8] wv, float[8] bv, float[8, 8] wo)
        => (float[6, 8] y) <int64[2] rows = {6, 8}, int64[4] hs = {2, 3, 4, 2}> {
        r = Reshape(x, rows) q0 = Gemm <transB = 1> (r, wq) q1 = Reshape(q0, hs)
        k0 = Gemm <transB = 1> (r, wk) k1 = Reshape(k0, hs) v0 = Gemm <transB = 1> (r, wv, bv) v1 = Reshape(v0, hs)
        q = Transpose <perm = [0, 2, 1, 3]> (q1) k = Transpose <perm = [0, 2, 3, 1]> (k1)
        v = Transpose <perm = [0, 2, 1, 3]> (v1) s = MatMul(q, k) p = Softmax <axis = -1> (s) c = MatMul(p, v)
        t = Transpose <perm = [0, 2, 1, 3]> (c) m = Reshape(t, rows) y = Gemm <transB = 1> (m, wo) }"""
    weights = arrays(wq=(8, 8), wk=(8, 8), wv=(8, 8), bv=(8,), wo=(8, 8))
    model, changes = check_pruned(source, weights, {"wo": ("y", 1)})
    assert changes.counts == {"head removed": 2}
    assert operand(model, "v0").shape == (4, 8) and operand(model, "v0", 2).shape == (4,)
    assert operand(model, "m").tolist() == [6, 4]


RELATIVE = """r0 = Gather(table, near) r1 = Mul(r0, factor) r2 = Transpose <perm = [2, 0, 1]> (r1)
    r3 = Unsqueeze(r2, zero1) {more} s2 = Add(s1, r3)"""
TABLE = ", float[5, 4] table, int64[S, S] near"


def relative(more: str = "", factor: str = "1.0", **parts: str) -> str:
    """Attention with a learnt bias for each head and distance."""
    source = attention(**{"scores": RELATIVE.format(more=more), "s": "s2", "inputs": TABLE, **parts})
    return source.replace(
        "<int64[4] hs", f"<int64[1] zero1 = {{0}}, float[4] factor = {{{factor}}}, int64[4] hs"
    )


def test_the_table_of_a_bias_for_each_head_is_cut() -> None:
    weights = head_weights() | arrays(table=(5, 4))
    model, changes = check_pruned(relative(factor="1.0, 2.0, 3.0, 4.0"), weights, DECOMPOSED, dims=SIZES)
    assert changes.counts == {"head removed": 2}
    np.testing.assert_array_equal(operand(model, "r0", 0), weights["table"][:, 1:3])
    np.testing.assert_array_equal(operand(model, "r1"), [2, 3])


@pytest.mark.parametrize(
    ("more", "outputs", "reason"),
    [
        ("", ", float[1, 4, S, S] r3", "reach an output"),
        ("z = ReduceMax <keepdims = 0> (r2, zero1)", ", float[S, S] z", "Add takes a number for each"),
        ("z = Shape(r1)", ", int64[3] z", "Add takes a number for each"),
        ("z = ReduceMax <keepdims = 0> (table, zero1)", ", float[4] z", ""),
    ],
)
def test_a_bias_for_each_head_that_something_else_reads(more: str, outputs: str, reason: str) -> None:
    source = relative(more, "1.0, 2.0, 3.0, 4.0", outputs=outputs)
    weights = head_weights() | arrays(table=(5, 4))
    if reason:
        check_kept(with_weights(source, weights), reason)
        return
    # The other reader of the table keeps the whole one.
    model = with_weights(source, weights)
    assert Prune(structured="heads").run(model).modified
    np.testing.assert_array_equal(operand(model, "z", 0), weights["table"])
    np.testing.assert_array_equal(operand(model, "r0", 0), weights["table"][:, 1:3])


def test_a_table_that_is_an_input_stays() -> None:
    check_kept(
        with_weights(relative(factor="1.0, 2.0, 3.0, 4.0"), head_weights()), "Add takes a number for each"
    )


def test_queries_that_are_constant_are_cut() -> None:
    source = attention(
        scores="s2 = MatMul(given, k) s3 = Add(s1, s2)", s="s3", inputs=", float[4, 3, 2] given"
    )
    source = source.replace("[B, S, 8]", "[B, 3, 8]")
    weights = head_weights() | arrays(given=(4, 3, 2))
    model, _ = check_pruned(source, weights, DECOMPOSED, dims={"B": 2})
    np.testing.assert_array_equal(operand(model, "s2", 0), weights["given"][1:3])


# --- what stays


@pytest.mark.parametrize(
    ("parts", "without", "reason"),
    [
        ({"end": "m = Reshape(t, ms) y = Relu(m)"}, "", "reach an output"),
        (
            {"end": "m = Reshape(t, ms) n = CumSum(m, two) o = MatMul(n, wo) y = Add(o, bo)"},
            "",
            "CumSum mixes them",
        ),
        (
            {"end": "z = Size(t) f = CastLike(z, t) w = Mul(t, f) m = Reshape(w, ms) y = MatMul(m, wo)"},
            "",
            "Size mixes",
        ),
        ({}, "bias", "Add takes a number for each from something that is no constant"),
        ({"scores": "s2 = Softmax <axis = 1> (s1)", "s": "s2"}, "", "Softmax mixes them"),
        (
            {"scores": "s2 = ReduceMax <keepdims = 1> (s1, one1) s3 = Sub(s1, s2)", "s": "s3"},
            "",
            "ReduceMax mixes them",
        ),
        (
            {"scores": "s2 = LayerNormalization <axis = 1> (s1, scale)", "s": "s2"},
            "",
            "LayerNormalization mixes",
        ),
        ({"outputs": ", float[B, 4, S, S] p"}, "", "reach an output"),
        ({"outputs": ", float[B, 4, S, 2] kt"}, "", "reach an output"),
        (
            {"outputs": ", int64[1] n", "scores": "n = Shape <start = 1, end = 2> (s1)"},
            "",
            "their number is an output",
        ),
        (
            {
                "scores": "n = Shape <start = 1, end = 2> (s1) f = Cast <to = 1> (n) s2 = Mul(s1, f)",
                "s": "s2",
            },
            "",
            "Softmax uses their number",
        ),
        (
            {
                "inputs": ", float[24] more",
                "outputs": ", float[N, M] z",
                "scores": "n = Shape <start = 1, end = 2> (s1) m1 = Constant <value = int64[1] {-1}> () "
                "zs = Concat <axis = 0> (n, m1) z = Reshape(more, zs)",
            },
            "",
            "a Reshape of something else takes their number",
        ),
        (
            {
                "inputs": ", float[B, 4, 5, 2] past",
                "k": "kp",
                "grouping": "kp = Concat <axis = 2> (past, kt)",
            },
            "",
            "Concat joins",
        ),
        ({"grouping": "ks2 = Unsqueeze(kt, one1) kn = Squeeze(ks2)", "k": "kn"}, "", "Squeeze mixes them"),
    ],
)
def test_heads_that_cannot_be_followed_stay(parts: dict[str, str], without: str, reason: str) -> None:
    weights = {k: v for k, v in head_weights().items() if k != without}
    constants = "int64[1] one1 = {{1}}, float[4, 3, 3] scale = {{" + ", ".join(["1.0"] * 36) + "}},"
    source = attention(**parts).replace(
        "<int64[4] hs", "<" + constants.replace("{{", "{").replace("}}", "}") + " int64[4] hs"
    )
    check_kept(with_weights(source, weights), reason)


@pytest.mark.parametrize(
    ("captured", "reason"),
    [("kt", "a body uses them"), ("n", "their number is an output, or a body uses it")],
)
def test_heads_that_a_body_uses_stay(captured: str, reason: str) -> None:
    first, second = (
        f"{g} () => (float z{g}) {{ i{g} = Cast <to = 1> ({captured}) z{g} = ReduceSum <keepdims = 0> (i{g}) }}"
        for g in ("then", "else")
    )
    scores = f"""n = Shape <start = 1, end = 2> (kt)
        b = If (flag) <then_branch = {first}, else_branch = {second}> s2 = Add(s1, b)"""
    source = attention(inputs=", bool flag", scores=scores, s="s2")
    check_kept(with_weights(source, head_weights()), reason)


@pytest.mark.parametrize("name", ["wq", "wv", "wo", "bq", "bias"])
def test_weights_that_a_caller_may_replace_stay(name: str) -> None:
    model = with_weights(attention(), head_weights())
    model.graph.inputs.append(model.graph.initializers[name])
    changes = Prune(structured="heads").run(model)
    assert not changes.modified and changes.declined


def test_normalization_of_each_head_is_followed_but_not_a_scale_for_each() -> None:
    normalized = {"scores": "qn = LayerNormalization <axis = -1> (s1, ln)", "s": "qn"}
    source = attention(**normalized).replace("<int64[4] hs", "<float[3] ln = {1.0, 2.0, 3.0}, int64[4] hs")
    source = source.replace("[B, S, 8]", "[B, 3, 8]")
    _, changes = check_pruned(source, head_weights(), DECOMPOSED, dims={"B": 2})
    assert changes.counts == {"head removed": 2}
    each = attention(grouping="kn = RMSNormalization <axis = -1> (kt, ln)", k="kn").replace(
        "<int64[4] hs", "<float[4, 1, 2] ln = {1.0, 2.0, 1.0, 3.0, 1.0, 4.0, 1.0, 5.0}, int64[4] hs"
    )
    check_kept(with_weights(each, head_weights(), 23), "RMSNormalization mixes them")


def test_groups_of_channels_that_are_no_heads_stay() -> None:
    source = """g (float[2, 8, 3, 3] x, float[8, 8, 1, 1] w, float[8, 8, 1, 1] v) => (float[2, 8, 3, 3] y)
        <int64[5] s = {2, 4, 2, 3, 3}, int64[4] m = {2, 8, 3, 3}> { c = Conv(x, w) a = Reshape(c, s)
        t = Transpose <perm = [0, 2, 1, 3, 4]> (a) r = Relu(a) b = Reshape(r, m) y = Conv(b, v) }"""
    check_kept(with_weights(source, arrays(w=(8, 8, 1, 1), v=(8, 8, 1, 1))), "no attention compares them")


def test_a_model_without_heads_says_so() -> None:
    source = "g (float[2, 4] x, float[4, 6] w, float[6, 3] v) => (float[2, 3] y) { h = MatMul(x, w) y = MatMul(h, v) }"
    check_kept(
        with_weights(source, arrays(w=(4, 6), v=(6, 3))),
        "no projection by constant floats is seen to be divided into heads",
    )


# --- samples


@pytest.mark.parametrize("name", ["bert-tiny", "gpt-tiny"])
def test_heads_of_sample_models(name: str) -> None:
    model = load(SAMPLES / f"{name}.onnx")
    sizes = {
        n.name: n.inputs[1].shape[0]
        for n in model.graph
        if n.op_type in ("MatMul", "Gemm") and n.inputs[1].const_value is not None
    }
    ids = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    zeroed = model.clone()
    assert Prune(structured="heads").run(model).counts == {"head removed": 4}
    onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)
    after = {n.name: n.inputs[1].const_value.numpy() for n in model.graph if n.name in sizes}
    for node in zeroed.graph:
        if node.name in after and len(after[node.name]) < sizes[node.name]:
            weight = node.inputs[1].const_value.numpy()
            rows = weight * kept(weight, after[node.name], 0)[:, None]
            node.inputs[1].const_value = onnx_ir.tensor(rows, name=node.inputs[1].name)
    expected = run_onnxruntime(zeroed, feeds)
    for key, value in run_onnxruntime(model, feeds).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-4, atol=1e-4)
