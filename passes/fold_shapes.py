"""fold-shapes: arithmetic on shapes becomes constants, 0 and -1, or one Shape."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Sequence

import numpy as np

from graphopt.ir import DataType, Graph, Model, Node, SymbolicDim, Value
from graphopt.ir.edit import Namer, add_initializer, make_node, remove_dead, replace_value
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import (
    constant_tensor,
    ints,
    is_op,
    rank,
    same_dim,
    same_shape,
    static_shape,
    subgraphs,
    walk_graphs,
)
from graphopt.ir.shapes import infer_afresh
from graphopt.passes.merge_reshapes import reshape_target
from graphopt.transform import Changes, Pass

Dim = int | SymbolicDim
Key = tuple[DataType, int, tuple[str, ...]]
Sources = ChainMap[str, list[tuple[Value, int]]]
"""Where a dimension can be read: values and their axes, in scopes of nested graphs."""

_INDEX_TYPES = frozenset({DataType.INT64, DataType.INT32})
# Operators whose effect on integers of a shape is followed exactly, with the inputs that carry them.
_ALL_INPUTS = frozenset({"Add", "Concat", "Mul", "Sub"})
_FIRST_INPUT = frozenset({"Cast", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
_REBUILT = frozenset({"Concat", "Gather", "Reshape", "Slice", "Squeeze", "Unsqueeze", "Where"})
MAX_SOURCES = 4
"""How many values of the same dimension are remembered as places to read it from."""


@dataclasses.dataclass(frozen=True)
class FoldShapes(Pass):
    """Simplify shape arithmetic, with symbolic dimensions as the proof.

    What is known becomes a constant; a Reshape to provable dimensions gets a constant target with
    0 (copy) or -1; values that are equal are computed once; what is left of a tower of Shape, Gather,
    Unsqueeze and Concat is a Shape with start and end, and at most one Concat.

    given:  float[N, 8, 8] x
    before: n = Gather(Shape(x), [0]); y = Reshape(x, Concat<axis = 0>(n, [4, 16]))
    after:  y = Reshape(x, [0, 4, 16])

    Attributes:
        assume_nonempty: no dimension is ever zero, so that -1 may stand next to a copied dimension.
    """

    assume_nonempty: bool = False

    def run(self, model: Model) -> Changes:
        """Infer shapes anew, then simplify in two sweeps in the order of the graph."""
        if not any(_uses_shapes(node) for graph in walk_graphs(model.graph) for node in graph):
            return Changes()
        folder = _Folder(model, self.assume_nonempty)
        folder.simplify(model.graph, {})
        folder.sweep()
        folder.rebuild(model.graph, ChainMap(), ChainMap())
        folder.sweep()
        return folder.changes


def _uses_shapes(node: Node) -> bool:
    return is_op(node, "Shape", "Size", "Reshape", "Expand", "ConstantOfShape")


class _Folder:
    def __init__(self, model: Model, assume_nonempty: bool) -> None:
        self.model = model
        self.assume_nonempty = assume_nonempty
        self.changes = Changes()
        self.namer = Namer(model.graph)
        self.inference = infer_afresh(model)
        self.followed: set[Value] = set()
        self.loose: list[Node] = []
        self.constants: dict[tuple[DataType, int, tuple[int, ...]], Value] = {}

    def sweep(self) -> None:
        """Remove what lost its users."""
        remove_dead(self.loose)
        self.loose = []

    # --- first sweep: constants, targets, equal values ---

    def simplify(self, graph: Graph, table: dict[Key, Value]) -> None:
        added: list[Key] = []
        for node in list(graph):
            for sub in subgraphs(node):
                self.simplify(sub, table)
            if self._fold_target(node) or not self._is_followed(node):
                continue
            value = node.outputs[0]
            self.followed.add(value)
            dims = self._dims(value)
            if dims is None or (value.is_graph_output() and is_op(node, "Identity")):
                continue
            numbers = [d for d in dims if isinstance(d, int)]
            if len(numbers) == len(dims):
                self._redirect(node, self._constant(value.dtype, rank(value) or 0, numbers), "constant")
                continue
            key = _key(value, dims)
            if key is None:
                continue
            known = table.get(key)
            if known is None:
                table[key] = value
                added.append(key)
            elif is_op(node, "Shape") and not is_op(known.producer(), "Shape"):
                continue  # a Shape is simpler than whatever came before it
            elif not value.is_graph_output():
                self._redirect(node, known, "equal-value")
        for key in added:
            del table[key]

    def _fold_target(self, node: Node) -> bool:
        """Give Reshape, Expand and ConstantOfShape a constant target where one can be proven."""
        output = node.outputs[0] if node.outputs else None
        if output is None or not is_op(node, "Reshape", "Expand", "ConstantOfShape"):
            return False
        position = 0 if is_op(node, "ConstantOfShape") else 1
        target = node.inputs[position]
        if target is None:
            return False
        x = node.inputs[0]
        if is_op(node, "Expand") and x is not None and same_shape(x.shape, output.shape):
            if output.is_graph_output() and not _can_carry(x, output):
                return False
            self._redirect(node, x, "expand-to-same-shape")
            return True
        if constant_tensor(target) is not None:
            return False
        if is_op(node, "Reshape"):
            source = None if x is None else x.shape
            wanted = reshape_target(source, output.shape, assume_nonempty=self.assume_nonempty)
        else:
            shape = static_shape(output)
            wanted = None if shape is None else list(shape)
        if wanted is None:
            self.changes.declined[f"{node.op_type}: its target is no constant"] += 1
            return False
        node.replace_input_with(position, self._constant(DataType.INT64, 1, wanted))
        node.attributes.pop("allowzero", None)
        self._loosen(target)
        self.changes.counts[f"{node.op_type.lower()}-target"] += 1
        return is_op(node, "Expand", "ConstantOfShape")

    def _is_followed(self, node: Node) -> bool:
        """Whether the first output of `node` is a vector or scalar of integers that is followed exactly."""
        if (node.domain or "") != "" or not node.outputs:
            return False
        value = node.outputs[0]
        count = rank(value)
        if value.dtype not in _INDEX_TYPES or count is None or count > 1:
            return False
        if node.op_type in ("Shape", "Size"):
            return True
        if node.op_type in _ALL_INPUTS:
            return all(self._is_known(v) for v in node.inputs)
        if is_op(node, "ConstantOfShape"):
            elements = self._dims(value)
            return elements is not None and all(isinstance(d, int) for d in elements)
        if is_op(node, "Where"):
            return self._is_decided(node)
        if is_op(node, "Div"):
            return value in self.inference.context.extents and all(self._is_known(v) for v in node.inputs)
        if node.op_type not in _FIRST_INPUT or not self._is_known(node.inputs[0]):
            return False
        if is_op(node, "Gather"):
            indices = rank(node.inputs[1])
            return rank(node.inputs[0]) == 1 and indices is not None and ints(node.inputs[1]) is not None
        if is_op(node, "Slice"):
            steps = ints(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else (1,)
            return steps == (1,) and ints(node.inputs[1]) is not None and ints(node.inputs[2]) is not None
        return True

    def _is_decided(self, node: Node) -> bool:
        """Whether every element of a Where is an element of one of its branches, which are followed."""
        branches = node.inputs[1:]
        dims = self._dims(node.outputs[0])
        if dims is None or not all(self._is_known(v) for v in branches):
            return False
        columns = [[] if v is None else self.inference.context.get_symbolic_value(v) or [] for v in branches]
        if any(len(column) not in (1, len(dims)) for column in columns):
            return False
        return all(
            any(same_dim(dim, column[index % len(column)]) for column in columns)
            for index, dim in enumerate(dims)
        )

    def _is_known(self, value: Value | None) -> bool:
        return value is not None and (value in self.followed or ints(value) is not None)

    def _dims(self, value: Value) -> list[Dim] | None:
        dims = self.inference.context.get_symbolic_value(value)
        shape = static_shape(value)
        if dims is None or shape is None or len(dims) != (shape[0] if shape else 1):
            return None
        limit = np.iinfo(np.int32 if value.dtype == DataType.INT32 else np.int64)
        for dim in dims:
            if isinstance(dim, int) and not limit.min <= dim <= limit.max:
                return None
        return list(dims)

    def _constant(self, dtype: DataType | None, count: int, numbers: Sequence[int]) -> Value:
        chosen = dtype or DataType.INT64
        key = (chosen, count, tuple(numbers))
        known = self.constants.get(key)
        if known is None:
            array = np.array(numbers, chosen.numpy()).reshape((len(numbers),) if count else ())
            name = self.namer.value("shape/" + "x".join(str(n) for n in numbers[:8]))
            known = self.constants[key] = add_initializer(self.model.graph, name, array)
        return known

    def _redirect(self, node: Node, new: Value, what: str) -> None:
        replace_value(node.outputs[0], new)
        producer = new.producer()
        if producer is not None:
            merge_origins([producer], [node])
        self.loose.append(node)
        self.changes.counts[what] += 1

    def _loosen(self, value: Value) -> None:
        producer = value.producer()
        if producer is not None:
            self.loose.append(producer)

    # --- second sweep: towers ---

    def rebuild(
        self,
        graph: Graph,
        table: ChainMap[Key, Value],
        sources: Sources,
    ) -> None:
        """Read dimensions by Shape with start and end, from the first value that has them."""
        for value in graph.inputs:
            _note_sources(value, sources)
        for node in list(graph):
            for sub in subgraphs(node):
                self.rebuild(sub, table.new_child(), sources.new_child())
            if is_op(node, "Shape") and node.inputs[0] is not None:
                _note_sources(node.inputs[0], sources)
            if not node.outputs or node.outputs[0] not in self.followed:
                continue
            value = node.outputs[0]
            dims = self._dims(value)
            key = None if dims is None else _key(value, dims)
            if dims is None or key is None:
                continue
            renewed = self._renew(node, dims, table, sources) or value
            if is_op(renewed.producer(), "Shape"):
                table.setdefault(key, renewed)

    def _renew(
        self,
        node: Node,
        dims: list[Dim],
        table: ChainMap[Key, Value],
        sources: Sources,
    ) -> Value | None:
        """The same vector as one Shape, or a Concat of Shapes and constants, in the place of a tower."""
        value = node.outputs[0]
        if node.op_type not in _REBUILT or value.dtype != DataType.INT64 or rank(value) != 1:
            return None
        if value.is_graph_output() or _is_simple(node) or not self._is_used_outside(value):
            return None
        runs = _runs(dims, sources)
        if runs is None:
            self.changes.declined[f"{node.op_type}: a dimension is that of no value"] += 1
            return None
        parts = [self._part(node, run, table) for run in runs]
        result = parts[0] if len(parts) == 1 else self._node("Concat", parts, {"axis": 0}, node)
        self.followed.add(result)
        self._redirect(node, result, "tower")
        return result

    def _is_used_outside(self, value: Value) -> bool:
        """Whether anything but further shape arithmetic uses `value`."""
        for use in value.uses():
            carries = use.node.op_type in _ALL_INPUTS or (use.node.op_type in _FIRST_INPUT and use.idx == 0)
            if (use.node.domain or "") != "" or not carries or use.node.outputs[0] not in self.followed:
                return True
        return False

    def _part(
        self, node: Node, run: list[int] | tuple[Value, int, int], table: ChainMap[Key, Value]
    ) -> Value:
        if isinstance(run, list):
            return self._constant(DataType.INT64, 1, run)
        source, start, end = run
        assert source.shape is not None
        key = (DataType.INT64, 1, tuple(str(d) for d in source.shape.dims[start:end]))
        known = table.get(key)
        if known is not None:
            return known
        whole = start == 0 and end == len(source.shape)
        attributes = {} if whole else {"start": start, "end": end}
        made = self._node("Shape", [source], attributes, node)
        self.followed.add(made)
        table[key] = made
        return made

    def _node(self, op_type: str, inputs: Sequence[Value], attributes: dict[str, int], at: Node) -> Value:
        name = self.namer.node(f"{at.name}/{op_type}")
        names = [self.namer.value(f"{name}:out")]
        made = make_node(op_type, inputs, attributes, name=name, output_names=names)
        assert at.graph is not None
        at.graph.insert_before(at, made)
        self.inference.infer_node(made)
        merge_origins([made], [at])
        return made.outputs[0]


def _key(value: Value, dims: Sequence[Dim]) -> Key | None:
    count = rank(value)
    if value.dtype is None or count is None or any(_is_anonymous(d) for d in dims):
        return None
    return (value.dtype, count, tuple(str(d) for d in dims))


def _is_anonymous(dim: Dim) -> bool:
    return isinstance(dim, SymbolicDim) and dim.value is None


def _can_carry(x: Value, output: Value) -> bool:
    producer = x.producer()
    return (
        producer is not None
        and producer.graph is output.graph
        and not (x.is_graph_output() or x.is_graph_input() or x.is_initializer())
    )


def _note_sources(value: Value, sources: Sources) -> None:
    if value.shape is None:
        return
    for axis, dim in enumerate(value.shape.dims):
        if isinstance(dim, SymbolicDim) and dim.value is not None:
            known = sources.get(dim.value, [])
            if len(known) < MAX_SOURCES and (value, axis) not in known:
                # A new list, in the innermost scope: what a body has, nobody outside may read.
                sources[dim.value] = [*known, (value, axis)]


def _is_simple(node: Node) -> bool:
    """Whether a Concat has nothing but constants and Shapes to join."""
    return is_op(node, "Concat") and all(
        constant_tensor(v) is not None or (v is not None and is_op(v.producer(), "Shape"))
        for v in node.inputs
    )


def _runs(dims: Sequence[Dim], sources: Sources) -> list[list[int] | tuple[Value, int, int]] | None:
    """`dims` as runs of numbers and of neighbouring axes of one value; None if one has no source."""
    runs: list[list[int] | tuple[Value, int, int]] = []
    position = 0
    while position < len(dims):
        dim = dims[position]
        if isinstance(dim, int):
            if runs and isinstance(runs[-1], list):
                runs[-1].append(dim)
            else:
                runs.append([dim])
            position += 1
            continue
        best: tuple[Value, int, int] | None = None
        for value, axis in sources.get(str(dim.value), ()):
            length = _common_length(value, axis, dims, position)
            if best is None or length > best[2] - best[1]:
                best = (value, axis, axis + length)
        if best is None:
            return None
        runs.append(best)
        position += best[2] - best[1]
    return runs


def _common_length(value: Value, axis: int, dims: Sequence[Dim], position: int) -> int:
    assert value.shape is not None
    own = value.shape.dims
    length = 0
    while (
        axis + length < len(own)
        and position + length < len(dims)
        and isinstance(own[axis + length], SymbolicDim)
        and str(own[axis + length]) == str(dims[position + length])
    ):
        length += 1
    return length
