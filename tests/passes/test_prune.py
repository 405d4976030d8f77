"""prune: removing channels equals giving weight 0 to all that reads them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import pytest
from checking import check_interface, run_onnxruntime
from pruning import check_kept, check_pruned, kept, operand
from rewriting import arrays, with_weights

from graphopt.errors import UsageError
from graphopt.ir import Model
from graphopt.passes.prune import Prune

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
        ("k = Shape(h) t = ConstantOfShape(k) y = MatMul(t, v)", "MatMul uses their number"),
        ("a = Add(h, o) y = MatMul(a, v)", "Add takes a number for each from something that is no constant"),
    ],
)
def test_what_cannot_be_followed_stays(body: str, reason: str) -> None:
    source = f"""g (float[2, 4] x, float[4, 6] w, float[6, 6] v, float[2, 6] o) => (float[2, 6] y) {{
        h = MatMul(x, w) {body} }}"""
    _, _, changes = pruned(source, arrays(w=(4, 6), v=(6, 6)))
    assert not changes.modified, changes  # type: ignore[attr-defined]
    assert any(reason in why for why in changes.declined), changes.declined  # type: ignore[attr-defined]


CONV = """g (float[2, 3, 4, 4] x, float[6, 3, 1, 1] w, float[5, 6, 1, 1] v{inputs}) => (float[{result}] y{outputs})
    <int64[4] twice = {{2, 6, 8, 8}}, float[4] scales = {{1.0, 1.0, 2.0, 2.0}}, float[0] none = {{}}, int64[1] one = {{1}},
     int64[1] minus = {{-1}}, int64[1] three = {{3}}, int64[2] space = {{2, 3}}, float[6] s = {{1.0, 2.0, 3.0, 4.0, 5.0, 6.0}},
     float[6] b = {{6.0, 5.0, 4.0, 3.0, 2.0, 1.0}}, int64[8] edge = {{0, 0, 1, 0, 0, 0, 0, 1}}, int64[2] halves = {{3, 3}},
     int64[2] space0 = {{0, 0}}, int64[1] zero1 = {{0}}, int64[1] two1 = {{2}}, int64[1] four1 = {{4}}> {{
    c = Conv(x, w) {body} y = Conv(d, v) }}"""


def convolutions(body: str, result: str = "2, 5, 4, 4", inputs: str = "", outputs: str = "") -> str:
    return CONV.format(body=body, result=result, inputs=inputs, outputs=outputs)


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (
            "t = Transpose <perm = [0, 3, 2, 1]> (c) r = Softmax <axis = 1> (t) d = Transpose <perm = [0, 3, 2, 1]> (r)",
            "2, 5, 4, 4",
        ),
        ('d = Resize <mode = "linear"> (c, none, scales)', "2, 5, 8, 8"),
        ('d = Resize <mode = "cubic"> (c, none, none, twice)', "2, 5, 8, 8"),
        ("d = Slice(c, one, three, three)", "2, 5, 4, 2"),
        ("d = Pad(c, edge)", "2, 5, 5, 5"),
        ("n = Shape(none) p = Concat <axis = 0> (space0, n, n, space0, n, one) d = Pad(c, p)", "2, 5, 4, 5"),
        ("d = ReduceMean(c, space)", "2, 5, 1, 1"),
        ("m = ReduceMean <keepdims = 0> (c, space) d = Unsqueeze(m, space)", "2, 5, 1, 1"),
        ("u = Unsqueeze(c, one) r = Relu(u) d = Squeeze(r, one)", "2, 5, 4, 4"),
        ("d = InstanceNormalization(c, s, b)", "2, 5, 4, 4"),
        ("e, f = Split <axis = 3, num_outputs = 2> (c) d = Concat <axis = 2> (f, e)", "2, 5, 8, 2"),
        ("i = Shape(x) g = Gather <axis = 3> (c, one) d = Sin(g)", "2, 5, 4, 1"),
        ("r = Add(c, c) n = IsNaN(r) d = Where(n, c, r)", "2, 5, 4, 4"),
        (
            "h = Shape(c) f = Slice(h, zero1, two1) t = Slice(twice, two1, four1) z = Concat <axis = 0> (f, t) "
            "d = Resize(c, none, none, z)",
            "2, 5, 8, 8",
        ),
        (
            "h = Shape(c) f = Slice(h, two1, four1, zero1, one) g = Cast <to = 1> (f) m = ReduceMax <keepdims = 0> (g) "
            "d = Mul(c, m)",
            "2, 5, 4, 4",
        ),
        ("h = Shape(c) k = Gather(h, three) f = Cast <to = 1> (k) d = Mul(c, f)", "2, 5, 4, 4"),
    ],
)
def test_what_leaves_the_channels_alone_is_followed(body: str, result: str) -> None:
    weights = arrays(w=(6, 3, 1, 1), v=(5, 6, 1, 1))
    model, changes = check_pruned(convolutions(body, result), weights, {"v": ("y", 1)}, structured="channels")
    assert changes.counts == {"channel removed": 3}
    assert operand(model, "c").shape == (3, 3, 1, 1)
    (row,) = changes.details
    assert row["unit"] == "channel" and (row["before"], row["after"]) == (6, 3)
    assert row["bytes_after"] < row["bytes_before"]


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (
            "t = Transpose <perm = [0, 3, 2, 1]> (c) r = Softmax <axis = 3> (t) d = Transpose <perm = [0, 3, 2, 1]> (r)",
            "",
            "Softmax",
        ),
        ("r = ReduceMean(c, one) d = Mul(c, r)", "", "ReduceMean mixes them"),
        ("d = Slice(c, one, three, one, one)", "", "Slice mixes them"),
        ("d = LRN <size = 3> (c)", "", "LRN mixes them"),
        ("p = Concat <axis = 0> (zero1, one, space0, space0, space0) d = Pad(c, p)", "", "Pad mixes them"),
        (
            "n = Shape(none) p = Concat <axis = 0> (zero1, n, space0, space0, space0) d = Pad(c, p)",
            "",
            "Pad mixes them",
        ),
        ("h = Shape(c) k = Gather(h, one) f = Cast <to = 1> (k) d = Mul(c, f)", "", "Conv uses their number"),
        (
            "h = Shape(c) k = Slice(h, one, two1) f = Cast <to = 1> (k) d = Mul(c, f)",
            "",
            "Conv uses their number",
        ),
        ("t = Equal(i1, i1) d = Dropout(c, half, t)", "", "Dropout mixes them"),
        ("h = Shape <start = 1, end = 2> (c)  d = Neg(c)", ", int64[1] h", "their number is an output"),
        (
            "t = Transpose <perm = [0, 2, 3, 1]> (c) l = LayerNormalization <axis = -1> (t, s, b) "
            "d = Transpose <perm = [0, 3, 1, 2]> (l)",
            "",
            "LayerNormalization mixes them",
        ),
        ("d = CumSum(c, i1)", ", float[2, 6, 4, 4] c", "CumSum mixes them"),
        ("k = Size(c) f = CastLike(k, c) d = Mul(c, f)", "", "Size mixes them"),
        (
            "e, f = Split <axis = 1> (c, halves) d = Concat <axis = 1> (f, e) z, zi = TopK <axis = 1> (f, one)",
            "",
            "TopK",
        ),
        ("d = GroupNormalization <num_groups = 3> (c, g3, g3)", "", "GroupNormalization mixes them"),
        (
            'd = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (c, roi, scales)',
            "",
            "Resize mixes them",
        ),
    ],
)
def test_what_mixes_channels_keeps_them(body: str, outputs: str, reason: str) -> None:
    source = convolutions(body, "2, 5, H, W", outputs=outputs)
    if body.startswith("d = Slice"):
        source = source.replace("v) }", "v2) }").replace("float[5, 6, 1, 1] v", "float[5, 2, 1, 1] v2")
    weights = arrays(w=(6, 3, 1, 1), v=(5, 6, 1, 1), v2=(5, 2, 1, 1))
    source = source.replace(
        "<int64[4] twice",
        "<int64 i1 = {1}, float half = {0.5}, float[6] g3 = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, float[8] roi = {0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0},\n int64[4] twice",
    )
    opset = 21 if "GroupNormalization" in body else 18
    check_kept(with_weights(source, weights, opset), reason, structured="channels")


def test_transposed_convolutions() -> None:
    source = """g (float[2, 3, 4, 4] x, float[3, 6, 2, 2] w, float[6] b, float[6, 8, 2, 2] v) => (float[2, 8, 16, 16] y) {
        c = ConvTranspose <strides = [2, 2]> (x, w, b) r = Relu(c) y = ConvTranspose <strides = [2, 2]> (r, v) }"""
    weights = arrays(w=(3, 6, 2, 2), b=(6,), v=(6, 8, 2, 2))
    model, changes = check_pruned(source, weights, {"v": ("y", 0)}, structured="channels")
    assert changes.counts == {"channel removed": 3}
    assert operand(model, "c").shape == (3, 3, 2, 2) and operand(model, "c", 2).shape == (3,)
    assert operand(model, "y").shape == (3, 8, 2, 2)


def test_grouped_transposed_convolutions_stay() -> None:
    source = """g (float[2, 3, 4, 4] x, float[6, 3, 1, 1] w, float[6, 1, 2, 2] v) => (float[2, 6, 5, 5] y) {
        c = Conv(x, w) y = ConvTranspose <group = 6> (c, v) }"""
    weights = arrays(w=(6, 3, 1, 1), v=(6, 1, 2, 2))
    check_kept(with_weights(source, weights), "ConvTranspose mixes them", structured="channels")


@pytest.mark.parametrize("split", ["Split <axis = -1, num_outputs = 2> (h)", "Split <axis = -1> (h, halves)"])
def test_gated_layers_lose_a_channel_and_its_gate_together(split: str) -> None:
    source = f"""g (float[N, 4] x, float[4, 12] w, float[12] b, float[6, 3] v) => (float[N, 3] y)
        <int64[2] halves = {{6, 6}}> {{
        m = MatMul(x, w) h = Add(m, b) e, f = {split} g = Sigmoid(f) d = Mul(e, g) y = MatMul(d, v) }}"""
    weights = arrays(w=(4, 12), b=(12,), v=(6, 3))
    model, changes = check_pruned(source, weights, {"v": ("y", 0)}, structured="channels")
    assert changes.counts == {"channel removed": 3}
    left = kept(weights["v"], operand(model, "y"), 0)
    np.testing.assert_array_equal(operand(model, "m"), weights["w"][:, np.tile(left, 2)])
    (node,) = (n for n in model.graph if n.op_type == "Split")
    assert node.inputs[1].const_value.numpy().tolist() == [3, 3] and "num_outputs" not in node.attributes


def test_rows_of_a_reshape() -> None:
    source = """g (float[B, S, 4] x, float[4, 6] w, float[6, 3] v) => (float[N, 3] y) <int64[2] rows = {-1, 6}> {
        h = MatMul(x, w) r = Reshape(h, rows) y = Gemm(r, v) }"""
    model, changes = check_pruned(
        source, arrays(w=(4, 6), v=(6, 3)), {"v": ("y", 0)}, structured="channels", dims={"B": 2, "S": 3}
    )
    assert changes.counts == {"channel removed": 3} and operand(model, "r").tolist() == [-1, 3]


def test_parts_of_a_concat_along_another_axis_lose_the_same_channels() -> None:
    source = """g (float[2, 3, 4, 4] x, float[6, 3, 1, 1] w, float[6, 3, 1, 1] u, float[5, 6, 1, 1] v)
        => (float[2, 5, 8, 4] y) { a = Conv(x, w) b = Conv(x, u) c = Concat <axis = 2> (a, b) y = Conv(c, v) }"""
    weights = arrays(w=(6, 3, 1, 1), u=(6, 3, 1, 1), v=(5, 6, 1, 1))
    model, changes = check_pruned(source, weights, {"v": ("y", 1)}, structured="channels")
    assert changes.counts == {"channel removed": 3}
    np.testing.assert_array_equal(
        kept(weights["w"], operand(model, "a"), 0), kept(weights["u"], operand(model, "b"), 0)
    )
    given = source.replace("b = Conv(x, u)", "").replace("v)\n", "v, float[2, 6, 4, 4] b)\n")
    check_kept(
        with_weights(given, weights),
        "Concat joins them with something that keeps its size",
        structured="channels",
    )


def test_weights_that_two_layers_share() -> None:
    source = """g (float[2, 4] x, float[4, 4] w, float[4, 3] v) => (float[2, 3] y) {
        a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) d = Relu(c) y = MatMul(d, v) }"""
    # What the first one makes the second one reads, but it also reads the input of the model.
    check_kept(
        with_weights(source, arrays(w=(4, 4), v=(4, 3))),
        "another operator uses the same weights",
        structured="channels",
    )
    twice = """g (float[2, 4] x, float[2, 4] z, float[4, 6] w, float[6] b, float[6, 3] v) => (float[2, 3] y) {
        a = MatMul(x, w) a1 = Add(a, b) c = MatMul(z, w) c1 = Add(c, b) d = Mul(a1, c1) y = MatMul(d, v) }"""
    model, changes = check_pruned(
        twice, arrays(w=(4, 6), b=(6,), v=(6, 3)), {"v": ("y", 0)}, structured="channels"
    )
    assert changes.counts == {"channel removed": 3} and len(model.graph.initializers) == 3


@pytest.mark.parametrize("name", ["w", "v", "s"])
def test_weights_that_a_caller_may_replace_stay(name: str) -> None:
    source = convolutions("d = InstanceNormalization(c, s, b)")
    model = with_weights(source, arrays(w=(6, 3, 1, 1), v=(5, 6, 1, 1)))
    model.graph.inputs.append(model.graph.initializers[name])
    changes = Prune().run(model)
    assert not changes.modified


def test_options() -> None:
    for wrong in ({"sparsity": 1.0}, {"sparsity": -0.1}, {"structured": "blocks"}):
        with pytest.raises(UsageError, match="GO303"):
            Prune(**wrong)  # type: ignore[arg-type]
