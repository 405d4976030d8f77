"""What is proven of each value when one dimension is padded, and the refusal to prove more."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.analysis.padding.sizes import ONE, Size, mentions, product, size_of
from graphopt.ir import Graph, Node, SymbolicDim, Value
from graphopt.ir.query import constant_tensor, ints
from graphopt.ir.shapes import Inference


@dataclasses.dataclass(frozen=True)
class Tag:
    """How a padded dimension of size N lies in an axis, which is ``outer * N * inner`` long, in order."""

    outer: Size = ONE
    inner: Size = ONE


@dataclasses.dataclass(frozen=True)
class State:
    """What holds for one value, between a run at size n and a run padded to size N.

    The value of the padded run, taken at those indices whose part along the dimension is below n, equals
    the value of the other run. Axes without a tag are equally long in both; a value without tags is the
    same in both.

    Attributes:
        tags: how the dimension lies in the axes that it lengthens.
        counts: whether the value is numbers that depend on the dimension's size, in an unchanged shape:
            nothing but shapes may be made of it.
        leak: why nothing is proven.
    """

    tags: Mapping[int, Tag] = dataclasses.field(default_factory=dict)
    counts: bool = False
    leak: Leak | None = None

    @property
    def fixed(self) -> bool:
        """Whether padding does not change the value at all."""
        return not self.tags and not self.counts and self.leak is None

    def without(self, axis: int) -> State:
        """The state when `axis`, which has no tag, is taken out of the shape."""
        return State({a - (a > axis): tag for a, tag in self.tags.items()})

    def with_axis(self, axis: int, tag: Tag | None = None) -> State:
        """The state when a new axis is put in at `axis`."""
        moved = {a + (a >= axis): old for a, old in self.tags.items()}
        return State(moved if tag is None else {**moved, axis: tag})


FIXED = State()
COUNTS = State(counts=True)


@dataclasses.dataclass(frozen=True)
class Leak:
    """Where and why padding could reach results: a node, an axis of one of its inputs if there is one."""

    node: Node | None
    why: str
    axis: int | None = None


class Refusal(Exception):
    """Raised by a rule that cannot prove its node."""

    def __init__(self, why: str, axis: int | None = None) -> None:
        super().__init__(why)
        self.why, self.axis = why, axis


@dataclasses.dataclass
class Context:
    """The graph as rules see it, with what is proven so far.

    Attributes:
        padded: the symbol of the padded dimension.
        largest: the most that it is padded to.
        states: by value; what is not there (weights, absent inputs) is the same in every run.
        independent: symbols that do not depend on the padded dimension.
    """

    padded: str
    largest: int
    inference: Inference
    states: dict[Value, State] = dataclasses.field(default_factory=dict)
    independent: set[str] = dataclasses.field(default_factory=set)

    def state(self, value: Value | None) -> State:
        """What is proven of `value`."""
        return FIXED if value is None else self.states.get(value, FIXED)

    def of(self, node: Node, index: int) -> State:
        """What is proven of an input of `node`; an absent one is fixed."""
        return self.state(operand(node, index))

    def rank(self, value: Value | None) -> int:
        """The rank of `value`."""
        return len(self.dims(value))

    def dims(self, value: Value | None) -> Sequence[int | SymbolicDim]:
        """The dimensions of `value`, as far as inference knows them."""
        if value is None or value.shape is None:
            raise Refusal("the shape of one of its operands is not known")
        return value.shape.dims

    def size(self, value: Value | None, axis: int) -> Size:
        """The size of one axis as a product."""
        tag = self.state(value).tags.get(axis)
        if tag is not None:
            return tag.outer * Size(1, (self.padded,)) * tag.inner
        size = self.as_size(self.dims(value)[axis], axis)
        if self.padded in size.names:
            raise Refusal(f"it cannot be said how {self.padded!r} lies in this axis", axis)
        return size

    def as_size(self, dim: int | SymbolicDim, axis: int | None = None) -> Size:
        """A dimension as a product. Raises Refusal if it depends on the padded one in another way."""
        size = size_of(dim, self.padded, self.largest)
        if size is None:
            raise Refusal(f"a size computed from it, {dim}, is no multiple of {self.padded!r}", axis)
        return size

    def is_independent(self, size: Size) -> bool:
        """Whether the size is known not to depend on the padded dimension."""
        return all(self.is_independent_symbol(name) for name in size.names)

    def is_independent_symbol(self, text: str) -> bool:
        """Whether a symbol, or every symbol of an expression, does not depend on the padded dimension."""
        if text in self.independent:
            return True
        words = {word for word in _words(text) if word not in _FUNCTIONS}
        return bool(words) and words <= self.independent and not mentions(text, self.padded)

    def new_axis(self, dim: int | SymbolicDim, axis: int) -> Tag | None:
        """The tag of an axis along which all is alike, or that counts up from a fixed start."""
        size = self.as_size(dim, axis)
        times = size.names.count(self.padded)
        if times == 0 and self.is_independent(size):
            return None
        rest = size.divided(Size(1, (self.padded,)))
        if times != 1 or rest is None or not self.is_independent(rest):
            raise Refusal(f"the size {dim} is not known to be a multiple of {self.padded!r}", axis)
        return Tag(ONE, rest)

    def elements(self, value: Value | None) -> Sequence[int | SymbolicDim] | None:
        """The elements of a short integer vector, as far as inference follows them."""
        if value is None:
            return None
        known = ints(value) if constant_tensor(value) is not None else None
        return known if known is not None else self.inference.context.get_symbolic_value(value)

    def fixed(self, node: Node, *indices: int) -> None:
        """Refuse unless padding changes none of these inputs."""
        for index in indices:
            if not self.of(node, index).fixed:
                raise Refusal(
                    f"its input {index} depends on {self.padded!r}", _first_axis(self.of(node, index))
                )

    def volume(self, value: Value | None, axes: range) -> Size:
        """The product of some axes' sizes."""
        return product(self.size(value, axis) for axis in axes)


def operand(node: Node, index: int) -> Value | None:
    """An input of `node`, or None where it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def graph_of(node: Node, name: str) -> Graph:
    """The graph in the attribute `name`."""
    graph: Graph = node.attributes[name].as_graph()
    return graph


def constant_ints(node: Node, index: int, default: Any = None) -> tuple[int, ...] | Any:
    """The integers of a constant input; `default` where it is absent. Raises Refusal where it is computed."""
    value = operand(node, index)
    if value is None:
        return default
    found = ints(value)
    if found is None:
        raise Refusal(f"its input {index} is no constant")
    return found


_FUNCTIONS = frozenset({"floor", "ceiling", "min", "max", "Min", "Max", "Mod", "mod", "sqrt", "Abs"})


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z_]\w*", text)


def _first_axis(state: State) -> int | None:
    return min(state.tags, default=None)
