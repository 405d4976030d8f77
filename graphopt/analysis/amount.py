"""Amounts that may depend on free dimensions: ``2*N*H*W + 10``, kept as sums of products."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graphopt.ir import SymbolicDim

MAX_TERMS = 12
"""Terms shown; a sum over a whole model has many."""

_PLAIN = re.compile(r"\w+\Z")


@dataclasses.dataclass(frozen=True)
class Amount:
    """A whole number, or a polynomial in the names of free dimensions.

    Attributes:
        terms: coefficient by the sorted names that it is multiplied with. A dimension that is an
            expression itself (``floor(N/2)``) counts as one name.
    """

    terms: Mapping[tuple[str, ...], int]

    @classmethod
    def of(cls, number: int) -> Amount:
        """The plain number."""
        return cls({(): number} if number else {})

    @classmethod
    def size(cls, dims: Iterable[int | str | SymbolicDim]) -> Amount:
        """The product of dimensions: the number of elements of a shape."""
        factor, names = 1, []
        for dim in dims:
            if isinstance(dim, int):
                factor *= dim
                continue
            text = str(dim.value if isinstance(dim, SymbolicDim) else dim)
            parts = text.split("*")
            if all(_PLAIN.match(part) for part in parts):  # a product, such as 6272*batch
                for part in parts:
                    if part.isdigit():
                        factor *= int(part)
                    else:
                        names.append(part)
            else:
                names.append(text)
        return cls({tuple(sorted(names)): factor} if factor else {})

    @classmethod
    def total(cls, amounts: Iterable[Amount]) -> Amount:
        """The sum; linear in the number of terms."""
        terms: dict[tuple[str, ...], int] = {}
        for amount in amounts:
            for names, factor in amount.terms.items():
                terms[names] = terms.get(names, 0) + factor
        return cls({names: factor for names, factor in terms.items() if factor})

    def __add__(self, other: Amount) -> Amount:
        return Amount.total((self, other))

    def __mul__(self, other: Amount | int) -> Amount:
        right = Amount.of(other) if isinstance(other, int) else other
        terms: dict[tuple[str, ...], int] = {}
        for a, x in self.terms.items():
            for b, y in right.terms.items():
                names = tuple(sorted((*a, *b)))
                terms[names] = terms.get(names, 0) + x * y
        return Amount(terms)

    def __floordiv__(self, divisor: int) -> Amount:
        """Divide every term, each rounded down."""
        return Amount({names: factor // divisor for names, factor in self.terms.items()})

    @property
    def number(self) -> int | None:
        """The number, where no dimension is free; else None."""
        if not self.terms:
            return 0
        return self.terms[()] if set(self.terms) == {()} else None

    @property
    def least(self) -> int:
        """The amount when every free dimension is 1: what amounts are ordered by."""
        return sum(self.terms.values())

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        ordered = sorted(self.terms.items(), key=lambda item: (-len(item[0]), item[0]))
        shown = [_term(names, factor) for names, factor in ordered[:MAX_TERMS]]
        if len(ordered) > MAX_TERMS:
            shown.append(f"{len(ordered) - MAX_TERMS} more terms")
        return " + ".join(shown)

    def to_json(self) -> Any:
        """A number, or the expression as text."""
        return self.number if self.number is not None else str(self)


def _term(names: Sequence[str], factor: int) -> str:
    factors = [name if _PLAIN.match(name) else f"({name})" for name in names]
    return "*".join([*([str(factor)] if factor != 1 or not names else []), *factors])
