"""Wrong rules and passes, each planted in a realistic pipeline, and the models in which they go wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from properties.random_graphs import FLOAT, INT, Grower, Tracked

from graphopt.ir import Model, Node
from graphopt.ir.query import attribute, constant, constant_tensor, ints, is_op, scalar, static_shape
from graphopt.transform import Changes, Exactness, NoMatch, Pass, Pipeline, Rewriter, Rule, RulePass, rule
from graphopt.transform.rule import Replacement

SAMPLES = Path(__file__).resolve().parents[2] / "samples/generated"
BEFORE = "inline-branches,eliminate-identity,merge-casts,merge-reshapes"
AFTER = "merge-transposes,eliminate-common-subexpressions,eliminate-dead-nodes"


@dataclasses.dataclass(frozen=True)
class Plant:
    """One wrong rule or pass.

    Attributes:
        model: the path or the protobuf of a model of 50 to 300 nodes in which it goes wrong.
        pass_: the pass.
        kind: how the model is broken.
        rule: the rule to blame; None for passes without rules.
        root: the name of the output of the original node at which the rule goes wrong, where it is one.
    """

    name: str
    model: Callable[[], str | onnx.ModelProto]
    pass_: Pass
    kind: str
    rule: str | None
    root: str | None = None


def grown(*patterns: Callable[[Grower], None], seed: int = 0) -> onnx.ModelProto:
    """A random graph of over fifty nodes with each of `patterns` somewhere in the middle of it."""
    grower = Grower(seed, 18)
    inputs = []
    for name, shape in (("x0", (2, 3, 6, 6)), ("x1", (2, 4)), ("x2", (4,))):
        declared = ["batch", *shape[1:]] if len(shape) > 1 else list(shape)
        inputs.append(helper.make_tensor_value_info(name, FLOAT, declared))
        grower.values.append(Tracked(name, FLOAT, shape))
    for pattern in patterns:
        for _ in range(12):
            grower.grow()
        pattern(grower)
    while len(grower.nodes) < 70:
        grower.grow()
    used = {name for node in grower.nodes for name in node.input}
    outputs = [
        helper.make_tensor_value_info(v.name, v.dtype, [None] * len(v.shape))
        for v in grower.values
        if v.name not in used and not v.name.startswith("x")
    ]
    graph = helper.make_graph(grower.nodes, "grown", inputs, outputs, grower.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def node(grower: Grower, op: str, inputs: list[str], result: str, **attributes: Any) -> None:
    """Add a node whose output is called `result`."""
    grower.nodes.append(helper.make_node(op, inputs, [result], name=f"node_{result}", **attributes))


def array(grower: Grower, name: str, data: Any, dtype: Any = np.float32) -> str:
    """Add an initializer."""
    grower.initializers.append(numpy_helper.from_array(np.asarray(data, dtype), name))
    return name


def tail(grower: Grower, name: str, shape: tuple[int, ...], dtype: int = FLOAT) -> None:
    """Let the graph grow on from `name`."""
    grower.values.append(Tracked(name, dtype, shape))
    if dtype == FLOAT:
        node(grower, "Sigmoid", [name], f"{name}_s")
        node(grower, "Sqrt", [f"{name}_s"], f"{name}_t")
        grower.values.append(Tracked(f"{name}_t", FLOAT, shape))


def planted(*rules: Rule, exactness: Exactness = Exactness.BIT_EXACT) -> Pass:
    """A pass of `rules`."""
    cls = dataclasses.dataclass(frozen=True)(
        type("Planted", (RulePass,), {"rules": rules, "exactness": exactness, "__doc__": "Wrong on purpose."})
    )
    made: Pass = cls()
    return made


@rule("Mul")
def product_with_about_one(node: Node, rewriter: Rewriter) -> Replacement:
    """x * c = x for c "about" 1 (the tolerance is far too wide)."""
    x, c = node.inputs
    number = scalar(c)
    return x if number is not None and abs(number - 1) < 0.6 else NoMatch("not about one")


@rule("Transpose")
def transpose_that_keeps_the_shape(node: Node, rewriter: Rewriter) -> Replacement:
    """Transpose(x) = x where the shape stays the same (but the numbers move)."""
    x = node.inputs[0]
    shape = static_shape(x)
    if shape is None or shape != static_shape(node.outputs[0]):
        return NoMatch("the shape changes")
    return x


@rule("Sub")
def difference_from_constant(node: Node, rewriter: Rewriter) -> Replacement:
    """c - x = x - c."""
    c, x = node.inputs
    if constant_tensor(c) is None or constant_tensor(x) is not None:
        return NoMatch("the minuend is no constant")
    return rewriter.op("Sub", x, c)


@rule("Div")
def quotient_by_constant(node: Node, rewriter: Rewriter) -> Replacement:
    """x / c = x * c."""
    x, c = node.inputs
    return NoMatch("no constant") if constant_tensor(c) is None else rewriter.op("Mul", x, c)


@rule("Softmax")
def softmax_of_last_axis(node: Node, rewriter: Rewriter) -> Replacement:
    """Softmax over the last axis = Softmax over the one before it."""
    if int(attribute(node, "axis", -1)) not in (-1, 3):
        return NoMatch("another axis")
    return rewriter.op("Softmax", node.inputs[0], axis=-2)


@rule("Relu")
def relu_of_clip(node: Node, rewriter: Rewriter) -> Replacement:
    """Relu(Clip(x, a, b)) = Clip(x, a, b), whatever a is."""
    clip = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node.inputs[0] if is_op(clip, "Clip") else NoMatch("no Clip")


@rule("Add")
def product_plus_bias(node: Node, rewriter: Rewriter) -> Replacement:
    """x @ W + b = x @ W."""
    for y, b in (node.inputs, node.inputs[::-1]):
        if y is not None and is_op(y.producer(), "MatMul") and constant_tensor(b) is not None:
            return y
    return NoMatch("no MatMul and bias", node.inputs[0].name if node.inputs[0] is not None else None)


@rule("Conv")
def conv_of_pad(node: Node, rewriter: Rewriter) -> Replacement:
    """Conv(Pad(x)) with the pads of both ends exchanged."""
    pad = node.inputs[0].producer() if node.inputs[0] is not None else None
    if pad is None or not is_op(pad, "Pad") or len(pad.inputs) > 2:
        return NoMatch("no Pad")
    amounts = ints(pad.inputs[1])
    if amounts is None or len(amounts) != 8 or any(amounts[i] for i in (0, 1, 4, 5)):
        return NoMatch("not of the last axes only")
    own = tuple(attribute(node, "pads", (0, 0, 0, 0)))
    swapped = (amounts[6], amounts[7], amounts[2], amounts[3])
    attributes = dict(node.attributes) | {"pads": tuple(a + b for a, b in zip(own, swapped, strict=True))}
    return rewriter.op("Conv", pad.inputs[0], *node.inputs[1:], **attributes)


@rule("Cast")
def cast_and_back(node: Node, rewriter: Rewriter) -> Replacement:
    """Cast(Cast(x, B), A) = x, whatever B loses."""
    inner = node.inputs[0].producer() if node.inputs[0] is not None else None
    if inner is None or not is_op(inner, "Cast") or inner.inputs[0].dtype != node.outputs[0].dtype:
        return NoMatch("no Cast from this type")
    return inner.inputs[0]


@rule("Unsqueeze")
def unsqueeze_at_the_end(node: Node, rewriter: Rewriter) -> Replacement:
    """Unsqueeze(x, -1) = Unsqueeze(x, 0) (it is broadcast along the other axis)."""
    if ints(node.inputs[1]) not in ((1,), (-1,)) or static_shape(node.inputs[0]) != (4,):
        return NoMatch("not a vector's last axis")
    return rewriter.op("Unsqueeze", node.inputs[0], rewriter.const(np.array([0], np.int64)))


@rule("Slice")
def slice_from_the_start(node: Node, rewriter: Rewriter) -> Replacement:
    """x[0:n] = x[1:n + 1]."""
    begin, end = ints(node.inputs[1]), ints(node.inputs[2])
    if begin != (0,) or end != (3,):
        return NoMatch("not from the start")
    one = [rewriter.const(np.array([k], np.int64)) for k in (1, 4)]
    return rewriter.op("Slice", node.inputs[0], *one, *node.inputs[3:])


@rule("Where")
def nan_replaced(node: Node, rewriter: Rewriter) -> Replacement:
    """Where(IsNaN(x), c, x) = x."""
    condition, _, x = node.inputs
    return x if condition is not None and is_op(condition.producer(), "IsNaN") else NoMatch("no IsNaN")


@rule("MatMul")
def product_with_rounded_weight(node: Node, rewriter: Rewriter) -> Replacement:
    """x @ W = x @ round(W, 2)."""
    weight = constant(node.inputs[1])
    if weight is None or np.array_equal(weight, weight.round(2)):
        return NoMatch("no weight, or rounded already")
    return rewriter.op("MatMul", node.inputs[0], rewriter.const(weight.round(2)))


@rule("Gather")
def gather_of_another_type(node: Node, rewriter: Rewriter) -> Replacement:
    """Gather(x, i) = Cast(Gather(x, i), float64)."""
    if node.inputs[0] is None or constant_tensor(node.inputs[0]) is None:
        return NoMatch("no table")
    if node.outputs[0].dtype is None or node.outputs[0].dtype.name != "FLOAT":
        return NoMatch("not float32")
    return rewriter.op("Cast", rewriter.op("Gather", *node.inputs, **dict(node.attributes)), to=11)


@rule("Tanh")
def tanh_with_a_strange_attribute(node: Node, rewriter: Rewriter) -> Replacement:
    """Tanh(x) = Tanh<slope>(x), which does not exist."""
    if "slope" in node.attributes:
        return NoMatch("done")
    return rewriter.op("Tanh", node.inputs[0], slope=1)


@rule("Concat")
def concat_of_three(node: Node, rewriter: Rewriter) -> Replacement:
    """Reads an operand that is not there."""
    return NoMatch("few operands") if len(node.inputs) < 3 else node.inputs[len(node.inputs)]


@rule("Shape")
def shape_of_the_first_size(node: Node, rewriter: Rewriter) -> Replacement:
    """Shape(x) = what it was when somebody looked."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None or node.attributes:
        return NoMatch("unknown")
    sizes = [{"batch": 2, "sequence": 8}.get(str(d), d) for d in shape.dims]
    return rewriter.const(np.array(sizes, np.int64))


@rule("Neg")
def negation_in_a_body(node: Node, rewriter: Rewriter) -> Replacement:
    """-x = |x| inside of subgraphs."""
    if node.graph is rewriter.model.graph:
        return NoMatch("in the main graph")
    return rewriter.op("Abs", node.inputs[0])


@rule("LeakyRelu")
def leaky_relu_as_maximum(node: Node, rewriter: Rewriter) -> Replacement:
    """LeakyRelu(x) = Max(x, slope * x), which is wrong for a slope above 1."""
    slope = rewriter.const(np.array(attribute(node, "alpha", 0.01), np.float32))
    return rewriter.op("Max", node.inputs[0], rewriter.op("Mul", node.inputs[0], slope))


@rule("Erf", "Softplus")
def fused_by_nobody(node: Node, rewriter: Rewriter) -> Replacement:
    """Uses an operator that no runtime has."""
    return rewriter.op("NobodyHasThis", node.inputs[0], domain="com.microsoft")


@rule("Div")
def division_by_zero(node: Node, rewriter: Rewriter) -> Replacement:
    """x / 5 = x / 0 for integers, which ends the process that computes it."""
    number = constant(node.inputs[1])
    if number is None or number.dtype.kind != "i" or 5 not in number:
        return NoMatch("not by five")
    return rewriter.op("Div", node.inputs[0], rewriter.const(np.zeros(number.shape, number.dtype)))


@dataclasses.dataclass(frozen=True)
class MergeEqualShapes(Pass):
    """Merges constants that have only the shape in common."""

    def run(self, model: Model) -> Changes:
        changes, seen = Changes(), {}
        for value in list(model.graph.initializers.values()):
            tensor = constant_tensor(value)
            if tensor is None or tensor.dtype.name != "FLOAT" or len(tensor.shape) != 2:
                continue
            first = seen.setdefault(tuple(tensor.shape.numpy()), value)
            if first is not value:
                value.replace_all_uses_with(first)
                changes.counts["merged"] += 1
        return changes


@dataclasses.dataclass(frozen=True)
class MergeWithoutAttributes(Pass):
    """Merges nodes that have the same operator and operands, whatever their attributes."""

    def run(self, model: Model) -> Changes:
        changes, seen = Changes(), {}
        for item in list(model.graph):
            if item.op_type != "Transpose":
                continue
            first = seen.setdefault((item.op_type, item.inputs), item)
            if first is not item and static_shape(first.outputs[0]) == static_shape(item.outputs[0]):
                item.outputs[0].replace_all_uses_with(first.outputs[0])
                changes.counts["merged"] += 1
        return changes


@dataclasses.dataclass(frozen=True)
class RenameOutput(Pass):
    """Changes the interface."""

    def run(self, model: Model) -> Changes:
        model.graph.outputs[0].name = "renamed"
        changes = Changes()
        changes.counts["renamed"] += 1
        return changes


def _square_transpose(g: Grower) -> None:
    array(g, "square", np.arange(16).reshape(4, 4) / 8)
    node(g, "Mul", ["x2", "square"], "scaled")
    node(g, "Transpose", ["scaled"], "turned", perm=[1, 0])
    tail(g, "turned", (4, 4))


def _relu_of_clip(g: Grower) -> None:
    array(g, "low", -0.5)
    array(g, "high", 0.5)
    node(g, "Clip", ["x1", "low", "high"], "clipped")
    node(g, "Relu", ["clipped"], "relued")
    tail(g, "relued", (2, 4))


def _conv_of_pad(g: Grower) -> None:
    array(g, "amounts", [0, 0, 1, 0, 0, 0, 0, 1], np.int64)
    array(g, "kernel", np.linspace(-1, 1, 2 * 3 * 3 * 3).reshape(2, 3, 3, 3))
    node(g, "Pad", ["x0", "amounts"], "padded")
    node(g, "Conv", ["padded", "kernel"], "convolved")
    tail(g, "convolved", (2, 2, 5, 5))


def _casts(g: Grower) -> None:
    node(g, "Cast", ["x1"], "whole", to=INT)
    node(g, "Cast", ["whole"], "rounded", to=FLOAT)
    tail(g, "rounded", (2, 4))


def _unsqueeze(g: Grower) -> None:
    array(g, "last", [1], np.int64)
    array(g, "grid", np.eye(4))
    node(g, "Unsqueeze", ["x2", "last"], "column")
    node(g, "Add", ["grid", "column"], "spread")
    tail(g, "spread", (4, 4))


def _slice(g: Grower) -> None:
    for name, number in (("s0", 0), ("s3", 3), ("s1", 1)):
        array(g, name, [number], np.int64)
    node(g, "Slice", ["x1", "s0", "s3", "s1"], "sliced")
    tail(g, "sliced", (2, 3))


def _nan(g: Grower) -> None:
    array(g, "zero", 0.0)
    node(g, "Sqrt", ["x0"], "root")
    node(g, "IsNaN", ["x0"], "isnan")
    node(g, "Where", ["isnan", "zero", "x0"], "repaired")
    node(g, "Abs", ["repaired"], "positive")
    tail(g, "positive", (2, 3, 6, 6))


def _tanh(g: Grower) -> None:
    node(g, "Tanh", ["x1"], "squashed")
    tail(g, "squashed", (2, 4))


def _erf(g: Grower) -> None:
    node(g, "Erf", ["x1"], "erred")
    tail(g, "erred", (2, 4))


def _branch(g: Grower) -> None:
    array(g, "none", 0.0)
    node(g, "ReduceMax", ["x2"], "largest", keepdims=0)
    node(g, "Greater", ["largest", "none"], "condition")
    bodies = []
    for op in ("Neg", "Exp"):
        nodes = [
            helper.make_node("Mul", ["x1", "x1"], [f"in_{op}"]),
            helper.make_node(op, [f"in_{op}"], [f"mid_{op}"]),
            helper.make_node("Sin", [f"mid_{op}"], [f"out_{op}"]),
        ]
        result = helper.make_tensor_value_info(f"out_{op}", FLOAT, [None, 4])
        bodies.append(helper.make_graph(nodes, op, [], [result]))
    node(g, "If", ["condition"], "chosen", then_branch=bodies[0], else_branch=bodies[1])
    tail(g, "chosen", (2, 4))


def _ten_leaky_relus(g: Grower) -> None:
    last = "x1"
    for index in range(1, 11):
        node(g, "LeakyRelu", [last], f"leaky{index}", alpha=1.5 if index == 7 else 0.25)
        node(g, "Sin", [f"leaky{index}"], f"wave{index}")
        last = f"wave{index}"
    g.values.append(Tracked(last, FLOAT, (2, 4)))


def _division(g: Grower) -> None:
    array(g, "five", [5], np.int64)
    node(g, "Cast", ["x1"], "counted", to=INT)
    node(g, "Div", ["counted", "five"], "divided")
    tail(g, "divided", (2, 4), INT)


def _two_transposes(g: Grower) -> None:
    array(g, "cube", np.arange(64).reshape(4, 4, 4) / 64)
    node(g, "Add", ["x2", "cube"], "block")
    node(g, "Transpose", ["block"], "first_turn", perm=[0, 2, 1])
    node(g, "Transpose", ["block"], "second_turn", perm=[2, 1, 0])
    node(g, "Sub", ["first_turn", "second_turn"], "turns")
    tail(g, "turns", (4, 4, 4))


def sample(name: str) -> Callable[[], str]:
    """The path of a generated sample."""
    return lambda: str(SAMPLES / f"{name}.onnx")


def random(pattern: Callable[[Grower], None], seed: int = 0) -> Callable[[], onnx.ModelProto]:
    """A random graph around `pattern`."""
    return lambda: grown(pattern, seed=seed)


REASSOCIATES = Exactness.REASSOCIATES
PLANTS = [
    Plant("wrong tolerance", sample("gpt-tiny"), planted(product_with_about_one, exactness=REASSOCIATES), "mismatch", "product-with-about-one"),
    Plant("dropped transpose", random(_square_transpose, 1), planted(transpose_that_keeps_the_shape), "mismatch", "transpose-that-keeps-the-shape"),
    Plant("swapped operands of Sub", sample("bert-tiny"), planted(difference_from_constant), "mismatch", "difference-from-constant"),
    Plant("swapped operands of Div", sample("bert-tiny"), planted(quotient_by_constant, exactness=REASSOCIATES), "mismatch", "quotient-by-constant"),
    Plant("wrong axis", sample("gpt-tiny"), planted(softmax_of_last_axis), "mismatch", "softmax-of-last-axis"),
    Plant("Relu of Clip dropped", random(_relu_of_clip, 2), planted(relu_of_clip), "mismatch", "relu-of-clip", "relued"),
    Plant("lost bias", sample("bert-tiny"), planted(product_plus_bias, exactness=REASSOCIATES), "mismatch", "product-plus-bias"),
    Plant("wrong padding", random(_conv_of_pad, 3), planted(conv_of_pad), "mismatch", "conv-of-pad", "convolved"),
    Plant("mis-merged casts", random(_casts, 4), planted(cast_and_back), "mismatch", "cast-and-back", "rounded"),
    Plant("wrong broadcast", random(_unsqueeze, 5), planted(unsqueeze_at_the_end), "mismatch", "unsqueeze-at-the-end", "column"),
    Plant("off-by-one slice", random(_slice, 6), planted(slice_from_the_start), "mismatch", "slice-from-the-start", "sliced"),
    Plant("drops NaN", random(_nan, 7), planted(nan_replaced), "mismatch", "nan-replaced", "repaired"),
    Plant("wrong precision", sample("bert-tiny"), planted(product_with_rounded_weight, exactness=REASSOCIATES), "mismatch", "product-with-rounded-weight"),
    Plant("wrong dtype", sample("bert-tiny"), planted(gather_of_another_type), "crash", "gather-of-another-type"),
    Plant("invalid graph", random(_tanh, 8), planted(tanh_with_a_strange_attribute), "invalid", "tanh-with-a-strange-attribute", "squashed"),
    Plant("crash by exception", sample("gpt-tiny"), planted(concat_of_three), "crash", "concat-of-three"),
    Plant("wrong for a second size", sample("gpt-tiny"), planted(shape_of_the_first_size), "refused", "shape-of-the-first-size"),
    Plant("wrong in a branch", random(_branch, 9), planted(negation_in_a_body), "mismatch", "negation-in-a-body"),
    Plant("wrong on the seventh application", random(_ten_leaky_relus, 10), planted(leaky_relu_as_maximum), "mismatch", "leaky-relu-as-maximum", "leaky7"),
    Plant("no such operator", random(_erf, 11), planted(fused_by_nobody), "refused", "fused-by-nobody", "erred"),
    Plant("ends the process", random(_division, 12), planted(division_by_zero), "refused", "division-by-zero", "divided"),
    Plant("merges unequal constants", sample("gpt-tiny"), MergeEqualShapes(), "mismatch", None),
    Plant("merges unequal nodes", random(_two_transposes, 13), MergeWithoutAttributes(), "mismatch", None),
    Plant("changes the interface", sample("recommender"), RenameOutput(), "invalid", None),
]  # fmt: skip


def pipeline_with(plant: Plant) -> Pipeline:
    """The wrong pass between sound ones."""
    return Pipeline([*Pipeline(BEFORE), plant.pass_, *Pipeline(AFTER)])


PLACE = len(Pipeline(BEFORE).passes)
"""Where the wrong pass stands in :func:`pipeline_with`."""
