"""hoist-invariants: what every turn of a loop computes alike is computed once, before it."""

from __future__ import annotations

import dataclasses

from graphopt.ir import DataType, Graph, Model, Node, Value
from graphopt.ir.edit import Namer, replace_value
from graphopt.ir.query import attribute, is_deterministic, is_op, rank, scalar, subgraphs
from graphopt.passes._bodies import nodes_holding, starts, through_identities
from graphopt.transform import Changes, Pass

# Operators that give a result for every input that has the right type, and none larger than their input.
_NEVER_FAIL = frozenset(
    """
    Abs Ceil Cos Elu Erf Exp Floor HardSigmoid HardSwish Identity IsNaN LeakyRelu Log Neg Not Reciprocal
    Relu Round Selu Shape Sigmoid Sign Sin Size Softplus Softsign Sqrt Tan Tanh
    """.split()
)
_FLOATS = frozenset({DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16, DataType.DOUBLE})


@dataclasses.dataclass(frozen=True)
class HoistInvariants(Pass):
    """Move what does not depend on the turn of a Loop or Scan in front of it.

    A carried value that each turn hands on unchanged is its initial value, inside and behind the loop.
    Random operators and those of unknown domains stay, and so does DequantizeLinear: runtimes compute in
    8 bits what stands beside it. Where the loop may never run, only operators that cannot fail are moved.
    What a branch inside the body computes stays there.

    given:  float[2] x; float[2] w
    before: y = Loop<body = g (int64 i, bool c, float[2] s) => (bool d, float[2] r)
                {d = Identity(c) e = Exp(w) r = Add(s, e)}>(3, true, x)
    after:  e = Exp(w); y = Loop<body = g (int64 i, bool c, float[2] s) => (bool d, float[2] r)
                {d = Identity(c) r = Add(s, e)}>(3, true, x)
    """

    def run(self, model: Model) -> Changes:
        """Visit inner loops first: what leaves one may leave the next, too."""
        changes = Changes()
        for node in reversed(nodes_holding(model.graph, "Loop", "Scan")):
            if is_op(node, "Loop"):
                changes.counts["carried"] += _release_carried(node, model)
            _hoist(node, changes)
        changes.counts += type(changes.counts)()  # drops the zeros
        return changes


def _release_carried(node: Node, model: Model) -> int:
    """Use initial values where each turn hands a carried value on unchanged; return how many."""
    body: Graph = attribute(node, "body")
    states = node.inputs[2:]
    if len(body.inputs) != len(states) + 2 or len(body.outputs) != len(node.outputs) + 1:
        return 0
    count = 0
    for index, start in enumerate(states):
        formal, result, output = body.inputs[index + 2], body.outputs[index + 1], node.outputs[index]
        if start is None or through_identities(result) is not formal:
            continue
        if formal.type is None or formal.type != start.type or output.type != start.type:
            continue
        carriers = _carriers(result)
        uses = [use for use in formal.uses() if use.node not in carriers]
        for use in uses:
            use.node.replace_input_with(use.idx, start)
        moved = bool(output.uses()) or (output.is_graph_output() and start.producer() is not None)
        if moved:
            replace_value(output, start)
            if output.name is None:  # a graph output, whose name the initial value carries now
                output.name = Namer(model.graph).value(f"{node.name}:{index}")
        count += bool(uses) or moved
    return count


def _carriers(value: Value) -> set[Node]:
    """The Identity nodes between `value` and what it is a copy of."""
    found = set()
    producer = value.producer()
    while producer is not None and is_op(producer, "Identity") and producer.inputs[0] is not None:
        found.add(producer)
        producer = producer.inputs[0].producer()
    return found


def _runs_at_least_once(node: Node) -> bool:
    if is_op(node, "Loop"):
        turns = None if node.inputs[0] is None else scalar(node.inputs[0])
        return starts(node) and (node.inputs[0] is None or (turns is not None and turns > 0))
    scanned = int(attribute(node, "num_scan_inputs"))
    axes = attribute(node, "scan_input_axes") or (0,) * scanned
    source, found = node.inputs[len(node.inputs) - scanned], rank(node.inputs[len(node.inputs) - scanned])
    if source is None or source.shape is None or found is None or not -found <= axes[0] < found:
        return False
    length = source.shape.dims[axes[0]]
    return isinstance(length, int) and length > 0


def _hoist(node: Node, changes: Changes) -> None:
    body: Graph = attribute(node, "body")
    runs = _runs_at_least_once(node)
    inside: set[Value] = {*body.inputs, *body.initializers.values(), *(v for n in body for v in n.outputs)}
    for inner in list(body):
        if any(v in inside for v in inner.inputs) or any(v.is_graph_output() for v in inner.outputs):
            continue
        if is_op(node, "Scan") and any(_is_handed_on(v) for v in inner.outputs):
            # ONNX Runtime fails on a Scan whose body only copies an outer value to a result.
            changes.declined[f"{inner.op_type}: it is a result of the Scan"] += 1
            continue
        if is_op(inner, "DequantizeLinear"):
            changes.declined[f"{inner.op_type}: it stays beside what it dequantises for"] += 1
            continue
        if inner.domain or any(True for _ in subgraphs(inner)) or not is_deterministic(inner):
            changes.declined[
                f"{inner.op_type}: it holds a body, is random, or nobody knows what it does"
            ] += 1
            continue
        if not runs and not _never_fails(inner):
            changes.declined[f"{inner.op_type}: the loop may never run, and it might fail"] += 1
            continue
        inside.difference_update(inner.outputs)
        body.remove(inner)
        assert node.graph is not None
        node.graph.insert_before(node, inner)
        changes.counts[inner.op_type] += 1


def _is_handed_on(value: Value) -> bool:
    return any(is_op(u, "Identity") and u.outputs[0].is_graph_output() for u in value.consumers())


def _never_fails(node: Node) -> bool:
    if is_op(node, "Cast"):
        # What a float beyond the range of an integer becomes is undefined; all else is a number.
        source = node.inputs[0]
        return source is not None and source.dtype is not None and node.outputs[0].dtype in _FLOATS
    return node.op_type in _NEVER_FAIL
