"""guard-quantization: what ONNX Runtime's optimisers break near quantised numbers is spelled otherwise."""

from __future__ import annotations

import dataclasses

from graphopt.ir import DataType, Graph, Model, Node, Value
from graphopt.ir.edit import Namer, make_node
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import attribute, is_op, rank, walk_graphs
from graphopt.passes._matching import attributes_of, produced_by
from graphopt.passes._onnxruntime import CARRIED, MAX_STEPS, NAMES_ITS_TYPE, moves_int8
from graphopt.transform import Changes, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement


@rule(*CARRIED)
def move_of_dequantized(node: Node, rewriter: Rewriter) -> Replacement:
    """Reshape(DequantizeLinear(q, s, z)) = DequantizeLinear(Reshape(q), s, z), for one scale s."""
    dequantize = produced_by(node.inputs[0], "DequantizeLinear")
    if dequantize is None or len(node.outputs) != 1:
        return NoMatch("the operand is not dequantised")
    q = dequantize.inputs[0]
    if q is None or q.dtype not in (DataType.INT8, DataType.UINT8):
        return NoMatch("what is dequantised has not 8 bits", dequantize.name)
    if rank(dequantize.inputs[1]) != 0 or attribute(dequantize, "block_size", 0):
        return NoMatch("there are several scales", dequantize.name)
    refused = rewriter.opset >= NAMES_ITS_TYPE and moves_int8(node)
    if not refused and not _is_captured(node.outputs[0]):
        return NoMatch("ONNX Runtime moves this pair without harm", node.name)
    moved = rewriter.op(node.op_type, q, *node.inputs[1:], stem=node.name, **attributes_of(node))
    parameters = dequantize.inputs[1:]
    return rewriter.op(
        "DequantizeLinear", moved, *parameters, stem=dequantize.name, **attributes_of(dequantize)
    )


def _is_captured(value: Value) -> bool:
    """Whether a body or branch takes `value`, moved on or not."""
    waiting, steps = [value], 0
    while waiting and steps < MAX_STEPS:
        made = waiting.pop()
        steps += 1
        for use in made.uses():
            if use.node.graph is not value.graph:
                return True
            if use.idx == 0 and is_op(use.node, *CARRIED, "Identity"):
                waiting.append(use.node.outputs[0])
    return False


def _is_quantized_behind_a_transpose(output: Value) -> bool:
    """Whether a Transpose takes `output`, and a QuantizeLinear what that makes, moved on or not."""
    waiting = [n.outputs[0] for n in output.consumers() if is_op(n, "Transpose")]
    steps = 0
    while waiting and steps < MAX_STEPS:
        steps += 1
        for user in waiting.pop().consumers():
            if is_op(user, "QuantizeLinear"):
                return True
            if is_op(user, *CARRIED, "Identity"):
                waiting.append(user.outputs[0])
    return False


@dataclasses.dataclass(frozen=True)
class GuardQuantization(RulePass):
    """Spell what ONNX Runtime 1.31 breaks when it moves quantised pairs in a way that it leaves alone.

    given:  float[2, 3] x; z = uint8 3
    before: y = Abs(x); q = QuantizeLinear(Transpose(y), 0.25, z); => y, q
    after:  a = Abs(x); y = Identity(a); q = QuantizeLinear(Transpose(a), 0.25, z); => y, q

    Three things go wrong with all of its optimisations on, whatever made the model:

    * An output that is transposed and then quantised is quantised itself. A copy carries the name.
    * It ends the process where what moves dequantised numbers is used inside a branch or body.
    * From opset 21 on it refuses int8 numbers that are moved and then used as floats: it makes uint8 of the
      pair that it puts there, but not of the attribute that names its type.

    In the last two the numbers are moved before they are dequantised.

    Spec: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
    """

    rules = (move_of_dequantized,)

    def run(self, model: Model) -> Changes:
        """Apply the rule, then copy outputs."""
        changes = super().run(model)
        namer: Namer | None = None
        for graph in walk_graphs(model.graph):
            for output in dict.fromkeys(graph.outputs):
                producer = output.producer()
                if producer is None or producer.graph is not graph:
                    continue
                if _is_quantized_behind_a_transpose(output):
                    namer = namer or Namer(model.graph)
                    _copy(output, producer, graph, namer)
                    changes.counts["output"] += 1
        return changes


def _copy(output: Value, producer: Node, graph: Graph, namer: Namer) -> None:
    """Let an Identity give the result of `graph` that `output` is; all else goes on to use `output`."""
    name = output.name or ""
    copy = make_node(
        "Identity", [output], name=namer.node(f"{name}/output"), output_names=[namer.value(f"{name}:copy")]
    )
    result = copy.outputs[0]
    result.type, result.shape, result.doc_string = output.type, output.shape, output.doc_string
    result.metadata_props.update(output.metadata_props)
    merge_origins([copy], [producer])
    graph.insert_after(producer, copy)
    for position, value in enumerate(list(graph.outputs)):
        if value is output:
            graph.outputs[position] = result
    output.name, result.name = result.name, name
