"""eliminate-dead-nodes: what no output depends on is removed."""

from __future__ import annotations

import dataclasses
from collections.abc import MutableSequence, Sequence

import onnx_ir
from onnx import defs

from graphopt.ir import Graph, Model, Node, Value
from graphopt.ir.edit import remove_dead, remove_unused_initializers
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import attribute, captured_values, is_op, walk_graphs
from graphopt.transform import Changes, Pass


@dataclasses.dataclass(frozen=True)
class EliminateDeadNodes(Pass):
    """Remove nodes, initializers and optional outputs that no graph output depends on.

    Outputs of If, Loop and Scan that nobody uses go too, with what their bodies did for them.

    given:  float[N] x; => y
    before: a = Exp(x); b, mask = Dropout(x); y = Relu(b)
    after:  b = Dropout(x); y = Relu(b)
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
    """Drop optional outputs that nobody uses; return how many.

    Those at the end are taken off, and those before one that is used lose their names.
    """
    last = max((i for i, v in enumerate(node.outputs) if not _is_unused(v)), default=0)
    unused = [i for i, v in enumerate(node.outputs) if _is_unused(v) and (v.name or i > last)]
    if len(node.outputs) < 2 or not unused or _trains(node) or not defs.has(node.op_type, node.domain or ""):
        return 0
    try:
        formal = defs.get_schema(node.op_type, version, node.domain or "").outputs
    except defs.SchemaError:
        return 0
    optional = defs.OpSchema.FormalParameterOption.Optional
    keep = last + 1
    while keep < len(node.outputs) and (keep >= len(formal) or formal[keep].option != optional):
        keep += 1
    count = len(node.outputs) - keep
    if count:
        node.resize_outputs(keep)
    for index in unused:
        if index < min(last, len(formal)) and formal[index].option == optional:
            node.outputs[index].name = ""
            count += 1
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
        return _drop_loop_outputs(node, formals=2, results=1, carried=len(node.inputs) - 2)
    if is_op(node, "Scan"):
        states = len(node.inputs) - int(attribute(node, "num_scan_inputs"))
        return _drop_loop_outputs(node, formals=0, results=0, carried=states)
    return 0


def _drop_loop_outputs(node: Node, formals: int, results: int, carried: int) -> int:
    """Loop and Scan: stacked outputs nobody uses, and carried values that serve only themselves.

    Args:
        formals, results: how many inputs and outputs of the body come before the carried values.
        carried: the number of carried values.
    """
    body: Graph = attribute(node, "body")
    if (
        carried < 0
        or len(body.outputs) != len(node.outputs) + results
        or len(body.inputs) != len(node.inputs)
    ):
        return 0
    dead = _dead_outputs(node, body, formals, results, carried)
    if not dead or len(dead) == len(node.outputs):
        return 0
    states = [i for i in dead if i < carried]
    _delete(body.outputs, [i + results for i in dead])
    remove_dead(list(body))
    _delete(body.inputs, [i + formals for i in states])
    _forget_directions(node, {i - carried for i in dead if i >= carried}, len(node.outputs) - carried)
    _rebuild(node, [v for i, v in enumerate(node.inputs) if i - formals not in states], dead)
    return len(dead)


def _dead_outputs(node: Node, body: Graph, formals: int, results: int, carried: int) -> list[int]:
    """Outputs that nobody uses and that no turn needs for one that somebody uses."""
    positions = {
        value: i - formals for i, value in enumerate(body.inputs) if formals <= i < formals + carried
    }
    live = {i for i, value in enumerate(node.outputs) if not _is_unused(value)}
    work: list[Value] = [*body.outputs[:results], *(body.outputs[i + results] for i in live)]
    seen: set[Value] = set()
    while work:
        value = work.pop()
        if value in seen:
            continue
        seen.add(value)
        position = positions.get(value)
        if position is not None and position not in live:
            live.add(position)
            work.append(body.outputs[position + results])
        producer = value.producer()
        if producer is not None and producer.graph is body:
            work.extend(v for v in producer.inputs if v is not None)
            work.extend(captured_values(producer))
    return [i for i in range(len(node.outputs)) if i not in live]


def _forget_directions(node: Node, stacked: set[int], count: int) -> None:
    """Drop what the attributes of a Scan say of the `stacked` outputs, of `count`, that go."""
    for name in ("scan_output_axes", "scan_output_directions"):
        given = attribute(node, name)
        if given is not None and len(given) == count and stacked:
            kept = [v for i, v in enumerate(given) if i not in stacked]
            if kept:
                node.attributes[name] = onnx_ir.AttrInt64s(name, kept)
            else:
                del node.attributes[name]


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
