"""prune: removing channels equals giving weight 0 to all that reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from checking import check_interface, run_onnxruntime
from rewriting import arrays, with_weights

from graphopt.errors import UsageError
from graphopt.ir import Model
from graphopt.ir.io import load
from graphopt.passes.prune import Prune

SAMPLES = Path(__file__).parents[2] / "samples" / "generated"

CNN = """g (float[2, 3, 8, 8] x, float[8, 3, 3, 3] w, float[8] b, float[8] s, float[8] h, float[8] m, float[8] var,
    float[8, 1, 3, 3] d, float[8, 8, 1, 1] p, float[6, 3, 3, 3] q, float[14, 14, 1, 1] e, float[224, 10] f, float[10] g1)
    => (float[2, 10] y) {
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w, b) n = BatchNormalization(c1, s, h, m, var) r = Relu(n)
    c2 = Conv <pads = [1, 1, 1, 1], group = 8> (r, d) c3 = Conv(c2, p) a = Add(c3, r)
    c4 = Conv <pads = [1, 1, 1, 1]> (x, q) t = Concat <axis = 1> (a, c4)
    c5 = Conv(t, e) l = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c5) z = Flatten(l)
    y = Gemm(z, f, g1)
}"""
WEIGHTS = arrays(
    w=(8, 3, 3, 3),
    b=(8,),
    s=(8,),
    h=(8,),
    m=(8,),
    var=(8,),
    d=(8, 1, 3, 3),
    p=(8, 8, 1, 1),
    q=(6, 3, 3, 3),
    e=(14, 14, 1, 1),
    f=(224, 10),
    g1=(10,),
)


def pruned(source: str, weights: dict[str, np.ndarray], sparsity: float = 0.5) -> tuple[Model, Model, object]:
    model = with_weights(source, weights)
    original = model.clone()
    changes = Prune(sparsity=sparsity).run(model)
    check_interface(original, model)
    onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)
    return original, model, changes


def kept(before: np.ndarray, after: np.ndarray, axis: int) -> np.ndarray:
    """Which entries of `axis` of `before` are in `after` (both cut along that axis only)."""
    rows = [tuple(np.take(before, i, axis).reshape(-1)) for i in range(before.shape[axis])]
    left = {tuple(np.take(after, i, axis).reshape(-1)) for i in range(after.shape[axis])}
    return np.array([row in left for row in rows])


def test_a_network_equals_itself_with_zeros_where_channels_went() -> None:
    _, model, _ = pruned(CNN, WEIGHTS)
    found = {k.removesuffix("/pruned"): v.const_value.numpy() for k, v in model.graph.initializers.items()}
    assert found["w"].shape == (4, 3, 3, 3) and found["d"].shape == (4, 1, 3, 3)
    assert found["p"].shape == (4, 4, 1, 1) and found["q"].shape == (3, 3, 3, 3)
    assert found["e"].shape == (7, 7, 1, 1) and found["f"].shape == (112, 10)
    first, second = kept(WEIGHTS["w"], found["w"], 0), kept(WEIGHTS["q"], found["q"], 0)
    zeroed = {k: v.copy() for k, v in WEIGHTS.items()}
    zeroed["p"][:, ~first] = 0
    zeroed["e"][:, ~np.concatenate([first, second])] = 0
    zeroed["f"][~kept(WEIGHTS["f"], found["f"], 0)] = 0
    feeds = arrays(1, x=(2, 3, 8, 8))
    expected = run_onnxruntime(with_weights(CNN, zeroed), feeds)["y"]
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], expected, rtol=1e-4, atol=1e-2)


def test_the_smallest_channels_go() -> None:
    source = """g (float[2, 4] x, float[4, 6] w, float[6, 3] v) => (float[2, 3] y) {
        h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"""
    weights = arrays(w=(4, 6), v=(6, 3))
    weights["w"][:, [1, 4]] *= 1e-3
    weights["v"][[1, 4]] *= 1e-3
    _, model, changes = pruned(source, weights, 0.34)
    left = [v.const_value.numpy() for v in model.graph.initializers.values()]
    np.testing.assert_array_equal(left[0], weights["w"][:, [0, 2, 3, 5]])
    np.testing.assert_array_equal(left[1], weights["v"][[0, 2, 3, 5]])
    assert changes.counts == {"channel removed": 2}  # type: ignore[attr-defined]


def test_a_reshape_with_a_number_for_the_channels_follows() -> None:
    source = """g (float[2, 3, 4, 4] x, float[4, 3, 1, 1] w, float[64, 5] f) => (float[2, 5] y)
        <int64[2] s = {2, 64}> { c = Conv(x, w) r = Reshape(c, s) y = MatMul(r, f) }"""
    _, model, _ = pruned(source, arrays(w=(4, 3, 1, 1), f=(64, 5)))
    assert run_onnxruntime(model, arrays(x=(2, 3, 4, 4)))["y"].shape == (2, 5)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Relu(h)", "reach an output"),
        ("s = Softmax(h) y = MatMul(s, v)", "Softmax mixes them"),
        ("k = Shape(h) t = ConstantOfShape(k) y = MatMul(t, v)", "Shape mixes them"),
        ("a = Add(h, o) y = MatMul(a, v)", "Add takes a number for each from something that is no constant"),
    ],
)
def test_what_cannot_be_followed_stays(body: str, reason: str) -> None:
    source = f"""g (float[2, 4] x, float[4, 6] w, float[6, 6] v, float[2, 6] o) => (float[2, 6] y) {{
        h = MatMul(x, w) {body} }}"""
    _, _, changes = pruned(source, arrays(w=(4, 6), v=(6, 6)))
    assert not changes.modified, changes  # type: ignore[attr-defined]
    assert any(reason in why for why in changes.declined), changes.declined  # type: ignore[attr-defined]


def test_options() -> None:
    for wrong in ({"sparsity": 1.0}, {"sparsity": -0.1}, {"structured": "blocks"}):
        with pytest.raises(UsageError, match="GO303"):
            Prune(**wrong)  # type: ignore[arg-type]
