"""What tests of pruning share: a pruned model is compared with itself with zeros where things went."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir
from checking import check_interface, random_feeds, run_onnxruntime
from rewriting import with_weights

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
