"""Opset upgrades in place: linear in the number of nodes, in subgraphs too, without touching weights.

Each operator's history is walked step by step. A step either has an adapter
(:mod:`graphopt.ir.opset_adapters`), or is listed in :data:`COMPATIBLE`, or, for a release of onnx that
is newer than this file, is accepted when the older signature is contained in the newer one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import onnx.defs

from graphopt.errors import InvariantError, ModelError, UsageError
from graphopt.ir import Graph, Model, Node, opset_adapters_first
from graphopt.ir.edit import Namer
from graphopt.ir.opset_adapters import ADAPTERS
from graphopt.ir.opset_draft import Draft, ElementTypes, Plan, describe, schema
from graphopt.ir.query import walk_graphs

# Every operator has its axes as inputs, and ONNX Runtime's CUDA provider still has kernels for all.
CANONICAL_OPSET = 18
OLDEST_OPSET = 1
# Initializers need not be graph inputs from this IR version on.
FIRST_IR_VERSION_WITH_PRIVATE_INITIALIZERS = 4

assert opset_adapters_first  # it registers adapters

_DEFAULT_DOMAINS = ("", "ai.onnx")

# Steps that change no result of any node that was valid before: more element types, new optional inputs
# and attributes whose defaults are the old behaviour, negative axes, clearer wording. Deliberate cases:
# ConvTranspose-11, AveragePool-19/22 and MaxPool-12/22 corrected formulas that no runtime had followed as
# they stood; OneHot-11 says of negative indices what runtimes have always done.
COMPATIBLE: dict[int, str] = {
    6: """
        Gemm
    """,
    7: """
        AveragePool
    """,
    8: """
        Max MaxPool Mean Min Sum
    """,
    9: """
        Cast Constant Flatten Gemm Greater Less MatMul PRelu
    """,
    10: """
        AveragePool MaxPool
    """,
    11: """
        ArgMax ArgMin AveragePool Compress Concat Constant Conv ConvTranspose DepthToSpace Equal
        Flatten Gather Gemm Hardmax If LogSoftmax Loop LpPool MaxPool MaxUnpool NonMaxSuppression
        OneHot ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
        ReduceProd ReduceSum ReduceSumSquare Scan Slice Softmax Split Squeeze TopK Unsqueeze
    """,
    12: """
        ArgMax ArgMin Clip Constant GatherND Max MaxPool Min Pow ReduceMax ReduceMin
    """,
    13: """
        Abs Add ArgMax ArgMin Cast Ceil Clip Concat Constant DepthToSpace DequantizeLinear Div
        Dropout Equal Exp Expand Flatten Floor Gather GatherElements GatherND Gemm Greater
        Identity If IsNaN LRN Less Log Loop MatMul Max Mean MeanVarianceNormalization Min Mod Mul
        Neg NegativeLogLikelihoodLoss NonZero Pad Pow QuantizeLinear Reciprocal ReduceL1 ReduceL2
        ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare Relu
        Reshape ScatterElements ScatterND Shape Sigmoid Sign Size Slice SoftmaxCrossEntropyLoss
        SpaceToDepth Sqrt Sub Sum Tanh Tile Transpose
    """,
    14: """
        Add CumSum Div GRU Identity LSTM Mul RNN Relu Reshape Sub
    """,
    15: """
        BatchNormalization Pow Shape
    """,
    16: """
        GreaterOrEqual Identity If LeakyRelu LessOrEqual Loop PRelu Scan ScatterElements ScatterND
        Where
    """,
    18: """
        LpPool OptionalGetElement OptionalHasElement Pad Resize ScatterElements ScatterND
    """,
    19: """
        AveragePool Cast CastLike Constant DequantizeLinear Equal Identity If Loop Pad Reshape
        Resize Scan Shape Size
    """,
    20: """
        ConstantOfShape IsInf IsNaN ReduceMax ReduceMin
    """,
    21: """
        Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad
        QLinearMatMul QuantizeLinear Reshape Scan Shape Size Squeeze Transpose Unsqueeze
    """,
    22: """
        Acos Acosh Asin Asinh Atan Atanh AveragePool Bernoulli Conv ConvTranspose Cos Cosh
        DeformConv Det Dropout Elu EyeLike GRU GlobalAveragePool GlobalLpPool GlobalMaxPool
        GridSample HardSigmoid HardSwish InstanceNormalization LSTM LpNormalization LpPool MaxPool
        MaxRoiPool MaxUnpool Mish Multinomial NegativeLogLikelihoodLoss RNN RandomNormal
        RandomNormalLike RandomUniform RandomUniformLike RoiAlign Round Selu Sin Sinh Softplus
        Softsign Tan ThresholdedRelu
    """,
    23: """
        Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad
        QuantizeLinear Reshape Scan Shape Size Squeeze Transpose Unsqueeze
    """,
    24: """
        Attention Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop
        Pad QuantizeLinear Reshape Scan Shape Size SplitToSequence Squeeze TopK Transpose Unsqueeze
    """,
    25: """
        Attention Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop
        Pad QuantizeLinear Reshape Scan Shape Size Squeeze Transpose Unsqueeze
    """,
    27: """
        Range
    """,
    28: """
        BitShift Cast Celu Compress DepthToSpace DequantizeLinear Einsum Mod OneHot Optional
        OptionalGetElement OptionalHasElement QuantizeLinear ReverseSequence SpaceToDepth Unique
    """,
}


def newest_opset() -> int:
    """The newest default-domain opset that the installed onnx knows."""
    return int(onnx.defs.onnx_opset_version())


def upgrade(model: Model, to: int = CANONICAL_OPSET) -> bool:
    """Raise the default-domain opset of `model` to `to` in place; return whether anything changed.

    Results stay the same, whatever the opset the model comes from. A model that is at `to`
    or above stays as it is. Names of existing values and the graph's interface are kept; nodes that are
    added carry the provenance of the node that they were made for. Local functions must be inlined before.
    A model below IR version 4 is raised to it when constants are added, because an initializer had to be a
    graph input before. Declared shapes and element types are believed where they are needed; where they
    are not known, a form that works for all of them is used.

    Args:
        model: changed in place, but left as it is when an error is raised.
        to: an opset between :data:`CANONICAL_OPSET` and :func:`newest_opset`.

    Raises:
        ModelError: GO106 if the model's opset is missing, too old or unknown; GO109 if a node uses an
            operator, an attribute or an output that has no equal in the newer opset.
        InvariantError: GO901 if the model still has local functions.
        UsageError: GO701 if `to` is not such an opset.
    """
    if not CANONICAL_OPSET <= to <= newest_opset():
        raise UsageError(
            "GO701",
            "not an opset to upgrade to",
            found=to,
            expected=f"{CANONICAL_OPSET} to {newest_opset()}",
        )
    if model.functions:
        raise InvariantError("GO901", "local functions must be inlined before the opset is upgraded")
    opset = _default_opset(model)
    if opset is None or opset >= to:
        return False
    plan = Plan(Namer(model.graph), ElementTypes(opset))
    changed = [
        draft
        for graph in walk_graphs(model.graph)
        for node in graph
        if node.domain in _DEFAULT_DOMAINS and (draft := _draft(node, opset, to, plan)) is not None
    ]
    for graph, value in plan.constants:
        graph.register_initializer(value)
    for draft in changed:
        _write(draft)
    if plan.constants:
        model.ir_version = max(model.ir_version or 0, FIRST_IR_VERSION_WITH_PRIVATE_INITIALIZERS)
    for graph in walk_graphs(model.graph):
        _set_opset(graph, to)
    return True


def _default_opset(model: Model) -> int | None:
    """The default-domain opset, or None where no node needs one."""
    imports = model.opset_imports
    opset = next((imports[domain] for domain in _DEFAULT_DOMAINS if domain in imports), None)
    if opset is None:
        used = (n for g in walk_graphs(model.graph) for n in g if n.domain in _DEFAULT_DOMAINS)
        if (node := next(used, None)) is not None:
            raise ModelError("GO106", "the model imports no default-domain opset", where=describe(node))
        return None
    if not OLDEST_OPSET <= opset <= newest_opset():
        raise ModelError(
            "GO106",
            "this default-domain opset is not supported",
            found=opset,
            expected=f"{OLDEST_OPSET} to {newest_opset()}",
            next_step="Export the model again with a newer exporter."
            if opset < OLDEST_OPSET
            else "Install a newer onnx.",
        )
    return opset


def _draft(node: Node, opset: int, to: int, plan: Plan) -> Draft | None:
    """The draft of `node` in opset `to`, or None where the node stays as it is."""
    known = schema(node.op_type, opset)
    if known is None or (known.deprecated and not _is_still_valid(node.op_type, opset)):
        raise ModelError(
            "GO109",
            f"opset {opset} has no such operator, or has removed it",
            where=describe(node),
            next_step="Give the node the domain that it belongs to, or export the model again.",
        )
    steps = _steps(node.op_type, opset, to)
    if not any((node.op_type, version) in ADAPTERS for version in steps):
        for version in steps:
            _check_compatible(node, node.op_type, version)
        return None
    draft = Draft.of(node, opset, plan)
    if not known.min_input <= len(node.inputs) <= known.max_input:
        raise draft.error("the number of inputs is wrong", found=len(node.inputs), expected=known.min_input)
    _raise_to(draft, to)
    return draft


def _raise_to(draft: Draft, to: int) -> None:
    """Take `draft` and what it emits through every step up to `to`."""
    while steps := _steps(draft.op_type, draft.version, to):
        draft.version = steps[0]
        adapter = ADAPTERS.get((draft.op_type, draft.version))
        if adapter is not None:
            adapter(draft)
        else:
            _check_compatible(draft.origin, draft.op_type, draft.version)
    for emitted in draft.before:
        _raise_to(emitted, to)


@functools.cache
def _steps(op_type: str, after: int, to: int) -> tuple[int, ...]:
    """The versions of `op_type` that are newer than opset `after`, up to opset `to`, oldest first."""
    found: list[int] = []
    while (known := schema(op_type, to)) is not None and known.since_version > after:
        found.append(known.since_version)
        to = known.since_version - 1
    return tuple(reversed(found))


def _is_still_valid(op_type: str, opset: int) -> bool:
    """Whether a deprecated operator was replaced by a newer version of the same name."""
    newest = schema(op_type, newest_opset())
    return newest is not None and not newest.deprecated and newest.since_version > opset


def _check_compatible(node: Node, op_type: str, version: int) -> None:
    if op_type in _compatible_at(version):
        return
    older, newer = schema(op_type, version - 1), schema(op_type, version)
    assert older is not None
    assert newer is not None
    if (reason := incompatibility(older, newer)) is not None:
        raise ModelError("GO109", f"cannot become {op_type}-{version}: {reason}", where=describe(node))


@functools.cache
def _compatible_at(version: int) -> frozenset[str]:
    return frozenset(COMPATIBLE.get(version, "").split())


def incompatibility(older: onnx.defs.OpSchema, newer: onnx.defs.OpSchema) -> str | None:
    """Why a node that is valid for `older` may be invalid or differ for `newer`, or None if it may not."""
    if newer.deprecated:
        return "it was removed"
    for kind, before, after in (
        ("input", older.inputs, newer.inputs),
        ("output", older.outputs, newer.outputs),
    ):
        if (reason := _formals_differ(kind, older, newer, before, after)) is not None:
            return reason
    for name, attribute in older.attributes.items():
        now = newer.attributes.get(name)
        if now is None:
            return f"attribute '{name}' was removed"
        default_moved = now.default_value.SerializeToString() != attribute.default_value.SerializeToString()
        if now.type != attribute.type or default_moved:
            return f"attribute '{name}' changed its type or its default"
    required = [n for n, a in newer.attributes.items() if a.required and n not in older.attributes]
    required += [n for n, a in older.attributes.items() if newer.attributes[n].required and not a.required]
    return f"attribute '{required[0]}' became required" if required else None


def _formals_differ(
    kind: str,
    older: onnx.defs.OpSchema,
    newer: onnx.defs.OpSchema,
    before: Sequence[onnx.defs.OpSchema.FormalParameter],
    after: Sequence[onnx.defs.OpSchema.FormalParameter],
) -> str | None:
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    if len(after) < len(before):
        return f"{kind} '{before[len(after)].name}' was removed"
    for was, now in zip(before, after, strict=False):
        became_required = now.option == single and was.option != single
        if became_required or (variadic in (now.option, was.option) and now.option != was.option):
            return f"{kind} '{now.name}' is no longer optional or variadic as it was"
        if not _types(older, was) <= _types(newer, now):
            return f"{kind} '{now.name}' takes fewer element types"
        if was.is_homogeneous and not now.is_homogeneous and kind == "output":
            return f"{kind} '{now.name}' may be of different types"
    for extra in after[len(before) :]:
        if kind == "input" and extra.option == single:
            return f"input '{extra.name}' became required"
    for i, now in enumerate(after[: len(before)]):
        for j in range(i):
            if now.type_str == after[j].type_str and before[i].type_str != before[j].type_str:
                return f"{kind}s '{after[j].name}' and '{now.name}' must now be of one type"
    return None


def _types(signature: onnx.defs.OpSchema, formal: onnx.defs.OpSchema.FormalParameter) -> frozenset[str]:
    """The types that a formal parameter stands for."""
    for constraint in signature.type_constraints:
        if constraint.type_param_str == formal.type_str:
            return frozenset(constraint.allowed_type_strs)
    return frozenset(formal.types)


def _flatten(draft: Draft) -> Iterator[Draft]:
    """New drafts in front of `draft`, each after what it needs."""
    for emitted in draft.before:
        yield from _flatten(emitted)
        yield emitted


def _write(draft: Draft) -> None:
    """Make the node of `draft`, and the new nodes in front of it, what the draft says."""
    new = list(_flatten(draft))
    for each in (*new, draft):
        node = each.node
        node.op_type = each.op_type
        node.resize_inputs(len(each.inputs))
        for index, value in enumerate(each.inputs):
            if node.inputs[index] is not value:
                node.replace_input_with(index, value)
        node.resize_outputs(len(each.outputs))
        for made, wanted in zip(node.outputs, each.outputs, strict=True):
            made.name = wanted.name
        node.attributes.clear()
        node.attributes.update(each.attributes)
    for each in new:
        each.node.metadata_props.update(draft.origin.metadata_props)
        each.node.doc_string = draft.origin.doc_string
    if new:
        draft.origin.prepend([each.node for each in new])


def _set_opset(graph: Graph, to: int) -> None:
    """Record opset `to` wherever an older one is recorded: in the imports and on single nodes."""
    imports = graph.opset_imports
    if any(domain in imports for domain in _DEFAULT_DOMAINS):
        imports.pop("ai.onnx", None)
        imports[""] = to
    for node in graph:
        if node.version is not None and node.domain in _DEFAULT_DOMAINS:
            node.version = to
