"""One call for passes whose result is named by its operators, because its weights are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir
from checking import check_interface, check_same_results, model_from, random_feeds

from graphopt.ir import Model
from graphopt.ir.edit import add_initializer
from graphopt.ir.query import walk_graphs
from graphopt.ir.shapes import infer_shapes
from graphopt.transform import Changes, Pass


def with_weights(source: str, weights: Mapping[str, np.ndarray], opset: int = 18) -> Model:
    """The model in ONNX text whose inputs named in `weights` are constants with these numbers."""
    model = model_from(source, opset)
    for value in [v for v in model.graph.inputs if v.name in weights]:
        model.graph.inputs.remove(value)
        name = value.name or ""
        value.name = f"{name}/declared"
        constant = add_initializer(model.graph, name, np.asarray(weights[name]))
        value.replace_all_uses_with(constant)
    return infer_shapes(model)


def operators(model: Model) -> list[str]:
    """The operators of all graphs in order, those of a body after its owner's graph."""
    return [node.op_type for graph in walk_graphs(model.graph) for node in graph]


def check_rewrite(
    pass_: Pass,
    source: str | Model,
    after: Sequence[str] | str,
    *,
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 18,
    rtol: float | None = None,
    dims: Mapping[str, int] | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> tuple[Model, Changes]:
    """Run `pass_` and check the operators that are left, idempotence, the interface and the answers."""
    model = with_weights(source, weights or {}, opset) if isinstance(source, str) else source
    original = model.clone()
    changes = pass_.run(model)
    assert changes.modified, changes.declined
    wanted = after.split() if isinstance(after, str) else list(after)
    assert operators(model) == wanted, (changes.counts, changes.declined)
    assert not pass_.run(model).modified, "the pass is not idempotent"
    check_interface(original, model)
    onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)
    fed = feeds or random_feeds(original, dims, seed)
    check_same_results(original, model, fed, pass_.exactness, rtol=rtol)
    return model, changes


def check_declines(
    pass_: Pass,
    source: str,
    reason: str,
    *,
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 18,
) -> None:
    """The pass leaves the model alone and says `reason`."""
    model = with_weights(source, weights or {}, opset)
    before = operators(model)
    changes = pass_.run(model)
    assert not changes.modified, changes.counts
    assert operators(model) == before
    assert any(reason in text for text in changes.declined), changes.declined


def arrays(seed: int = 0, dtype: Any = np.float32, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random normal arrays by name; a name that starts with ``var`` gets positive numbers."""
    generator = np.random.default_rng(seed)
    made = {k: generator.standard_normal(s) for k, s in shapes.items()}
    return {k: (np.abs(v) + 0.5 if k.startswith("var") else v).astype(dtype) for k, v in made.items()}
