"""What ONNX Runtime's providers can run: tables of kernels, and the conditions beside the tables.

``ort_cuda_kernels.tsv`` is what the CUDA provider of ONNX Runtime 1.31.1 (for CUDA 13) registers:
``python tests/cuda_double.py`` writes it. ``ort_cuda_kernels_page.tsv`` is for older versions: the section
"Operators implemented by CUDAExecutionProvider" of docs/OperatorKernels.md in microsoft/onnxruntime at commit
001d12d2623fd411ce0f83d05abb5e82304a3389, which leaves some kernels out. Columns: domain (empty: ai.onnx),
operator, first and last since-version (no last: open), types (``T=float,float16;T1=int64``).
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources

import onnx.defs

from graphopt.ir import DataType, Model, Node, OptionalType, SequenceType, Value
from graphopt.ir.query import attribute
from graphopt.lowering.cuda import installed
from graphopt.lowering.registry import schema_version
from graphopt.platforms import NEW_CUDA_KERNELS, onnxruntime_version

CONTRIB_DOMAIN = "com.microsoft"

HOST_INPUTS: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Dropout": (1, 2),
    "Expand": (1,),
    "If": (0,),
    "Loop": (0, 1),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "ReduceL1": (1,),
    "ReduceL2": (1,),
    "ReduceLogSum": (1,),
    "ReduceLogSumExp": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceProd": (1,),
    "ReduceSum": (1,),
    "ReduceSumSquare": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "SequenceAt": (1,),
    "SequenceErase": (1,),
    "SequenceInsert": (2,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Inputs that a CUDA kernel reads from host memory."""

HOST_OUTPUTS: dict[str, tuple[int, ...]] = {"Shape": (0,), "Size": (0,), "SequenceLength": (0,)}
"""Outputs that a CUDA kernel leaves in host memory."""

INLINED_FUNCTIONS = frozenset(
    {"Bernoulli", "CastLike", "CenterCropPad", "GroupNormalization", "HardSwish", "Mish", "Swish"}
    | {"NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"}
)
"""Standard operators without a kernel of their own: ONNX Runtime runs the nodes they are defined by."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A row of the kernel table.

    Attributes:
        since_first: the first since-version that it serves.
        since_last: the last one; None: `since_first` alone (an open end does not reach new schemas).
        types: type parameter → the type names it takes, in the table's spelling.
    """

    since_first: int
    since_last: int | None
    types: dict[str, frozenset[str]]

    def serves(self, since: int) -> bool:
        """Whether it is a kernel for the schema of since-version `since`."""
        return since == self.since_first or (
            self.since_last is not None and self.since_first <= since <= self.since_last
        )


Table = Mapping[tuple[str, str], tuple[Kernel, ...]]
"""The kernels of a provider by (domain, operator)."""


def cuda_table_version() -> str:
    """Which ONNX Runtime :func:`cuda_kernels` describes, given the installed one."""
    return "1.31.1" if _is_new() else "before 1.31 (its page of kernels)"


def _is_new() -> bool:
    return onnxruntime_version() >= NEW_CUDA_KERNELS


def cuda_kernels(new: bool | None = None) -> Table:
    """The kernels of the CUDA provider by (domain, operator).

    Args:
        new: those of ONNX Runtime 1.31.1, or those of the page; None: which fits the installed version.
    """
    return _read_table(_is_new() if new is None else new)


@cache
def _read_table(new: bool) -> Table:
    name = "ort_cuda_kernels.tsv" if new else "ort_cuda_kernels_page.tsv"
    text = (resources.files(__package__) / name).read_text(encoding="utf-8")
    rows: list[installed.KernelRow] = []
    if not new:
        # Registered without type constraints, and for that reason not on the page.
        rows += [("", "NonMaxSuppression", 11, None, {}), ("", "NonMaxSuppression", 10, 10, {})]
    for row in csv.DictReader(text.splitlines(), delimiter="\t"):
        types = {
            name: frozenset(names.split(","))
            for name, _, names in (c.partition("=") for c in (row["type_constraints"] or "").split(";") if c)
        }
        last = int(row["since_last"]) if row["since_last"] else None
        rows.append((row["domain"], row["op"], int(row["since_first"]), last, types))
    return table_of(rows)


def table_of(rows: Iterable[installed.KernelRow]) -> Table:
    """`rows` by domain and operator."""
    table: dict[tuple[str, str], list[Kernel]] = {}
    for domain, op, first, last, types in rows:
        key = ("" if domain == "ai.onnx" else domain, op)
        table.setdefault(key, []).append(Kernel(first, last, dict(types)))
    return {key: tuple(kernels) for key, kernels in table.items()}


def type_name(value: Value) -> str | None:
    """The type of `value` as the kernel table spells it (``float16``, ``seq:float``); None if unknown."""
    type_ = value.type
    if isinstance(type_, OptionalType):
        type_ = type_.elem_type
    prefix = ""
    if isinstance(type_, SequenceType):
        prefix, type_ = "seq:", type_.elem_type
    dtype = getattr(type_, "dtype", None)
    return None if dtype in (None, DataType.UNDEFINED) else prefix + str(dtype.name).lower()


def why_no_cuda_kernel(node: Node, model: Model) -> str | None:
    """Why the CUDA provider has no kernel for `node`; None if it has one."""
    return why_no_kernel(node, model, cuda_kernels(), "CUDA")


def why_no_kernel(node: Node, model: Model, table: Table, provider: str) -> str | None:
    """Why `provider`, whose kernels `table` lists, has none for `node`; None if it has one."""
    domain = node.domain or ""
    domain = "" if domain == "ai.onnx" else domain
    kernels = table.get((domain, node.op_type))
    if kernels is None:
        if domain not in ("", CONTRIB_DOMAIN, "ai.onnx.ml"):
            return f"the domain {domain} is not ONNX Runtime's"
        return f"ONNX Runtime has no {provider} kernel for {node.op_type}"
    since = schema_version(domain, node.op_type, int(model.opset_imports.get(domain, 1)))
    if since is None:
        return f"{node.op_type} is unknown in this opset"
    serving = [kernel for kernel in kernels if kernel.serves(since)]
    if not serving:
        has = f"ONNX Runtime has no {provider} kernel for {node.op_type} of opset {since}"
        return f"{has}, only of {_ranges(kernels)}"
    reasons = [_type_mismatch(node, kernel, domain, since, provider) for kernel in serving]
    return None if None in reasons else reasons[0]


def _ranges(kernels: tuple[Kernel, ...]) -> str:
    ordered = sorted(kernels, key=lambda kernel: kernel.since_first)
    shown = dict.fromkeys(
        f"{k.since_first}" if k.since_last in (None, k.since_first) else f"{k.since_first}–{k.since_last}"
        for k in ordered
    )
    return ", ".join(shown)


def _type_mismatch(node: Node, kernel: Kernel, domain: str, since: int, provider: str) -> str | None:
    """Which operand of `node` has a type that `kernel` does not take, if any."""
    if not kernel.types:
        return None
    for parameters, value in _typed_operands(node, domain, since):
        actual = type_name(value)
        for parameter in parameters:
            allowed = kernel.types.get(parameter)
            if allowed is not None and actual is not None and actual not in allowed:
                return (
                    f"ONNX Runtime's {provider} kernel for {node.op_type} takes no {actual} as {parameter}, "
                    f"only {', '.join(sorted(allowed))}"
                )
    return None


def _typed_operands(node: Node, domain: str, since: int) -> Iterator[tuple[tuple[str, str], Value]]:
    """Each operand with the names a kernel may constrain its type by: type parameter and formal name."""
    for formals, values in zip(
        _formals(domain, node.op_type, since), (node.inputs, node.outputs), strict=True
    ):
        if not formals:
            continue
        for index, value in enumerate(values):
            if value is not None:
                yield formals[min(index, len(formals) - 1)], value


@cache
def _formals(domain: str, op_type: str, since: int) -> tuple[installed.Formals, installed.Formals]:
    """(type parameter, name) of the formal inputs and outputs; empty where there is no schema to ask."""
    if domain == CONTRIB_DOMAIN:
        return installed.contrib_formals().get(op_type, ((), ()))  # unknown: matched by name alone
    schema = onnx.defs.get_schema(op_type, since, domain)
    return (
        tuple((f.type_str, f.name) for f in schema.inputs),
        tuple((f.type_str, f.name) for f in schema.outputs),
    )


_RECURRENT_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "LSTM": ("sigmoid", "tanh", "tanh") * 2,
    "GRU": ("sigmoid", "tanh") * 2,
    "RNN": ("tanh",) * 2,
}


def why_cuda_declines(node: Node) -> str | None:
    """Why the CUDA provider leaves `node` to the CPU although it has a kernel for its types, or None."""
    if (node.domain or "") not in ("", "ai.onnx"):
        return None
    op = node.op_type
    if op in _RECURRENT_ACTIVATIONS:
        return _recurrent_reason(node)
    if op == "ConvTranspose":
        pads = attribute(node, "pads") or ()
        if tuple(pads[: len(pads) // 2]) != tuple(pads[len(pads) // 2 :]):
            return "cuDNN's ConvTranspose pads both sides alike only"
        if attribute(node, "auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
            return "ConvTranspose with auto_pad SAME may pad the two sides differently, which cuDNN does not"
    if op == "Cast" and attribute(node, "to") == DataType.STRING:
        return "strings stay on the CPU"
    if op in ("ArgMax", "ArgMin") and attribute(node, "select_last_index", 0):
        return f"the CUDA kernel for {op} selects the first index only"
    return None


def _recurrent_reason(node: Node) -> str | None:
    """cuDNN's recurrent layers have fixed activations and no clipping, peepholes or coupled gates."""
    op = node.op_type
    for name in ("activation_alpha", "activation_beta", "clip"):
        if name in node.attributes:
            return f"cuDNN's {op} has no {name}"
    for wanted, name in zip(_RECURRENT_ACTIVATIONS[op], attribute(node, "activations") or (), strict=False):
        if str(name).lower() != wanted:
            return f"cuDNN's {op} has no {name} activation in this place"
    if op == "LSTM" and attribute(node, "input_forget", 0):
        return "cuDNN's LSTM does not couple the input and forget gates"
    if op == "LSTM" and len(node.inputs) > 7 and node.inputs[7] is not None:
        return "cuDNN's LSTM has no peepholes"
    if op == "GRU" and attribute(node, "linear_before_reset", 0) != 1:
        return "cuDNN's GRU is the form linear_before_reset = 1 only"
    return None
