"""Means and variances over some axes, whichever way a graph spells them, and what is normalized by them."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.query import attribute, element_count, ints, is_op, rank, same_dim, same_shape, scalar
from graphopt.passes._matching import (
    finite_power,
    is_about,
    leaves_the_pattern,
    limits,
    numpy_dtype,
    produced_by,
    scalar_factor,
    split_constant,
)
from graphopt.passes._quotients import quotient
from graphopt.transform import NoMatch

VIEWS = ("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Expand")
HALF = Fraction(1, 2)


@dataclasses.dataclass
class Normalization:
    """``coefficient * (x - E[x]) / sqrt(Var[x] + epsilon) * product(factors)``.

    Attributes:
        axes: what the mean and the variance are taken over, sorted and not negative.
        factors: the other factors of the product.
    """

    x: Value
    axes: tuple[int, ...]
    epsilon: float
    coefficient: float
    factors: list[Value]


@dataclasses.dataclass(frozen=True)
class _Spread:
    """``coefficient / sqrt(variance + epsilon)``, which is the factor `leaf` of a quotient."""

    variance: Value
    epsilon: float
    leaf: Value
    coefficient: float


@dataclasses.dataclass
class Moments:
    """What was seen on the way: nodes of the pattern, and values that hold one number per reduced slice."""

    pattern: list[Node] = dataclasses.field(default_factory=list)
    statistics: list[Value] = dataclasses.field(default_factory=list)

    def through_views(self, value: Value | None) -> Node | None:
        """The producer of a statistic `value`, seen through reshaping, broadcasting and idle casts."""
        while value is not None:
            self.statistics.append(value)
            node = value.producer()
            if node is None:
                return None
            idle = is_op(node, "Cast") and node.inputs[0] is not None and node.inputs[0].dtype == value.dtype
            if not is_op(node, *VIEWS) and not idle:
                return node
            self.pattern.append(node)
            value = node.inputs[0]
        return None

    def mean(self, value: Value | None) -> tuple[Value, tuple[int, ...]] | NoMatch:
        """(y, axes) of ``E[y]``, as a ReduceMean or as a sum divided by the number of elements."""
        node = self.through_views(value)
        if node is None or not is_op(node, "ReduceMean", "Mul", "Div"):
            return NoMatch("no mean there", value.name if value is not None else None)
        self.pattern.append(node)
        if is_op(node, "ReduceMean"):
            return self._reduced(node)
        summed = self._divided_sum(node)
        if summed is None:
            return NoMatch("what is divided is not a sum", node.name)
        reduce, factor = summed
        found = self._reduced(reduce)
        if isinstance(found, NoMatch):
            return found
        if not counts_elements(factor, *found):
            return NoMatch("the sum is not divided by the number of its elements", node.name)
        return found

    def _divided_sum(self, node: Node) -> tuple[Node, float] | None:
        """(the ReduceSum, f) if `node` is ``f * sum``."""
        value, other = node.inputs
        number = scalar_factor(other, value)
        if is_op(node, "Mul") and number is None:
            value, number = other, scalar_factor(value, other)
        if not number or value is None:
            return None
        reduce = self.through_views(value)
        if reduce is None or not is_op(reduce, "ReduceSum"):
            return None
        self.pattern.append(reduce)
        return reduce, number if is_op(node, "Mul") else 1 / number

    def _reduced(self, reduce: Node) -> tuple[Value, tuple[int, ...]] | NoMatch:
        source = reduce.inputs[0]
        axes = reduced_axes(reduce)
        if source is None or axes is None:
            return NoMatch("the axes of the mean are not known", reduce.name)
        return source, axes

    def centred(self, value: Value | None) -> tuple[Value, tuple[int, ...]] | NoMatch:
        """(x, axes) of ``x - E[x]``."""
        node = _through_idle_casts(value, self.pattern)
        if node is None or not is_op(node, "Sub"):
            return NoMatch("no difference there", value.name if value is not None else None)
        self.pattern.append(node)
        x, mean = node.inputs
        found = self.mean(mean)
        if isinstance(found, NoMatch):
            return found
        if x is None or found[0] is not x or not aligned(mean, x, found[1]):
            return NoMatch("what is subtracted is not the mean of the same value", node.name)
        return found

    def variance(self, value: Value | None) -> tuple[Value, tuple[int, ...]] | NoMatch:
        """(x, axes) of ``E[(x - E[x])²]``, or of ``E[x²] - E[x]²``, perhaps at least 0."""
        node = self.through_views(value)
        if node is None:
            return NoMatch("no variance there", value.name if value is not None else None)
        if is_op(node, "Max", "Relu"):
            value = _at_least_zero(node)
            self.pattern.append(node)
            node = self.through_views(value)
            if value is None or node is None or not is_op(node, "Sub"):
                return NoMatch("no variance above the 0", value.name if value is not None else None)
        if is_op(node, "Sub"):
            return self._two_moments(node)
        outer = self.mean(node.outputs[0])
        if isinstance(outer, NoMatch):
            return outer
        base = self.square_base(outer[0])
        if isinstance(base, NoMatch):
            return base
        inner = self.centred(base)
        if not isinstance(inner, NoMatch) and inner[1] != outer[1]:
            return NoMatch("the means are not over the same axes", outer[0].name)
        return inner

    def _two_moments(self, node: Node) -> tuple[Value, tuple[int, ...]] | NoMatch:
        second, squared_mean = node.inputs
        self.pattern.append(node)
        if second is None or squared_mean is None or not same_shape(second.shape, squared_mean.shape):
            return NoMatch("the two moments are not of one shape", node.name)
        outer = self.mean(second)
        root = self.through_views(squared_mean)
        base = self.square_base(root.outputs[0]) if root is not None else None
        if isinstance(outer, NoMatch) or base is None or isinstance(base, NoMatch):
            return NoMatch("the difference is not of a mean and a squared mean", node.name)
        inner = self.mean(base)
        x = self.square_base(outer[0])
        if isinstance(inner, NoMatch) or isinstance(x, NoMatch) or inner != (x, outer[1]):
            return NoMatch("the two moments are not of one value over the same axes", node.name)
        return inner

    def square_base(self, value: Value) -> Value | NoMatch:
        """b of ``b²``."""
        node = produced_by(value, "Pow", "Mul")
        first, second = node.inputs if node is not None else (None, None)
        if node is None or first is None:
            return NoMatch("the variance is not the mean of a square", value.name)
        if is_op(node, "Pow") and not is_about(scalar_factor(second, first), 2.0):
            return NoMatch("the power is not 2", node.name)
        if is_op(node, "Mul") and first is not second:
            # A graph may subtract the mean twice, once for each factor of the square.
            one, other = self.centred(first), self.centred(second)
            if isinstance(one, NoMatch) or one != other:
                return NoMatch("the product is not a square", node.name)
        self.pattern.append(node)
        return first

    def out_of_place(self, x: Value, axes: tuple[int, ...]) -> Value | None:
        """A statistic that is not laid out as one number per slice of `x`, or None if all are."""
        return next((v for v in self.statistics if layout(v, x, axes) is None), None)


def match_normalization(node: Node) -> Normalization | NoMatch:
    """What `node`, the last product or quotient, normalizes. Nothing in between is used elsewhere."""
    product = quotient(node)
    if product is None:
        return NoMatch("not a product")
    seen = Moments(pattern=list(product.nodes))
    deviation = next(
        (v for v, p in product.powers.items() if p == 1 and _is_deviation(v)),
        None,
    )
    if deviation is None:
        return NoMatch("no difference among the factors")
    spread = _spread(product.powers, seen)
    if isinstance(spread, NoMatch):
        return spread
    leaf = spread.leaf
    found = seen.variance(spread.variance)
    if isinstance(found, NoMatch):
        return found
    x, axes = found
    if (numerator := seen.centred(deviation)) != found:
        reason = numerator if isinstance(numerator, NoMatch) else None
        return reason or NoMatch("what is divided is not the deviation from the same mean", deviation.name)
    if (odd := seen.out_of_place(x, axes)) is not None or not aligned(leaf, x, axes):
        return NoMatch("a mean or variance is not one number for each slice", (odd or leaf).name)
    if (outside := leaves_the_pattern(seen.pattern, node)) is not None:
        return NoMatch("an intermediate value is used elsewhere", outside.name)
    if any(inner.graph is not node.graph for inner in seen.pattern):
        return NoMatch("the pattern spans two graphs", node.name)
    rest = {v: p for v, p in product.powers.items() if v is not deviation and v is not leaf}
    if any(p != 1 for p in rest.values()):
        return NoMatch("the normalized value is divided by another", node.name)
    return Normalization(x, axes, spread.epsilon, product.coefficient * spread.coefficient, list(rest))


def _spread(powers: dict[Value, Fraction], seen: Moments) -> _Spread | NoMatch:
    """The factor of a quotient that is ``1 / sqrt(variance + epsilon)``."""
    reason = NoMatch("no reciprocal square root")
    for leaf, power in powers.items():
        below = _rooted(leaf, power, seen)
        if below is None:
            continue
        shifted, coefficient, nodes = below
        total = seen.through_views(shifted)
        operands = split_constant(total) if total is not None and is_op(total, "Add") else None
        if total is None or operands is None:
            reason = NoMatch("no epsilon is added to the variance", shifted.name)
            continue
        epsilon = scalar_factor(operands[1], operands[0])
        if epsilon is None or not 0 < epsilon < np.inf:
            reason = NoMatch("epsilon is not a positive scalar", operands[1].name)
            continue
        seen.pattern += [total, *nodes]
        return _Spread(operands[0], epsilon, leaf, coefficient)
    return reason


def _rooted(leaf: Value, power: Fraction, seen: Moments) -> tuple[Value, float, list[Node]] | None:
    """(v, c, nodes) if ``leaf ** power`` is ``c / sqrt(v)``, perhaps reshaped after the root."""
    if power == -HALF:
        return leaf, 1.0, []
    views = Moments()
    root = views.through_views(leaf) if power in (1, -1) else None
    below = quotient(root) if root is not None and views.pattern else None
    if below is None or len(below.powers) != 1:
        return None
    ((shifted, exponent),) = below.powers.items()
    scale = finite_power(below.coefficient, float(power))
    if exponent * power != -HALF or scale is None:
        return None
    seen.statistics += views.statistics
    return shifted, scale, [*views.pattern, *below.nodes]


def _is_deviation(value: Value) -> bool:
    return is_op(_through_idle_casts(value, []), "Sub")


def _through_idle_casts(value: Value | None, pattern: list[Node]) -> Node | None:
    """The producer of `value`, seen through a Cast to the type that it has already."""
    node = None if value is None else value.producer()
    while is_op(node, "Cast") and node is not None and node.inputs[0] is not None:
        if node.inputs[0].dtype is None or node.inputs[0].dtype != node.outputs[0].dtype:
            break
        pattern.append(node)
        node = node.inputs[0].producer()
    return node


def _at_least_zero(node: Node) -> Value | None:
    """v of ``max(v, 0)``."""
    if is_op(node, "Relu"):
        return node.inputs[0]
    operands = split_constant(node)
    if operands is None or scalar(operands[1]) != 0 or scalar_factor(operands[1], operands[0]) is None:
        return None
    return operands[0]


def reduced_axes(reduce: Node) -> tuple[int, ...] | None:
    """The axes that `reduce` is over, sorted and not negative, or None if they are not known."""
    count = rank(reduce.inputs[0])
    if not count:
        return None
    given = reduce.inputs[1] if len(reduce.inputs) > 1 else None
    if given is None:
        return None if attribute(reduce, "noop_with_empty_axes", 0) else tuple(range(count))
    axes = ints(given)
    if not axes or any(not -count <= a < count for a in axes):
        return None
    return tuple(sorted({a % count for a in axes}))


def counts_elements(factor: float, x: Value, axes: tuple[int, ...]) -> bool:
    """Whether `factor` is 1 / n for the known number n of elements that `x` has over `axes`.

    Within half a unit in the last place: with n - 1 in the place of n it would be another function.
    """
    dtype = numpy_dtype(x)
    dims = [x.shape.dims[a] for a in axes] if x.shape is not None else [None]
    known = [d for d in dims if isinstance(d, int)]
    if dtype is None or len(known) != len(dims):
        return False
    return abs(factor * element_count(known) - 1) <= 0.51 * float(limits(dtype).eps)


def layout(value: Value, x: Value, axes: tuple[int, ...]) -> str | None:
    """How `value` holds one number for each slice of `x` over `axes`, or None if it does not.

    "kept" with the axes as 1, "dropped" without them, "full" repeated to the shape of `x`.
    """
    if value.shape is None or x.shape is None:
        return None
    own, dims = value.shape.dims, x.shape.dims
    if len(own) == len(dims):
        if all(d == 1 if i in axes else same_dim(d, dims[i]) for i, d in enumerate(own)):
            return "kept"
        return "full" if same_shape(value.shape, x.shape) else None
    rest = [d for i, d in enumerate(dims) if i not in axes]
    same = len(own) == len(rest) and all(same_dim(a, b) for a, b in zip(own, rest, strict=True))
    return "dropped" if same else None


def aligned(value: Value | None, x: Value, axes: tuple[int, ...]) -> bool:
    """Whether `value` meets its own slice of `x` when it is broadcast against it."""
    found = None if value is None else layout(value, x, axes)
    return found in ("kept", "full") or (found == "dropped" and axes == tuple(range(len(axes))))
