"""Which answers of a graph the specification, or the runtime that gives them, leaves open.

Nothing can be compared with those. Each case that is left out is one of the two here, with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence

import numpy as np
import onnx
from exporter_graphs import FILLS, Answers, failed_in_onnxruntime
from onnx import helper


def unwritten(answers: Answers, feeds: Mapping[str, np.ndarray]) -> set[str]:
    """The outputs that depend on memory which nobody wrote, or on chance.

    ONNX Runtime leaves all but the first matrix of a batch unwritten where MatMul sums over nothing, and
    multiplies what it found there by zero where Conv has no channels.
    """
    one, other = (answers(feeds, fill) for fill in FILLS)
    return {name for name, first in one.items() if not same(first, other[name])}


def same(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays have the same type, shape and numbers, NaN being NaN."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    return np.array_equal(first, second, equal_nan=first.dtype.kind == "f")


def is_specified(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> bool:
    """Whether the operators' texts say what `model` gives for `feeds`, which it runs with.

    They do not for the mean of nothing ("Reduction over an empty set of values yields undefined"), and not
    for an Einsum with a label of two sizes: runtimes broadcast an axis of size 1, ONNX's shape inference
    gives the result the size of the first operand, and ONNX Runtime plans its memory by that.
    """
    strict = onnx.ModelProto.FromString(model.SerializeToString())
    added = _assert_specified(strict.graph.node)
    for function in strict.functions:
        added += _assert_specified(function.node)
    if not added:
        return True
    try:
        Answers(strict)(feeds)
    except Exception as error:
        if not failed_in_onnxruntime(error):
            raise
        return False
    return True


def _assert_specified(nodes: MutableSequence[onnx.NodeProto]) -> int:
    """Put nodes that fail behind those of `nodes` whose operands leave their result open; how many."""
    result: list[onnx.NodeProto] = []
    added = 0
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):  # to read it would make one
                added += _assert_specified(attribute.g.node)
        result.append(node)
        tests = _label_tests(node) if node.op_type == "Einsum" else []
        if node.op_type == "ReduceMean":
            tests = [_Test(f"strict_{node.output[0]}").mean_of_nothing(node)]
        for test in tests:
            result.extend(test.nodes)
        added += len(tests)
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in result]
    del nodes[:]
    nodes.extend(kept)
    return added


def _label_tests(node: onnx.NodeProto) -> list[_Test]:
    """For each label that an axis before has, too, a test that both have one size."""
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
    seen: dict[str, tuple[str, int]] = {}
    tests = []
    for value, term in zip(node.input, "".join(equation.split()).partition("->")[0].split(","), strict=True):
        front, _, back = term.partition("...")
        for label, axis in [*zip(front, range(len(front))), *zip(back, range(-len(back), 0))]:  # noqa: B905
            if label in seen and seen[label] != (value, axis):
                tests.append(
                    _Test(f"strict_{node.output[0]}_{len(tests)}").sizes_differ(seen[label], (value, axis))
                )
            seen.setdefault(label, (value, axis))
    return tests


class _Test:
    """Nodes that take an element from beyond the end of a tensor if a condition holds."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{self.prefix}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def number(self, number: int) -> str:
        tensor = helper.make_tensor("", onnx.TensorProto.INT64, [1], [number])
        return self.op("Constant", value=tensor)

    def size(self, value: str, axis: int) -> str:
        return self.op("Gather", self.op("Shape", value), self.number(axis))

    def fail_if(self, condition: str) -> _Test:
        index = self.op("Cast", condition, to=onnx.TensorProto.INT64)
        self.op("Gather", self.number(0), index)
        return self

    def sizes_differ(self, first: tuple[str, int], second: tuple[str, int]) -> _Test:
        return self.fail_if(self.op("Not", self.op("Equal", self.size(*first), self.size(*second))))

    def mean_of_nothing(self, node: onnx.NodeProto) -> _Test:
        zero = self.number(0)
        empty = self.op("Equal", self.op("Size", node.input[0]), zero)
        some = self.op("Not", self.op("Equal", self.op("Size", node.output[0]), zero))
        return self.fail_if(self.op("And", empty, some))
