"""Bounded dynamism: values with an axis that is as long as the data says, and at most so long.

XLA's shapes are fixed. A value whose size along one axis is found at run time (NonZero, Compress,
NonMaxSuppression, Unique, and what is made of them) travels as :class:`Bounded`: padded to the bound, with
the true size beside it. What stands in the padding means nothing. An operator takes such a value only by a
rule that is exact whatever stands there (:mod:`graphopt.lowering.xla.bounded_rules`); for others the value
goes to the host, where it is cut to its size.

A size in shape arithmetic is a :class:`Count` within an object array, like a symbolic dimension.

At the edge of a program a bounded value is two arrays, the numbers and the shape of them that counts (int64):
``{"graphopt.padded": ..., "graphopt.shape": ...}``.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.artifact import PADDED, SHAPE
from graphopt.errors import UnsupportedError

if TYPE_CHECKING:
    from graphopt.ir import Node
    from graphopt.lowering.registry import Lowering
    from graphopt.lowering.xla.emit import Context

Array = Any

MOST_ELEMENTS = 1 << 20
"""How long a bounded axis may be; beyond, padding costs more than a transfer to the host."""

MOST_BYTES = 1 << 26
"""How much a bounded value may take with its padding, for the same reason."""

SHAPED_BY_DATA = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""Operators whose results are as large as their operands' numbers say."""


@dataclasses.dataclass(frozen=True, eq=False)
class Count:
    """A size that the data says.

    Attributes:
        number: the traced int64 scalar.
        key: what it counts: sizes of one key within one program are equal.
        limit: the most it can be.
    """

    number: Array
    key: str
    limit: int

    def __mul__(self, other: Any) -> Count:
        if isinstance(other, (int, np.integer)) and other >= 1:
            factor = int(other)
            if factor == 1:
                return self
            return Count(self.number * np.int64(factor), f"{self.key} * {factor}", self.limit * factor)
        return NotImplemented

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Count) and other.key == self.key:
            return True
        if isinstance(other, (int, np.integer)) and not 0 <= other <= self.limit:
            return False
        raise TypeError("a size that only the data says is compared")

    def __bool__(self) -> bool:
        raise TypeError("a size that only the data says decides something")

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return f"up to {self.limit}"


@dataclasses.dataclass(frozen=True)
class Bounded:
    """A tensor with one axis of `count` elements, padded to ``count.limit``."""

    array: Array
    count: Count
    axis: int

    @property
    def dtype(self) -> np.dtype:
        """The element type."""
        dtype: np.dtype = np.dtype(self.array.dtype)
        return dtype

    @property
    def ndim(self) -> int:
        """The rank."""
        return len(self.array.shape)

    @property
    def dims(self) -> tuple[Any, ...]:
        """The shape, with the count for the bounded axis."""
        shape = tuple(self.array.shape)
        return (*shape[: self.axis], self.count, *shape[self.axis + 1 :])

    def mask(self) -> Array:
        """Which elements count: bool, of size 1 along the other axes."""
        shape = [1] * self.ndim
        shape[self.axis] = self.count.limit
        return lax.broadcasted_iota(np.int64, shape, self.axis) < self.count.number

    def filled(self, value: Any) -> Array:
        """The array with `value` in the padding."""
        return jnp.where(self.mask(), self.array, jnp.asarray(value, self.array.dtype))


def make(ctx: Context, array: Array, count: Count, axis: int) -> Bounded:
    """A bounded value. Raises UnsupportedError (GO202) if its padding is too large to be worth it."""
    size = math.prod(array.shape) * np.dtype(array.dtype).itemsize
    if count.limit > MOST_ELEMENTS or size > MOST_BYTES:
        raise ctx.unsupported(
            "its result is as large as the data says, and could be too large to be padded", found=array.shape
        )
    return Bounded(array, count, axis)


def new_count(ctx: Context, number: Array, limit: int) -> Count:
    """A count that equals no other: named by the node, and by how often it was emitted before."""
    emitted = ctx.emitter.bounds
    name = ctx.node.outputs[0].name or ctx.node.name or ""
    emitted[name] = emitted.get(name, 0) + 1
    key = name if emitted[name] == 1 else f"{name} #{emitted[name]}"
    return Count(jnp.asarray(number, np.int64), key, limit)


def compacted(ctx: Context, keep: Array) -> tuple[Array, Count]:
    """The places where the vector `keep` holds, in order: int64[n] padded with 0, and how many."""
    size = int(keep.shape[0])
    rank = jnp.cumsum(keep.astype(np.int64)) - 1
    places = lax.iota(np.int64, size)
    target = jnp.where(keep, rank, jnp.asarray(size, np.int64))  # the rest is dropped
    found = jnp.zeros((size,), np.int64).at[target].set(places, mode="drop", unique_indices=False)
    return found, new_count(ctx, jnp.sum(keep.astype(np.int64)), size)


def has_count(operand: Any) -> bool:
    """Whether `operand` is shape arithmetic that holds a count."""
    return (
        isinstance(operand, np.ndarray)
        and operand.dtype == object
        and any(isinstance(item, Count) for item in operand.reshape(-1))
    )


# What crosses the edge of a program.


def struct_of(operand: Any) -> Any:
    """Shape and type of a bounded value or of shape arithmetic with counts, as one of structs."""
    if isinstance(operand, Bounded):
        array = jax.ShapeDtypeStruct(tuple(operand.array.shape), operand.array.dtype)
        return Bounded(array, _count_struct(operand.count), operand.axis)
    items = np.empty(operand.shape, object)
    items.reshape(-1)[:] = [_count_struct(x) if isinstance(x, Count) else x for x in operand.reshape(-1)]
    return items


def _count_struct(count: Count) -> Count:
    return dataclasses.replace(count, number=jax.ShapeDtypeStruct((), np.int64))


def is_bounded(operand: Any) -> bool:
    """Whether `operand`, or a struct, is a bounded value or shape arithmetic with counts."""
    return isinstance(operand, Bounded) or has_count(operand)


def outside_struct(struct: Any) -> Any:
    """The structs of what a value of `struct` is outside of a program."""
    if isinstance(struct, Bounded):
        shape = jax.ShapeDtypeStruct((len(struct.array.shape),), np.int64)
        return {PADDED: struct.array, SHAPE: shape}
    if has_count(struct):
        return jax.ShapeDtypeStruct(struct.shape, np.int64)
    return struct


def outside(value: Bounded) -> dict[str, Array]:
    """What a bounded value is outside of a program."""
    dims = [value.count.number if isinstance(d, Count) else np.int64(d) for d in value.dims]
    return {PADDED: value.array, SHAPE: jnp.stack([jnp.asarray(d, np.int64) for d in dims])}


def inside(struct: Any, given: Any) -> Any:
    """The value of `struct` from what it is outside of a program."""
    if isinstance(struct, Bounded):
        count = dataclasses.replace(struct.count, number=given[SHAPE][struct.axis])
        return Bounded(given[PADDED], count, struct.axis)
    if not has_count(struct):
        return given
    items = np.empty(struct.shape, object)
    flat = jnp.reshape(given, (-1,))
    items.reshape(-1)[:] = [
        dataclasses.replace(x, number=flat[i]) if isinstance(x, Count) else x
        for i, x in enumerate(struct.reshape(-1))
    ]
    return items


# Rules: how an operator takes bounded values.


@dataclasses.dataclass(frozen=True)
class Case:
    """One node with its operands, of which some are bounded.

    Attributes:
        attributes: as the operator's lowering takes them.
        lower: the node's ordinary results for other operands in the place of its own.
    """

    ctx: Context
    node: Node
    operands: Sequence[Any]
    attributes: dict[str, Any]
    lower: Callable[[Sequence[Any]], Sequence[Any]]

    @property
    def bounded(self) -> list[Bounded]:
        """The operands that are bounded."""
        return [x for x in self.operands if isinstance(x, Bounded)]

    def operand(self, index: int) -> Any:
        """Operand `index`, None if it is absent."""
        return self.operands[index] if index < len(self.operands) else None

    def static(self, index: int) -> np.ndarray | None:
        """The numbers of operand `index` if they are known; counts may be among them."""
        operand = self.operand(index)
        if operand is None or isinstance(operand, np.ndarray):
            return operand
        tensor = getattr(operand, "tensor", None)
        if tensor is None:
            raise self.refuse()
        array: np.ndarray = tensor.numpy()
        return array

    def refuse(self) -> UnsupportedError:
        """The error that this operator does not take padded values, or not so."""
        return self.ctx.unsupported("it takes a value whose size only the data says")


Rule = Callable[[Case], Sequence[Any]]
RULES: dict[str, Rule] = {}
SOURCES: dict[str, Rule] = {}
"""Rules of operators that make bounded values from others; they raise if they cannot."""


def rule(*op_types: str, table: dict[str, Rule] = RULES) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of operators of the default domain."""

    def register(function: Rule) -> Rule:
        table.update(dict.fromkeys(op_types, function))
        return function

    return register


def emit_by_rule(ctx: Context, lowering: Lowering | None, operands: Sequence[Any]) -> Sequence[Any] | None:
    """The results of a node whose operands, or results, are as large as the data says.

    Returns:
        None for other nodes, and where there is no padded form but maybe another, or an error of its own.

    Raises:
        UnsupportedError: GO202, the operator does not take such operands.
    """
    node, domain = ctx.node, ctx.node.domain or ""
    padded = any(isinstance(operand, Bounded) for operand in operands)
    if not padded and (lowering is None or domain or not _is_open(node, lowering, operands)):
        return None
    emit = importlib.import_module("graphopt.lowering.xla.emit")
    importlib.import_module("graphopt.lowering.xla.bounded_rules")  # registers them
    source = SOURCES.get(node.op_type)
    found = source or RULES.get(node.op_type)
    if lowering is None or domain or found is None:
        raise ctx.unsupported("it takes a value whose size only the data says")
    taken = lowering

    def lower(operands: Sequence[Any]) -> Sequence[Any]:
        results: Sequence[Any] = ctx.emitter.apply(node, taken, operands, ctx.env)
        return results

    try:
        return found(Case(ctx, node, operands, emit.attributes(node, lowering), lower))
    except (UnsupportedError, jax.errors.InconclusiveDimensionOperation):
        if source is not None and not padded:
            return None
        raise


def _is_open(node: Node, lowering: Lowering, operands: Sequence[Any]) -> bool:
    """Whether the data says how large the results are, by an operand that is computed or is a size."""
    given = [x for name, x in zip(lowering.operands, operands, strict=False) if name in lowering.static]
    if node.op_type in SHAPED_BY_DATA:
        return any(isinstance(x, jax.Array) for x in given)
    return any(has_count(x) for x in given)
