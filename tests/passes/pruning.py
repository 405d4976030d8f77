"""What tests of pruning share: a pruned model is compared with itself with zeros where things went."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir
from checking import check_interface, random_feeds, run_onnxruntime
from rewriting import arrays, with_weights

from graphopt.ir import Model, text
from graphopt.passes.prune import Prune
from graphopt.transform import Changes


def kept(before: np.ndarray, after: np.ndarray, axis: int) -> np.ndarray:
    """Which entries of `axis` of `before` are in `after` (both cut along that axis only)."""
    rows = [tuple(np.take(before, i, axis).reshape(-1)) for i in range(before.shape[axis])]
    left = {tuple(np.take(after, i, axis).reshape(-1)) for i in range(after.shape[axis])}
    found = np.array([row in left for row in rows])
    assert found.sum() == after.shape[axis]
    return found


def operand(model: Model, result: str, index: int = 1) -> np.ndarray:
    """The numbers of operand `index` of the node that makes `result`."""
    (value,) = (n.inputs[index] for n in model.graph if any(v.name == result for v in n.outputs))
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def check_pruned(
    source: str,
    weights: Mapping[str, np.ndarray],
    readers: Mapping[str, tuple[str, int]],
    *,
    structured: str = "heads",
    sparsity: float = 0.5,
    opset: int = 18,
    dims: Mapping[str, int] | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
) -> tuple[Model, Changes]:
    """Prune, and compare with the whole model that has zeros where `readers` read what is gone.

    `readers`: the weights that read channels: by name, the result of their node and the axis.
    """
    model = with_weights(source, weights, opset)
    original = model.clone()
    changes = Prune(sparsity=sparsity, structured=structured).run(model)
    assert changes.modified, changes.declined
    check_interface(original, model)
    onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)
    zeroed = {name: array.copy() for name, array in weights.items()}
    for name, (result, axis) in readers.items():
        left = kept(weights[name], operand(model, result), axis)
        assert not left.all(), f"{name} was not cut"
        zeroed[name][(*[slice(None)] * axis, ~left)] = 0
    for seed in range(2):
        fed = feeds or random_feeds(original, {k: v + seed for k, v in (dims or {}).items()}, seed)
        whole, found = run_onnxruntime(original, fed), run_onnxruntime(model, fed)
        for key, expected in run_onnxruntime(with_weights(source, zeroed, opset), fed).items():
            assert np.abs(expected - whole[key]).max() > 1e-3, "what went says nothing: the test cannot fail"
            np.testing.assert_allclose(found[key], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    return model, changes


def check_kept(model: Model, reason: str, *, structured: str = "heads") -> Changes:
    """Pruning leaves `model` exactly as it is, and says why."""
    before = model.clone()
    changes = Prune(structured=structured).run(model)
    assert not changes.modified, changes
    assert not changes.details
    assert any(reason in why for why in changes.declined), changes.declined
    assert text.canonical(model) == text.canonical(before)
    assert list(model.graph.initializers) == list(before.graph.initializers)
    assert [n.name for n in model.graph] == [n.name for n in before.graph]
    for old, new in zip(before.graph, model.graph, strict=True):
        assert [v.name if v is not None else None for v in old.inputs] == [
            v.name if v is not None else None for v in new.inputs
        ]
        assert list(old.attributes) == list(new.attributes)
    return changes


ATTENTION = """g (float[B, S, 8] x, float[8, 8] wq, float[8] bq, float[8, KV] wk, float[8, KV] wv, float[8, 8] wo,
    float[8] bo, float[4, 1, 1] bias{inputs}) => (float[B, S, 8] y{outputs})
    <int64[4] hs = {{0, 0, 4, 2}}, int64[4] ks = {{0, 0, {kv}, 2}}, int64[3] ms = {{0, 0, 8}}, int64 one = {{1}},
     int64 two = {{2}}, int64 three = {{3}}> {{
    q0 = MatMul(x, wq) q1 = Add(q0, bq) q2 = Reshape(q1, hs) q = Transpose <perm = [0, 2, 1, 3]> (q2)
    k0 = MatMul(x, wk) k1 = Reshape(k0, ks) kt = Transpose <perm = [0, 2, 1, 3]> (k1) {grouping}
    k = Transpose <perm = [0, 1, 3, 2]> ({k})
    v0 = MatMul(x, wv) v1 = Reshape(v0, ks) vt = Transpose <perm = [0, 2, 1, 3]> (v1) {values}
    s0 = MatMul(q, k) s1 = Add(s0, bias) {scores} p = Softmax <axis = -1> ({s}) c = MatMul(p, {v})
    t = Transpose <perm = [0, 2, 1, 3]> (c) {end}
}}"""
END = "m = Reshape(t, ms) o = MatMul(m, wo) y = Add(o, bo)"


def attention(kv: int = 4, **parts: str) -> str:
    """Decomposed attention with 4 query heads and `kv` heads of keys and values, 2 channels each."""
    texts = {"inputs": "", "outputs": "", "grouping": "", "k": "kt", "values": "", "v": "vt", "scores": ""}
    texts |= {"s": "s1", "end": END, **parts}
    return ATTENTION.replace("KV", str(2 * kv)).format(kv=kv, **texts)


def head_weights(kv: int = 4) -> dict[str, np.ndarray]:
    """Weights of which the first and the last head are worth little, though not nothing."""
    shapes = {"wq": (8, 8), "bq": (8,), "wk": (8, 2 * kv), "wv": (8, 2 * kv), "wo": (8, 8), "bo": (8,)}
    weights = arrays(**shapes, bias=(4, 1, 1))
    weights["wv"][:, :2] *= 0.1
    weights["wv"][:, -2:] *= 0.05
    return weights


DECOMPOSED = {"wo": ("o", 0)}
SIZES = {"B": 2, "S": 3}


LAYER = """q0# = MatMul(IN, wq#) q1# = Reshape(q0#, hs) q2# = Transpose <perm = [0, 2, 1, 3]> (q1#)
    k0# = MatMul(IN, wk#) k1# = Reshape(k0#, hs) k2# = Transpose <perm = [0, 2, 3, 1]> (k1#)
    v0# = MatMul(IN, wv#) v1# = Reshape(v0#, hs) v2# = Transpose <perm = [0, 2, 1, 3]> (v1#)
    s# = MatMul(q2#, k2#) p# = Softmax <axis = -1> (s#) c# = MatMul(p#, v2#)
    t# = Transpose <perm = [0, 2, 1, 3]> (c#) m# = Reshape(t#, MS) y# = MatMul(m#, wo#)"""


def two_layers(targets: tuple[str, str] = ("ms", "ms"), last: str = "", outputs: str = "") -> str:
    """Two layers of attention, one behind the other, with weights of their own."""
    weights = ", ".join(f"float[8, 8] {k}{i}" for i in (1, 2) for k in ("wq", "wk", "wv", "wo"))
    first = LAYER.replace("#", "1").replace("IN", "x").replace("MS", targets[0])
    second = LAYER.replace("#", "2").replace("IN", "y1").replace("MS", targets[1])
    return f"""g (float[2, 3, 8] x, {weights}) => (float[2, 3, 8] y2{outputs})
        <int64[4] hs = {{2, 3, 4, 2}}, int64[3] ms = {{2, 3, 8}}, int64[3] a = {{0, 3, 4}}, int64[3] b = {{2, 0, 4}}> {{
        sum = Add(a, b) {first} {second} {last} }}"""


def layer_weights() -> dict[str, np.ndarray]:
    names = [f"{k}{i}" for i in (1, 2) for k in ("wq", "wk", "wv", "wo")]
    return arrays(**dict.fromkeys(names, (8, 8)))
