"""prune of heads in several layers: what cannot be cut is put back, what shares weights is cut alike."""

from __future__ import annotations

import numpy as np
import onnx_ir
import pytest
from checking import run_onnxruntime
from pruning import (
    attention,
    check_kept,
    check_pruned,
    head_weights,
    kept,
    layer_weights,
    operand,
    two_layers,
)
from rewriting import arrays, with_weights

from graphopt.ir import Model
from graphopt.passes.prune import Prune

UNCERTAIN = """a1 = Constant <value = int64[3] {0, 0, 4}> () a2 = Constant <value = int64[3] {0, 0, 4}> ()
    sum = Add(a1, a2) m = Reshape(t, sum) o = MatMul(m, wo) y = Add(o, bo)"""


def test_a_cut_that_cannot_be_completed_is_undone() -> None:
    model = with_weights(attention(end=UNCERTAIN), head_weights())
    feeds = arrays(1, x=(2, 3, 8))
    before = run_onnxruntime(model, feeds)["y"]
    proto = onnx_ir.to_proto(model)
    check_kept(model, "a shape that depends on them is computed in a way that is not followed")
    assert onnx_ir.to_proto(model).SerializeToString() == proto.SerializeToString()
    np.testing.assert_array_equal(run_onnxruntime(model, feeds)["y"], before)


@pytest.mark.parametrize("cut", [1, 2])
def test_one_layer_is_cut_where_another_cannot_be(cut: int) -> None:
    targets = ("ms", "sum") if cut == 1 else ("sum", "ms")
    model, changes = check_pruned(two_layers(targets), layer_weights(), {f"wo{cut}": (f"y{cut}", 0)})
    assert changes.counts == {"head removed": 2} and len(changes.details) == 1
    assert any("computed in a way that is not followed" in why for why in changes.declined)
    other = 3 - cut
    np.testing.assert_array_equal(operand(model, f"y{other}"), layer_weights()[f"wo{other}"])


def test_each_layer_ranks_its_own_heads() -> None:
    readers = {"wo1": ("y1", 0), "wo2": ("y2", 0)}
    model, changes = check_pruned(two_layers(), layer_weights(), readers)
    assert [row["after"] for row in changes.details] == [2, 2]
    assert operand(model, "y1").shape == operand(model, "y2").shape == (4, 8)


def shared(model: Model, names: dict[str, str]) -> Model:
    """`model` with other weights in the place of some."""
    for old, new in names.items():
        model.graph.initializers[old].replace_all_uses_with(model.graph.initializers[new])
        del model.graph.initializers[old]
    return model


def test_layers_that_share_all_weights_are_cut_alike() -> None:
    # As ALBERT: one layer, twelve times.
    weights = layer_weights()
    names = {f"{k}2": f"{k}1" for k in ("wq", "wk", "wv", "wo")}
    model = shared(with_weights(two_layers(), weights), names)
    changes = Prune(structured="heads").run(model)
    assert changes.counts == {"head removed": 2} and len(changes.details) == 1
    assert len([v for v in model.graph.initializers.values() if len(v.shape or ()) == 2]) == 4
    (row,) = changes.details
    assert row["bytes_before"] == 4 * 4 * 64 and row["bytes_after"] == 2 * 4 * 64
    left = kept(weights["wo1"], operand(model, "y1"), 0)
    zeroed = {**weights, "wo1": weights["wo1"] * left[:, None]}
    feeds = arrays(1, x=(2, 3, 8))
    expected = run_onnxruntime(shared(with_weights(two_layers(), zeroed), names), feeds)["y2"]
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y2"], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["wq1", "wv1", "wo1"])
def test_weights_that_something_else_reads_too_stay(name: str) -> None:
    source = two_layers(("ms", "sum"), f"z = Relu({name})", ", float[8, 8] z")
    check_kept(with_weights(source, layer_weights()), "another operator uses the same weights")


def test_layers_that_share_some_weights_are_cut_alike() -> None:
    model = shared(with_weights(two_layers(), layer_weights()), {"wk2": "wk1"})
    changes = Prune(structured="heads").run(model)
    assert changes.counts["head removed"] and len(changes.details) == 1
    first, second = (operand(model, f"k0{i}") for i in (1, 2))
    np.testing.assert_array_equal(first, second)
    whole = layer_weights()
    for i in (1, 2):
        left = kept(whole["wk1"].T.reshape(4, -1), first.T.reshape(2, -1), 0)
        expected = whole[f"wo{i}"].reshape(4, -1)[left].reshape(4, 8)
        np.testing.assert_array_equal(operand(model, f"y{i}"), expected)


def test_layers_that_share_a_bias_lose_the_same_heads() -> None:
    # As T5: the first layer's table of distances serves all.
    source = two_layers()
    for i in (1, 2):
        source = source.replace(
            f"p{i} = Softmax <axis = -1> (s{i})", f"b{i} = Add(s{i}, r) p{i} = Softmax <axis = -1> (b{i})"
        )
    source = source.replace(
        "q01 = ", "r0 = Gather(table, near) r = Transpose <perm = [2, 0, 1]> (r0) q01 = ", 1
    )
    source = source.replace("float[2, 3, 8] x,", "float[2, 3, 8] x, float[5, 4] table, int64[3, 3] near,")
    weights = layer_weights() | arrays(table=(5, 4))
    readers = {"wo1": ("y1", 0), "wo2": ("y2", 0)}
    model, changes = check_pruned(source, weights, readers)
    assert changes.counts == {"head removed": 4}
    (row,) = changes.details
    assert (row["before"], row["after"]) == (8, 4)
    first, second = (kept(weights[n], operand(model, r), 0) for n, (r, _) in readers.items())
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(operand(model, "r0", 0), weights["table"][:, first[::2]])
