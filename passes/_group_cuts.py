"""Cutting units out of a model, with the way back, and what heads are worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import onnx_ir

from graphopt.ir import LazyTensor, Model, Node, Shape, TensorProtocol, Value, tensor
from graphopt.ir.edit import Namer, add_initializer, make_node
from graphopt.ir.query import constant_tensor, ints, is_op, static_shape
from graphopt.passes._channel_groups import ChannelGroups, Cut
from graphopt.passes._head_groups import HeadGroups
from graphopt.passes._matching import numbers


class Cutter:
    """Takes the units whose roots are `removed` out of a model."""

    def __init__(self, model: Model, groups: ChannelGroups, removed: set[int]) -> None:
        self._graph = model.graph
        self._groups = groups
        self._removed = removed
        self._namer = Namer(model.graph)
        self._undo: list[Callable[[], object]] = []
        self._made: dict[object, Value] = {}
        self._sizes = {v: static_dims(v) for v in groups.labels}

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
        for node, units in self._groups.flattened:
            self._retarget(node, 1, units)
        if isinstance(self._groups, HeadGroups):
            for node, axis, units in self._groups.targets:
                self._retarget(node, axis, units)
            for node, name, units in self._groups.attentions:
                self._set(node, name, self._kept(units).size)
            for node in self._groups.divided:
                self._redivide(node)

    def undo(self) -> None:
        """Put everything back."""
        while self._undo:
            self._undo.pop()()

    def unexpected(self) -> set[int]:
        """The removed roots of values whose inferred shape is not the old one less what went."""
        wrong: set[int] = set()
        for value, (axis, units) in self._groups.labels.items():
            roots = self._groups.roots(units)
            gone = {int(r) for r in roots} & self._removed
            before = self._sizes[value]
            if not gone or before is None:
                continue
            before = [*before[:axis], self._kept(units).size, *before[axis + 1 :]]
            after = static_dims(value)
            if after is None or len(after) != len(before) or after[axis] != before[axis]:
                wrong |= gone
                continue
            pairs = zip(before, after, strict=True)
            if any(a is not None and b is not None and a != b for a, b in pairs):
                wrong |= gone
        return wrong

    def _kept(self, units: np.ndarray) -> np.ndarray:
        return np.flatnonzero([int(r) not in self._removed for r in self._groups.roots(units)])

    def _input(self, node: Node, index: int, new: Value) -> None:
        old = node.inputs[index]
        self._undo.append(lambda: node.replace_input_with(index, old))
        node.replace_input_with(index, new)

    def _set(self, node: Node, name: str, number: int) -> None:
        old = node.attributes.get(name)

        def back() -> None:
            if old is None:
                node.attributes.pop(name)
            else:
                node.attributes[name] = old

        self._undo.append(back)
        node.attributes[name] = onnx_ir.AttrInt64(name, number)

    def _slice(self, value: Value | None, chosen: dict[int, np.ndarray]) -> Value:
        """The constant `value` cut; users that share it and are cut alike share the result."""
        assert value is not None
        key = (value, *((axis, entries.tobytes()) for axis, entries in sorted(chosen.items())))
        if key not in self._made:
            new = sliced(value, chosen, self._namer.value(f"{value.name}/pruned"))
            self._made[key] = add_initializer(self._graph, new.name or "", new)
        return self._made[key]

    def _vector(self, like: Value, entries: list[int]) -> Value:
        key = ("vector", *entries)
        if key not in self._made:
            name = self._namer.value(f"{like.name}/pruned")
            self._made[key] = add_initializer(self._graph, name, np.array(entries, np.int64))
        return self._made[key]

    def _retarget(self, node: Node, axis: int, units: np.ndarray) -> None:
        """Write the new number into the target of a Reshape or Expand, if it is a constant there."""
        count = self._kept(units).size
        target = node.inputs[1]
        if target is None or count == units.size:
            return
        if (entries := ints(target)) is not None:
            index = len(entries) - (len(node.outputs[0].shape or ()) - axis)
            if index >= 0 and entries[index] == units.size and units.size > 1:
                self._input(node, 1, self._vector(target, [*entries[:index], count, *entries[index + 1 :]]))
            return
        concat = target.producer()
        if not is_op(concat, "Concat") or concat is None:
            return
        position = 0
        for index, part in enumerate(concat.inputs):
            shape = static_shape(part)
            if part is None or shape is None or len(shape) != 1:
                return
            if position <= axis < position + shape[0]:
                entries = ints(part)
                if entries is not None and entries[axis - position] == units.size:
                    own = [*entries[: axis - position], count, *entries[axis - position + 1 :]]
                    self._reconcat(node, concat, index, self._vector(part, own))
                return
            position += shape[0]

    def _reconcat(self, node: Node, concat: Node, index: int, part: Value) -> None:
        """Give `node` a target of its own: others may keep their number of heads."""
        inputs = [part if i == index else v for i, v in enumerate(concat.inputs)]
        name = self._namer.value(f"{concat.outputs[0].name}/pruned")
        new = make_node(
            "Concat",
            inputs,
            {"axis": 0},
            name=self._namer.node(f"{concat.name}/pruned"),
            output_names=[name],
        )
        self._graph.insert_before(node, new)
        self._undo.append(lambda: self._graph.remove(new, safe=True))
        self._input(node, 1, new.outputs[0])

    def _redivide(self, node: Node) -> None:
        sizes = [self._kept(self._groups.labels[v][1]).size for v in node.outputs]
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            self._input(node, 1, self._vector(node.inputs[1], sizes))


def static_dims(value: Value) -> list[int | None] | None:
    """The dimensions of `value`, None for those that are not numbers."""
    return None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape.dims]


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


def head_norms(groups: HeadGroups) -> dict[int, float]:
    """The squared norm of the product of the value columns and the output rows, by root of a head."""
    columns: dict[int, tuple[Cut, int]] = {}
    for cut in groups.cuts:
        if cut.is_weight and not cut.reads:
            columns.update({int(u): (cut, i) for i, u in enumerate(cut.units)})
    norms: dict[int, float] = defaultdict(float)
    for cut in groups.cuts:
        if not cut.reads or int(cut.units[0]) not in groups.heads:
            continue
        rows = numbers(cut.node.inputs[cut.index])
        size = groups.heads[int(cut.units[0])].size
        if rows is None or rows.ndim != 2:
            continue
        rows = np.moveaxis(rows, cut.axis, 0).astype(np.float64)
        for start in range(0, cut.units.size, size):
            head = int(cut.units[start])
            block = rows[start : start + size]
            value = _columns(groups.heads[head], columns) if head in groups.heads else None
            product = block if value is None or value.shape[1] != len(block) else value @ block
            norms[groups.root(head)] += float(np.sum(np.square(product)))
    return norms


def _columns(units: np.ndarray, columns: dict[int, tuple[Cut, int]]) -> np.ndarray | None:
    """The columns of a projection that make `units`."""
    if any(int(u) not in columns for u in units):
        return None
    cut = columns[int(units[0])][0]
    array = numbers(cut.node.inputs[cut.index])
    if array is None or array.ndim != 2 or any(columns[int(u)][0] is not cut for u in units):
        return None
    taken = np.take(array, [columns[int(u)][1] for u in units], axis=cut.axis).astype(np.float64)
    return np.moveaxis(taken, cut.axis, -1)
