"""Cutting units out of a model, with the way back."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import onnx_ir

from graphopt.ir import LazyTensor, Model, Node, Shape, SymbolicDim, TensorProtocol, Value, tensor
from graphopt.ir.edit import Namer, add_initializer, make_node
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import constant_tensor, ints, is_op, static_shape
from graphopt.passes._channel_groups import ChannelGroups
from graphopt.passes._head_groups import HeadGroups
from graphopt.passes._units import Label

_NAMELESS = re.compile(r"\b_d\d+\b")
"""Symbols that shape inference makes up, which are other ones each time."""


class Cutter:
    """Takes the units whose roots are `removed` out of a model."""

    def __init__(self, model: Model, groups: ChannelGroups, removed: set[int]) -> None:
        self._graph = model.graph
        self._groups = groups
        self._removed = removed
        self._gone = np.isin(groups.all_roots(), list(removed))
        self._namer = Namer(model.graph)
        self._undo: list[Callable[[], object]] = []
        self._made: dict[object, Value] = {}
        self._expected = {
            value: self._less_what_goes(value) for node in model.graph for value in node.outputs
        }

    def cut(self) -> None:
        """Replace every constant, attribute and target that depends on what goes."""
        axes: dict[tuple[Node, int], dict[int, np.ndarray]] = defaultdict(dict)
        for cut in self._groups.cuts:
            entries = self._kept(cut.units)
            if entries.size < cut.units.size:
                axes[cut.node, cut.index][cut.axis] = entries
        for (node, index), chosen in axes.items():
            new = self._slice(node.inputs[index], chosen)
            if node.op_type == "Conv" and index == 1 and int(node.attributes.get_int("group", 1)) > 1:
                self._set(node, "group", int(new.shape[0]))  # type: ignore[index, arg-type]
            self._input(node, index, new)
        for node, index, label in self._groups.targets:
            if index < len(node.inputs) and self._goes(label.units):
                self._retarget(node, index, label)
        for node in self._groups.divided:
            if self._goes(self._groups.labels[node.inputs[0]].units):  # type: ignore[index]
                self._redivide(node)
        if isinstance(self._groups, HeadGroups):
            for node, name, units in self._groups.attributes:
                if self._goes(units):
                    self._set(node, name, self._kept(units).size)

    def undo(self) -> None:
        """Put everything back."""
        while self._undo:
            self._undo.pop()()

    def unexpected(self) -> set[int]:
        """The removed roots at fault where an inferred shape is not the old one less what went.

        Looked at are the nodes where a shape first goes wrong, not those that only pass it on.
        """
        wrong: set[int] = set()
        bad: set[Value | None] = set()
        for node in self._graph:
            wanted = {v: self._expected.get(v) for v in node.outputs}
            found = {v for v, dims in wanted.items() if dims is not None and dims_of(v) != dims}
            if found and bad.isdisjoint(node.inputs):
                wrong |= self._at_fault(node)
            bad |= found
        return wrong

    def _at_fault(self, node: Node) -> set[int]:
        groups, units = self._groups, []
        for value in (*node.inputs, *node.outputs):
            if value is not None and value in groups.labels:
                units.append(groups.labels[value].units)
            if value is not None and value in groups.sizes:
                units.append(groups.sizes[value])
        roots = {int(r) for each in units for r in groups.roots(each)} & self._removed
        return roots or self._removed

    def _less_what_goes(self, value: Value) -> list[int | str] | None:
        """The dimensions that `value` is to have."""
        dims, label = dims_of(value), self._groups.labels.get(value)
        if dims is None or label is None or not self._goes(label.units):
            return dims
        size, left = label.units.size, self._kept(label.units).size
        count = dims[label.axis]
        if isinstance(count, int):
            dims[label.axis] = count // size * left
        else:
            symbol = value.shape[label.axis]  # type: ignore[index]
            outer = symbol // size if isinstance(symbol, SymbolicDim) else symbol
            dims[label.axis] = dim_text(outer * left)
        return dims

    def _goes(self, units: np.ndarray) -> bool:
        return bool(self._gone[units].any())

    def _kept(self, units: np.ndarray) -> np.ndarray:
        return np.flatnonzero(~self._gone[units])

    # --- changes that can be undone

    def _input(self, node: Node, index: int, new: Value) -> None:
        old = node.inputs[index]
        self._undo.append(lambda: node.replace_input_with(index, old))
        node.replace_input_with(index, new)

    def _set(self, node: Node, name: str, number: int | None) -> None:
        before = list(node.attributes.values())

        def back() -> None:
            node.attributes.clear()
            node.attributes.update({attribute.name: attribute for attribute in before})

        self._undo.append(back)
        if number is None:
            node.attributes.pop(name, None)
        else:
            node.attributes[name] = onnx_ir.AttrInt64(name, number)

    def _initializer(self, name: str, data: np.ndarray | TensorProtocol) -> Value:
        made = add_initializer(self._graph, name, data)
        self._undo.append(lambda: self._graph.initializers.pop(name))
        return made

    def _slice(self, value: Value | None, chosen: dict[int, np.ndarray]) -> Value:
        """The constant `value` cut; users that share it and are cut alike share the result."""
        assert value is not None
        key = (value, *((axis, entries.tobytes()) for axis, entries in sorted(chosen.items())))
        if key not in self._made:
            name = self._namer.value(f"{value.name}/pruned")
            self._made[key] = self._initializer(name, sliced(value, chosen, name))
        return self._made[key]

    def _vector(self, like: str | None, entries: list[int]) -> Value:
        key = ("vector", *entries)
        if key not in self._made:
            self._made[key] = self._initializer(
                self._namer.value(f"{like}/pruned"), np.array(entries, np.int64)
            )
        return self._made[key]

    # --- sizes

    def _retarget(self, node: Node, index: int, label: Label) -> None:
        """Write the new number into the sizes that operand `index` gives, if it is a constant there.

        A size that is left as it is (0, -1, or computed) is proven by the shapes, or undone.
        """
        target = node.inputs[index]
        dims = static_shape(target)
        if target is None or dims is None or len(dims) != 1:
            return
        # An Expand may name the last axes only.
        position = dims[0] - len(node.outputs[0].shape or ()) + label.axis
        if position < 0:
            return
        if (entries := ints(target)) is not None:
            if (new := self._with_number(entries, position, label)) is not None:
                self._input(node, index, self._vector(target.name, new))
            return
        concat = target.producer()
        if concat is None or not is_op(concat, "Concat"):
            return
        for place, part in enumerate(concat.inputs):
            dims = static_shape(part)
            if part is None or dims is None or len(dims) != 1:
                return
            if position < dims[0]:
                entries = ints(part)
                new = None if entries is None else self._with_number(entries, position, label)
                if new is not None:
                    self._reconcat(node, index, concat, place, self._vector(part.name, new))
                return
            position -= dims[0]

    def _with_number(self, entries: tuple[int, ...], position: int, label: Label) -> list[int] | None:
        times, rest = divmod(entries[position], label.units.size)
        if times < 1 or rest:
            return None
        return [*entries[:position], times * self._kept(label.units).size, *entries[position + 1 :]]

    def _reconcat(self, node: Node, index: int, concat: Node, place: int, part: Value) -> None:
        """Give `node` a target of its own: others may keep their number."""
        key = ("concat", concat, place, part)
        if key not in self._made:
            new = make_node(
                "Concat",
                [part if i == place else v for i, v in enumerate(concat.inputs)],
                {"axis": 0},
                name=self._namer.node(f"{concat.name}/pruned"),
                output_names=[self._namer.value(f"{concat.outputs[0].name}/pruned")],
            )
            merge_origins([new], [concat])
            # Targets come in the order of the graph: this is before every node that shares it.
            self._graph.insert_before(node, new)
            self._undo.append(lambda: self._graph.remove(new, safe=True))
            self._made[key] = new.outputs[0]
        self._input(node, index, self._made[key])

    def _redivide(self, node: Node) -> None:
        """Write how many are left of each part of a Split."""
        sizes = [self._kept(self._groups.labels[v].units).size for v in node.outputs]
        count = len(node.inputs)
        if count == 1:
            self._undo.append(lambda: node.resize_inputs(1))
            node.resize_inputs(2)
        self._input(node, 1, self._vector(f"{node.name}/split", sizes))
        if "num_outputs" in node.attributes:
            self._set(node, "num_outputs", None)


def dims_of(value: Value) -> list[int | str] | None:
    """The dimensions of `value` as they can be compared, a symbol that has no name as ``?``."""
    return None if value.shape is None else [dim_text(d) for d in value.shape.dims]


def dim_text(dim: int | SymbolicDim) -> int | str:
    """A number, or the text of an expression whose nameless symbols are all written ``?``."""
    return dim if isinstance(dim, int) else _NAMELESS.sub("?", str(dim.value))


def sliced(value: Value, chosen: dict[int, np.ndarray], name: str) -> TensorProtocol:
    """The constant `value` with only the `chosen` entries of some axes, taken when it is written."""
    source = constant_tensor(value)
    assert source is not None
    dims = [chosen[a].size if a in chosen else d for a, d in enumerate(source.shape.numpy())]

    def make() -> TensorProtocol:
        array = source.numpy()
        for axis, entries in chosen.items():
            array = np.take(array, entries, axis=axis)
        return tensor(array, dtype=source.dtype, name=name)

    return LazyTensor(make, dtype=source.dtype, shape=Shape(dims), name=name)
