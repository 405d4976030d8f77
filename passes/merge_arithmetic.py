"""merge-arithmetic: chains of additions and multiplications by constants become one of each."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from graphopt.ir import Model, Node, Value
from graphopt.ir.edit import remove_unused_initializers
from graphopt.ir.query import constant, constant_tensor, is_op, only_use
from graphopt.passes._matching import is_float, limits, made_for, produced_by
from graphopt.transform import Changes, Exactness, NoMatch, Rewriter, RulePass, rule
from graphopt.transform.rule import Replacement, Rule

AFFINE = ("Add", "Sub", "Mul", "Div", "Neg")
MAX_STEPS = 8
CANCELLATION = 4.0
"""How much larger than the sum of all shifts one of them may be: ``(x + 2**23) - 2**23`` rounds x."""


@dataclasses.dataclass(frozen=True)
class _Step:
    """One node of a chain: ``y = scale * x`` or ``y = sign * x + shift``."""

    x: Value
    op_type: str
    by: np.ndarray | None
    reverse: bool


def _step(node: Node) -> _Step | None:
    """What `node` does to its only operand that is no constant; None if it is not affine."""
    if is_op(node, "Neg") and node.inputs[0] is not None:
        return _Step(node.inputs[0], "Neg", None, False)
    if not is_op(node, *AFFINE) or len(node.inputs) != 2:
        return None
    a, b = node.inputs
    if a is None or b is None or (constant_tensor(a) is None) == (constant_tensor(b) is None):
        return None
    x, c, reverse = (a, b, False) if constant_tensor(b) is not None else (b, a, True)
    by = constant(c)
    if by is None or by.size == 0 or (reverse and node.op_type == "Div"):
        return None
    return _Step(x, node.op_type, by, reverse)


def _chain(root: Node) -> tuple[Value, list[_Step]]:
    """(x, the steps from x to the result of `root`); inner nodes serve this chain alone."""
    steps: list[_Step] = []
    node: Node | None = root
    value = root.outputs[0]
    while node is not None and len(steps) < MAX_STEPS:
        step = _step(node)
        if step is None or step.x.dtype != root.outputs[0].dtype:
            break
        steps.append(step)
        value = step.x
        producer = value.producer()
        inside = producer is not None and producer.graph is root.graph and only_use(value) is node
        node = producer if inside else None
    return value, steps[::-1]


class _Composition:
    """``factor * x + shift``, step by step."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.exact = dtype.kind in "iu"
        self.factor = np.ones((), dtype if self.exact else np.float64)
        self.partial: list[np.ndarray] = []
        self.terms: list[np.ndarray] = []
        self.scales = False

    def apply(self, step: _Step) -> str | None:
        """Compose one step behind those before; or say why that is not done."""
        by = None if step.by is None else step.by.astype(self.factor.dtype)
        if by is not None and not self.exact and not np.all(np.isfinite(by)):
            return "a constant is not finite"
        if step.op_type in ("Neg", "Sub") and (by is None or step.reverse):
            self._multiply(np.array(-1).astype(self.factor.dtype))  # wraps round in an unsigned type
            if by is not None:
                self.terms.append(by)
        elif step.op_type in ("Add", "Sub") and by is not None:
            self.terms.append(by if step.op_type == "Add" else -by)
        elif by is not None:
            if step.op_type == "Div" and self.exact:
                return "a quotient of integers is truncated"
            if not self.exact and not np.all(by):
                return "a factor is zero"
            self._multiply(1.0 / by if step.op_type == "Div" else by)
            self.scales = True
        return None

    def _multiply(self, by: np.ndarray) -> None:
        self.factor = np.asarray(self.factor * by)
        self.terms = [np.asarray(term * by) for term in self.terms]
        self.partial.append(self.factor)

    @property
    def shift(self) -> np.ndarray | None:
        """The sum of what was added, or None if nothing was."""
        if not self.terms:
            return None
        total = self.terms[0]
        for term in self.terms[1:]:
            total = np.asarray(total + term)
        return total

    def refusal(self) -> str | None:
        """Why the composition would differ by more than rounding, or None."""
        if self.exact:
            return None
        reach = 2.0**6 if float(limits(self.dtype).max) < 1e6 else 2.0**40
        size = np.abs(self.factor)
        for partial in self.partial:
            if np.any(np.abs(partial) > reach * np.maximum(1, size)) or np.any(
                np.abs(partial) * reach < np.minimum(1, size)
            ):
                return "what overflows or vanishes on the way would not"
        shift = self.shift
        if shift is not None and any(np.any(np.abs(t) > CANCELLATION * np.abs(shift)) for t in self.terms):
            return "the shifts cancel: they may be there to round"
        if shift is not None and len(self.terms) > 1 and not np.all(shift):
            return "the shifts cancel: they may be there to round"
        return None


@rule(*AFFINE)
def chain_of_constants(node: Node, rewriter: Rewriter) -> Replacement:
    """((x + a) * b + c) / d = x * (b / d) + (a * b + c) / d."""
    x, steps = _chain(node)
    dtype = None if x.dtype is None else x.dtype
    if len(steps) < 2 or dtype is None:
        return NoMatch("no chain of arithmetic with constants")
    composed = _Composition(dtype.numpy())
    if not composed.exact and not is_float(x):
        return NoMatch("not of a numeric type", x.name)
    with np.errstate(all="ignore"):
        for step in steps:
            if (reason := composed.apply(step)) is not None:
                return NoMatch(reason, x.name)
        if (reason := composed.refusal()) is not None:
            return NoMatch(reason, x.name)
        factor, shift = composed.factor, composed.shift
        largest = max(step.by.size if step.by is not None else 1 for step in steps)
        narrow = [None if a is None else np.asarray(a).astype(composed.dtype) for a in (factor, shift)]
    if any(a is not None and a.size > largest for a in narrow):
        return NoMatch("the combined constant is larger than each", x.name)
    if not composed.exact and any(a is not None and not np.all(np.isfinite(a)) for a in narrow):
        return NoMatch("the combined constant overflows its type", x.name)
    return _emit(node, x, composed.scales, narrow[0], narrow[1], len(steps), rewriter)


def _emit(
    node: Node,
    x: Value,
    scales: bool,
    factor: np.ndarray | None,
    shift: np.ndarray | None,
    steps: int,
    rewriter: Rewriter,
) -> Replacement:
    assert factor is not None
    negative = not scales and bool(np.all(factor == np.array(-1).astype(factor.dtype)))
    if not scales and not negative:
        if shift is None:
            return NoMatch("it negates twice")
        return rewriter.op("Add", x, rewriter.const(shift, "shift"))
    if negative and shift is not None:
        return rewriter.op("Sub", rewriter.const(shift, "shift"), x)
    if shift is not None and steps < 3:
        return NoMatch("a factor and a shift are two nodes already")
    product = rewriter.op("Mul", x, rewriter.const(factor, "scale"))
    return product if shift is None else rewriter.op("Add", product, rewriter.const(shift, "shift"))


@rule("Add", "Sub")
def sum_with_negative(node: Node, rewriter: Rewriter) -> Replacement:
    """x + (-y) = x - y and x - (-y) = x + y, to the bit."""
    a, b = node.inputs
    if produced_by(b, "Neg") is not None:
        negation = made_for(b, node, "Neg")
        if isinstance(negation, NoMatch):
            return negation
        return rewriter.op("Sub" if node.op_type == "Add" else "Add", a, negation.inputs[0])
    if node.op_type == "Add" and produced_by(a, "Neg") is not None:
        negation = made_for(a, node, "Neg")
        if isinstance(negation, NoMatch):
            return negation
        return rewriter.op("Sub", b, negation.inputs[0])
    return NoMatch("no operand is negated")


@dataclasses.dataclass(frozen=True)
class MergeArithmetic(RulePass):
    """Make one multiplication and one addition of a chain of them by constants.

    given:  float[N, 2] x
    before: y = Div(Sub(Div(x, 4.0), [1.0, 2.0]), [0.5, 0.25])
    after:  y = Add(Mul(x, [0.5, 1.0]), [-2.0, -8.0])

    Constants are combined in float64 and rounded once; integers wrap as before. A chain whose shifts
    cancel (it may round on purpose), or whose factors would overflow one by one but not together,
    stays; so does one whose constants would grow.
    """

    exactness = Exactness.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (chain_of_constants, sum_with_negative)

    def run(self, model: Model) -> Changes:
        """Apply the rules and drop the constants that nothing uses now."""
        changes = super().run(model)
        if changes.modified:
            remove_unused_initializers(model.graph)
        return changes
