"""Raising a model's opset for operators that older ones lack."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.ir import Model, Node, provenance
from graphopt.ir.ingest import name_everything
from graphopt.ir.opset import upgrade
from graphopt.ir.query import walk_graphs
from graphopt.ir.shapes import infer_shapes


def upgrade_for(model: Model, opset: int, wanted: Callable[[Node], bool]) -> None:
    """Raise `model` to `opset` if it is older and has a node that is `wanted`."""
    if model.opset_imports.get("", 1) >= opset:
        return
    if not any(wanted(node) for graph in walk_graphs(model.graph) for node in graph):
        return
    upgrade(model, opset)
    name_everything(model)
    provenance.start(model)
    infer_shapes(model)
