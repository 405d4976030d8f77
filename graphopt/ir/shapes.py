"""Types and symbolic shapes, recomputed from the graph's inputs and weights.

Shapes that a file declares for intermediate values are claims: they are dropped and inferred anew.
Only for operators that nobody here knows (custom domains) is the declared type kept, and with it
the declared shape, as there is nothing to recompute it from.

Inference itself is the `onnx-shape-inference` package's, operator by operator. The walk over the
graph is here because one operator that fails to infer must not cost the rest of the graph its
shapes, and because loop-carried shapes need a fixed point rather than the shape of the first turn.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence

from onnx_shape_inference import ShapeInferenceContext, registry

from graphopt.ir import DataType, Graph, Model, Node, Shape, SymbolicDim, TensorType, Value
from graphopt.ir.query import attribute, is_op, same_dim, subgraphs, walk_graphs
from graphopt.ir.shape_claims import settle
from graphopt.ir.shape_context import BoundedContext, fixed_numbers_only, infer_long_concat
from graphopt.ir.shape_elements import follow_elements
from graphopt.ir.shape_memo import form_of, recall, remember

logger = logging.getLogger(__name__)

MAX_LOOP_TURNS = 8
MAX_NESTED_FIXED_POINTS = 2

_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
"""ONNX Runtime's operators whose results have the shape that a standard operator's have."""

_DIM_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_RESERVED_DIM_NAMES = frozenset({"max", "min", "floor", "ceiling", "Mod", "mod", "Max", "Min", "sqrt"})


def infer_shapes(model: Model) -> Model:
    """Recompute every type and shape in `model` in place, and return it.

    Dimensions that cannot be expressed get a fresh symbol each. Nothing is raised for an operator
    that cannot be inferred: its outputs are left without a shape.
    """
    infer_afresh(model)
    return model


def infer_afresh(model: Model) -> Inference:
    """Do what :func:`infer_shapes` does, and return the inference with the values that it followed."""
    declared_outputs = [(v, v.type, v.shape) for v in model.graph.outputs]
    normalize_dim_names(model)
    inference = Inference(model)
    inference.run(model.graph)
    for value, type_, shape in declared_outputs:
        if value.type is None:
            value.type = type_
        if value.shape is None and value.producer() is not None and not value.is_initializer():
            value.shape = _as_fresh_symbols(inference.context, shape)
    return inference


def _as_fresh_symbols(context: ShapeInferenceContext, shape: Shape | None) -> Shape | None:
    """The rank that was declared, which is all that is kept of a shape nobody can confirm."""
    return None if shape is None else Shape([context.new_symbolic_dim() for _ in shape.dims])


class Inference:
    """Shape inference over one model; also infers single nodes that passes create."""

    def __init__(self, model: Model) -> None:
        registry.collect()
        self._loops = 0
        self.context = BoundedContext(model.opset_imports, policy="override")
        self.context.extents = set()
        names = {
            str(dim.value)
            for graph in model.graphs()
            for value in (*graph.inputs, *(o for n in graph for o in n.outputs))
            if value.shape is not None
            for dim in value.shape.dims
            if isinstance(dim, SymbolicDim) and dim.value is not None
        }
        self.context.reserve_symbol_names(names)

    def run(self, graph: Graph) -> None:
        """Infer every node of `graph` and of the graphs nested in it."""
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.shape = Shape(value.const_value.shape.numpy())
                value.dtype = value.const_value.dtype
        for value in graph.inputs:
            self._name_anonymous_dims(value)
        for node in graph:
            self.infer_node(node)

    def infer_node(self, node: Node) -> None:
        """Recompute the types and shapes of the outputs of `node` from those of its inputs."""
        known = registry.get(node.domain or "", node.op_type, version=self._opset(node))
        if known is None and node.domain == "com.microsoft" and node.op_type in _FUSED:
            known = registry.get("", _FUSED[node.op_type], version=self._opset_of(""))
        if _is_quantized_gemm(node):
            known = None
        if is_op(node, "Constant") and _set_strings(node):
            return
        if known is None and not is_op(node, "Loop"):
            for graph in subgraphs(node):
                self.run(graph)
            for value in node.outputs:
                self._name_anonymous_dims(value)
            return
        declared = [value.type for value in node.outputs]
        for value in node.outputs:
            value.shape = None
            value.type = None
            # What an earlier turn of a loop body made of it must not outlive that turn.
            value.const_value = None
            self.context.forget(value)
        try:
            if is_op(node, "Loop"):
                self._infer_loop(node)
            elif is_op(node, "Scan"):
                self._infer_scan(node)
            else:
                for graph in subgraphs(node):
                    self.run(graph)
            if known is not None and not is_op(node, "Loop") and not infer_long_concat(node):
                form = form_of(node, self._opset(node))
                if not recall(form, node):
                    with fixed_numbers_only(node):
                        known(self.context, node)
                    remember(form, node)
                settle(node, self.context)
                follow_elements(node, self.context)
        # The package raises ValueError and its subclasses on input that it cannot digest, and plain
        # Python errors on forms that its authors did not meet: an unknown shape is always a safe answer.
        except (
            ValueError,
            TypeError,
            IndexError,
            KeyError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            logger.debug("no shape for %s %r: %s", node.op_type, node.name, error)
            for value in node.outputs:
                value.shape = None
        for value, type_ in zip(node.outputs, declared, strict=True):
            if value.type is None:
                value.type = type_
            self.context.bound_shape(value)
            self._name_anonymous_dims(value)

    def _opset(self, node: Node) -> int:
        return self._opset_of(node.domain or "")

    def _opset_of(self, domain: str) -> int:
        return int(self.context.get_opset_version(domain))

    def _name_anonymous_dims(self, value: Value) -> None:
        shape = value.shape
        if shape is None or all(isinstance(d, int) for d in shape.dims):
            return
        symbols = [d.value for d in shape.dims if isinstance(d, SymbolicDim)]
        if any(text is not None and text.isdecimal() for text in symbols):
            # An expression whose symbols cancelled, such as 6272*batch/batch, is a number.
            shape = value.shape = Shape([_as_number(d) for d in shape.dims])
        if None in symbols:
            if shape.frozen:
                value.shape = Shape(shape.dims)
            self.context.name_anonymous_dims(value)

    def _infer_loop(self, node: Node) -> None:
        """Loop: carried shapes are what the initial value and the body's result agree on.

        Spec: https://onnx.ai/onnx/operators/onnx__Loop.html
        """
        body = attribute(node, "body")
        carried = list(node.inputs[2:])
        formal = list(body.inputs)[2:]
        results = list(body.outputs)[1:]
        if len(formal) != len(carried) or len(results) < len(carried) or len(node.outputs) != len(results):
            raise ValueError("the body's inputs and outputs do not match the Loop's")
        for value, dtype in zip(list(body.inputs)[:2], (DataType.INT64, DataType.BOOL), strict=False):
            value.type = TensorType(dtype)
            value.shape = Shape([])
        for value, start in zip(formal, carried, strict=True):
            if start is not None:
                value.type = start.type
                value.shape = start.shape
        self._fixed_point(body, formal, results[: len(carried)])
        trip = self.context.get_symbolic_value(node.inputs[0]) if node.inputs[0] is not None else None
        endless = node.inputs[1] is None or _is_true(node.inputs[1])
        for index, (output, result) in enumerate(zip(node.outputs, results, strict=True)):
            if index < len(carried):
                start = carried[index]
                output.type = result.type if start is None else start.type
                output.shape = formal[index].shape
            elif result.shape is not None and isinstance(result.type, TensorType):
                # The trip count is exact only when nothing can stop the loop early.
                exact = endless and trip is not None and len(trip) == 1 and _is_true(body.outputs[0])
                count = trip[0] if exact and trip is not None else self.context.new_symbolic_dim()
                output.type = TensorType(result.type.dtype)
                output.shape = Shape([count, *result.shape.dims])
            else:
                output.type = result.type

    def _infer_scan(self, node: Node) -> None:
        """Scan: bodies see slices of the scanned inputs and a fixed point of the state shapes.

        ONNX Runtime runs no Scan of whose results it cannot tell the rank, which is why a declared rank
        is kept where nothing is known: of what a body takes, and of what it gives.

        Spec: https://onnx.ai/onnx/operators/onnx__Scan.html
        """
        body = attribute(node, "body")
        scanned = int(attribute(node, "num_scan_inputs"))
        states = len(node.inputs) - scanned
        axes = attribute(node, "scan_input_axes") or (0,) * scanned
        formal = list(body.inputs)
        if len(formal) != len(node.inputs) or states < 0 or len(axes) != scanned:
            raise ValueError("the body's inputs do not match the Scan's")
        for index, (value, source) in enumerate(zip(formal, node.inputs, strict=True)):
            if source is None:
                continue
            value.type = source.type
            claimed = _as_fresh_symbols(self.context, value.shape)
            value.shape = claimed if source.shape is None else source.shape
            if index >= states and source.shape is not None:
                dims = list(source.shape.dims)
                del dims[axes[index - states]]
                value.shape = Shape(dims)
        declared = [value.shape for value in body.outputs]
        self._fixed_point(body, formal[:states], list(body.outputs)[:states])
        for value, shape in zip(body.outputs, declared, strict=True):
            if value.shape is None:
                value.shape = _as_fresh_symbols(self.context, shape)

    def _fixed_point(self, body: Graph, formal: Sequence[Value], results: Sequence[Value]) -> None:
        """Infer `body` until the carried shapes no longer change; each turn only forgets, so it ends.

        Every level of nested loops multiplies the turns. Deep inside them, and where many turns do not
        settle it, the carried shapes are given up at once, which keeps the cost linear.
        """
        varying: set[str] = set()
        self._loops += 1
        try:
            for _ in range(MAX_LOOP_TURNS if self._loops <= MAX_NESTED_FIXED_POINTS else 0):
                self.run(body)
                if not self._forget_changed(formal, results, varying):
                    return
            for value in formal:
                value.shape = None
            self.run(body)
        finally:
            self._loops -= 1

    def _forget_changed(self, formal: Sequence[Value], results: Sequence[Value], varying: set[str]) -> bool:
        """Replace what one turn changed of the carried shapes by new symbols; return whether it did."""
        changed = False
        for value, result in zip(formal, results, strict=True):
            if value.shape is None:
                continue
            if result.shape is None or len(result.shape) != len(value.shape):
                value.shape = None
                changed = True
                continue
            dims: list[int | SymbolicDim] = []
            for before, after in zip(value.shape.dims, result.shape.dims, strict=True):
                if same_dim(before, after) or (isinstance(before, SymbolicDim) and before.value in varying):
                    dims.append(before)
                    continue
                dims.append(self.context.new_symbolic_dim())
                varying.add(str(dims[-1]))
                changed = True
            value.shape = Shape(dims)
        return changed


def _set_strings(node: Node) -> bool:
    """Type and shape of a Constant that holds strings as an attribute, which the package leaves open."""
    for name in ("value_string", "value_strings"):
        if (held := attribute(node, name)) is not None:
            node.outputs[0].type = TensorType(DataType.STRING)
            node.outputs[0].shape = Shape([] if name == "value_string" else [len(held)])
            return True
    return False


def _is_quantized_gemm(node: Node) -> bool:
    """Whether `node` is a QGemm with 8-bit results, whose type the package takes from the scale."""
    return (
        is_op(node, "QGemm", domain="com.microsoft") and len(node.inputs) > 8 and node.inputs[8] is not None
    )


def _is_true(value: Value | None) -> bool:
    """Whether `value` is a constant true, through Identity nodes."""
    for _ in range(8):
        producer = None if value is None else value.producer()
        if not is_op(producer, "Identity") or producer is None:
            break
        value = producer.inputs[0]
    if value is None or value.const_value is None or value.is_graph_input():
        return False
    return bool(value.const_value.numpy().all())


def normalize_dim_names(model: Model) -> None:
    """Replace dimension names that are no identifiers (``?``, ``batch size``, negative numbers).

    A name that stood in two places still stands in both under its new spelling, except ``?``,
    unnamed and negative dimensions, each of which is a dimension of its own.
    """
    taken: set[str] = set()
    renamed: dict[str, str] = {}
    values = [
        v
        for g in walk_graphs(model.graph)
        for v in (*g.inputs, *g.outputs, *(o for n in g for o in n.outputs))
    ]
    for value in values:
        taken.update(name for name in _symbols(value) if _DIM_NAME.match(name))
    for value in values:
        if value.shape is None or all(_is_plain_dim(d) for d in value.shape.dims):
            continue
        renewed: list[int | str | SymbolicDim] = []
        for index, dim in enumerate(value.shape.dims):
            if _is_plain_dim(dim):
                renewed.append(dim)
                continue
            text = "" if isinstance(dim, int) else str(dim.value or "")
            if text and text != "?" and text in renamed:
                renewed.append(renamed[text])
                continue
            stem = dim_name(text or f"{_identifier(value.name)}_dim{index}")
            if not stem:
                stem = f"{_identifier(value.name)}_dim{index}"
            name = _unique(stem, taken)
            if text and text != "?":
                renamed[text] = name
            renewed.append(name)
        value.shape = Shape(renewed)


def dim_name(text: str) -> str:
    """The identifier that the dimension name `text` becomes at ingest; empty if nothing of it is left."""
    stem = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")
    if not stem or (_DIM_NAME.match(stem) and stem not in _RESERVED_DIM_NAMES):
        return stem
    return f"dim_{stem}"


def _symbols(value: Value) -> Iterable[str]:
    if value.shape is not None:
        yield from (d.value for d in value.shape.dims if isinstance(d, SymbolicDim) and d.value is not None)


def _is_plain_dim(dim: int | SymbolicDim) -> bool:
    if isinstance(dim, int):
        return dim >= 0
    return dim.value is not None and bool(_DIM_NAME.match(dim.value)) and dim.value not in _RESERVED_DIM_NAMES


def _identifier(name: str | None) -> str:
    text = re.sub(r"\W+", "_", name or "value", flags=re.ASCII).strip("_") or "value"
    return text if _DIM_NAME.match(text) else f"v_{text}"


def _unique(stem: str, taken: set[str]) -> str:
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


def _as_number(dim: int | SymbolicDim) -> int | SymbolicDim:
    return int(dim.value) if isinstance(dim, SymbolicDim) and dim.value and dim.value.isdecimal() else dim


def is_tensor(value: Value) -> bool:
    """Whether `value` is a plain tensor as far as is known (not a sequence or an optional)."""
    return value.type is None or isinstance(value.type, TensorType)
