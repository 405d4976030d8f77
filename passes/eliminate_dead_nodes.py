"""eliminate-dead-nodes: what no output depends on is removed."""

from __future__ import annotations

import dataclasses
from collections.abc import MutableSequence, Sequence

import onnx_ir
from onnx import defs

from graphopt.ir import Graph, Model, Node, Value
from graphopt.ir.edit import remove_dead, remove_unused_initializers
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import attribute, is_op, walk_graphs
from graphopt.transform import Changes, Pass


@dataclasses.dataclass(frozen=True)
class EliminateDeadNodes(Pass):
    """Remove nodes, initializers and optional outputs that no graph output depends on.

    Outputs of If, Loop and Scan that nobody uses go too, with what their bodies did for them.

    Before: ``a = Exp(x); b, mask = Dropout(x); y = Relu(b)``
    After:  ``b = Dropout(x); y = Relu(b)``
    """

    def run(self, model: Model) -> Changes:
        """Remove what is dead, to the fixed point."""
        changes = Changes()
        while True:
            nodes = [node for graph in walk_graphs(model.graph) for node in graph]
            changes.counts["node"] += len(remove_dead(nodes))
            narrowed = sum(_drop_body_outputs(n) for n in nodes if n.graph is not None)
            changes.counts["control-flow-output"] += narrowed
            if not narrowed:
                break
        opset = model.opset_imports
        for graph in walk_graphs(model.graph):
            for node in graph:
                changes.counts["optional-output"] += _trim_outputs(node, opset.get(node.domain or "", 1))
        changes.counts["initializer"] += remove_unused_initializers(model.graph)
        changes.counts += type(changes.counts)()  # drops the zeros
        return changes


def _is_unused(value: Value) -> bool:
    return not value.uses() and not value.is_graph_output()


def _trim_outputs(node: Node, version: int) -> int:
    """Drop trailing optional outputs that nobody uses; return how many."""
    keep = len(node.outputs)
    while keep > 1 and _is_unused(node.outputs[keep - 1]):
        keep -= 1
    if keep == len(node.outputs) or _trains(node) or not defs.has(node.op_type, node.domain or ""):
        return 0
    schema = defs.get_schema(node.op_type, version, node.domain or "")
    optional = defs.OpSchema.FormalParameterOption.Optional
    formal = schema.outputs
    while keep < len(node.outputs) and (keep >= len(formal) or formal[keep].option != optional):
        keep += 1
    count = len(node.outputs) - keep
    if count:
        node.resize_outputs(keep)
    return count


def _trains(node: Node) -> bool:
    return is_op(node, "BatchNormalization") and bool(attribute(node, "training_mode", 0))


def _drop_body_outputs(node: Node) -> int:
    """Drop outputs of If, Loop and Scan that nobody uses; return how many."""
    if is_op(node, "If"):
        dead = [i for i, value in enumerate(node.outputs) if _is_unused(value)]
        bodies = [attribute(node, "then_branch"), attribute(node, "else_branch")]
        if not dead or len(dead) == len(node.outputs):
            return 0
        for body in bodies:
            _delete(body.outputs, dead)
        _rebuild(node, node.inputs, dead)
        return len(dead)
    if is_op(node, "Loop"):
        return _drop_loop_outputs(node)
    return 0


def _drop_loop_outputs(node: Node) -> int:
    """Loop: scan outputs nobody uses, and carried values that serve only themselves."""
    body: Graph = attribute(node, "body")
    carried = len(node.inputs) - 2
    if len(body.outputs) != len(node.outputs) + 1 or len(body.inputs) != carried + 2:
        return 0
    dead = [
        i
        for i, value in enumerate(node.outputs)
        if _is_unused(value) and (i >= carried or not body.inputs[i + 2].uses())
    ]
    # A carried value that leaves by another output of the body is used there, too.
    dead = [i for i in dead if i >= carried or not _leaves_elsewhere(body, i)]
    if not dead or len(dead) == len(node.outputs):
        return 0
    states = [i for i in dead if i < carried]
    _delete(body.outputs, [i + 1 for i in dead])
    _delete(body.inputs, [i + 2 for i in states])
    _rebuild(node, [v for i, v in enumerate(node.inputs) if i - 2 not in states], dead)
    return len(dead)


def _leaves_elsewhere(body: Graph, index: int) -> bool:
    formal = body.inputs[index + 2]
    return any(value is formal for i, value in enumerate(body.outputs) if i != index + 1)


def _delete(values: MutableSequence[Value], positions: Sequence[int]) -> None:
    for position in sorted(positions, reverse=True):
        values.pop(position)


def _rebuild(node: Node, inputs: Sequence[Value | None], dead: Sequence[int]) -> None:
    """Put a node with the same bodies but without the outputs at `dead` in the place of `node`."""
    graph = node.graph
    assert graph is not None
    gone = set(dead)
    kept = [value for i, value in enumerate(node.outputs) if i not in gone]
    outputs = [Value(name=v.name, type=v.type, shape=v.shape) for v in kept]
    renewed = onnx_ir.Node(
        node.domain or "",
        node.op_type,
        list(inputs),
        attributes=list(node.attributes.values()),
        outputs=outputs,
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )
    graph.insert_before(node, renewed)
    for old, new in zip(kept, outputs, strict=True):
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    merge_origins([renewed], [node])
    graph.remove(node, safe=True)
