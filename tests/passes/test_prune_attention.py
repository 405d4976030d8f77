"""prune of heads of the operators Attention and RotaryEmbedding."""

from __future__ import annotations

import numpy as np
import pytest
from pruning import check_kept, check_pruned, kept, operand
from rewriting import arrays, with_weights

READER = {"wo": ("y", 0)}


def operator(kv: int, flat: bool, *, mask: str = "", channels: int = 2, **extra: str) -> str:
    heads = f"q_num_heads = 4, kv_num_heads = {kv}"
    inputs = extra.get("inputs", "") + (", float[4, 3, 3] mask" if mask == "mask" else "")
    kinds = """q1 = Reshape(q0, hs) q2 = Transpose <perm = [0, 2, 1, 3]> (q1) k1 = Reshape(k0, ks)
        k2 = Transpose <perm = [0, 2, 1, 3]> (k1) v1 = Reshape(v0, vs) v2 = Transpose <perm = [0, 2, 1, 3]> (v1)"""
    attributes = [*([heads] if flat else []), *([extra["attributes"]] if "attributes" in extra else [])]
    call = f"Attention <{', '.join(attributes)}>" if attributes else "Attention"
    call += "(q0, k0, v0" if flat else "(q2, k2, v2"
    call += (f", {mask}" if mask else "") + extra.get("more", "") + ")"
    behind = "" if flat else "t = Transpose <perm = [0, 2, 1, 3]> (c) m = Reshape(t, ms)"
    return f"""g (float[2, 3, 8] x, float[8, 8] wq, float[8, {2 * kv}] wk, float[8, {channels * kv}] wv,
        float[{4 * channels}, 8] wo{inputs}) => (float[2, 3, 8] y{extra.get("outputs", "")})
        <int64[4] hs = {{0, 0, 4, 2}}, int64[4] ks = {{0, 0, {kv}, 2}}, int64[4] vs = {{0, 0, {kv}, {channels}}},
         int64[3] ms = {{0, 0, {4 * channels}}}> {{
        q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) {"" if flat else kinds}
        {extra.get("results", "m" if flat else "c")} = {call} {behind} y = MatMul(m, wo) }}"""


def operator_weights(kv: int, channels: int = 2) -> dict[str, np.ndarray]:
    return arrays(wq=(8, 8), wk=(8, 2 * kv), wv=(8, channels * kv), wo=(4 * channels, 8), mask=(4, 3, 3))


@pytest.mark.parametrize("kv", [4, 2])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("mask", ["", "mask"])
def test_operator(kv: int, flat: bool, mask: str) -> None:
    weights = {k: v for k, v in operator_weights(kv, 3).items() if k != "mask" or mask}
    source = operator(kv, flat, mask=mask, channels=3)
    model, changes = check_pruned(source, weights, READER, opset=23)
    assert changes.counts == {"head removed": 2}
    (node,) = (n for n in model.graph if n.op_type == "Attention")
    if flat:
        assert node.attributes["q_num_heads"].value == 2 and node.attributes["kv_num_heads"].value == kv // 2
    else:
        assert "q_num_heads" not in node.attributes
        assert operand(model, "k1").tolist() == [0, 0, kv // 2, 2]
    if mask:
        left = kept(weights["wo"].reshape(4, -1), operand(model, "y").reshape(2, -1), 0)
        np.testing.assert_array_equal(node.inputs[3].const_value.numpy(), weights["mask"][left])


@pytest.mark.parametrize("flat", [True, False])
def test_operator_with_a_mask_that_all_heads_share(flat: bool) -> None:
    source = operator(4, flat, mask="given", inputs=", float[2, 1, 3, 3] given", attributes="is_causal = 1")
    weights = {k: v for k, v in operator_weights(4).items() if k != "mask"}
    _, changes = check_pruned(source, weights, READER, opset=23)
    assert changes.counts == {"head removed": 2}


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"mask": "given", "inputs": ", float[2, 4, 3, 3] given"}, "Attention mixes them"),
        (
            {
                "results": "c, a, b",
                "inputs": ", float[2, 4, 1, 2] pk, float[2, 4, 1, 2] pv",
                "more": ", , pk, pv",
                "outputs": ", float[2, 4, 4, 2] a, float[2, 4, 4, 2] b",
            },
            "Attention has a cache",
        ),
        ({"results": "c, pk, pv, a", "outputs": ", float[2, 4, 3, 3] a"}, "its scores are an output"),
    ],
)
def test_operators_that_cannot_be_followed(extra: dict[str, str], reason: str) -> None:
    weights = {k: v for k, v in operator_weights(4).items() if k != "mask"}
    check_kept(with_weights(operator(4, False, **extra), weights, 23), reason)


def test_rotary_embedding() -> None:
    rotated = operator(4, True).replace(
        "m = Attention", "q3 = RotaryEmbedding <num_heads = 4> (q0, cos, sin)  m = Attention"
    )
    source = rotated.replace("(q0, k0, v0", "(q3, k0, v0").replace(
        "float[8, 8] wo", "float[8, 8] wo, float[2, 3, 1] cos, float[2, 3, 1] sin"
    )
    weights = {k: v for k, v in operator_weights(4).items() if k != "mask"}
    model, changes = check_pruned(source, weights, READER, opset=23)
    assert changes.counts == {"head removed": 2}
    (node,) = (n for n in model.graph if n.op_type == "RotaryEmbedding")
    assert node.attributes["num_heads"].value == 2


def test_operators_that_share_a_mask_for_each_head() -> None:
    weights = arrays(**{f"{k}{i}": (8, 8) for i in (1, 2) for k in ("wq", "wk", "wv", "wo")}, table=(5, 4))
    inputs = ", ".join(f"float[{', '.join(map(str, array.shape))}] {name}" for name, array in weights.items())
    layers = " ".join(
        f"""q{i} = MatMul({x}, wq{i}) k{i} = MatMul({x}, wk{i}) v{i} = MatMul({x}, wv{i})
        m{i} = Attention <q_num_heads = 4, kv_num_heads = 4> (q{i}, k{i}, v{i}, mask) y{i} = MatMul(m{i}, wo{i})"""
        for i, x in ((1, "x"), (2, "y1"))
    )
    source = f"""g (float[2, 3, 8] x, int64[3, 3] near, {inputs}) => (float[2, 3, 8] y2) {{
        r = Gather(table, near) mask = Transpose <perm = [2, 0, 1]> (r) {layers} }}"""
    readers = {"wo1": ("y1", 0), "wo2": ("y2", 0)}
    model, changes = check_pruned(source, weights, readers, opset=23)
    assert changes.counts == {"head removed": 4}
    first, second = (kept(weights[n], operand(model, r), 0) for n, (r, _) in readers.items())
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(operand(model, "r", 0), weights["table"][:, first[::2]])
