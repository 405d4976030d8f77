"""Sizes as products, ``12*batch*sequence``: what a padded dimension is multiplied with in an axis."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable

from graphopt.ir import SymbolicDim

_OUTSIDE = re.compile(r"[+\-/%,]")
_CLIPPED = re.compile(r"[Mm]in\((\d+), (\w+)\)\Z|[Mm]in\((\w+), (\d+)\)\Z")


@dataclasses.dataclass(frozen=True)
class Size:
    """A number times symbols.

    Attributes:
        factor: the number.
        names: the symbols, sorted, as often as they are multiplied. One may be an expression of its own
            (``floor(h/2)``).
    """

    factor: int = 1
    names: tuple[str, ...] = ()

    def __mul__(self, other: Size) -> Size:
        return Size(self.factor * other.factor, tuple(sorted((*self.names, *other.names))))

    def __str__(self) -> str:
        parts = [*([str(self.factor)] if self.factor != 1 or not self.names else []), *self.names]
        return "*".join(parts)

    def divided(self, by: Size) -> Size | None:
        """The exact quotient; None if there is none for all values of the symbols."""
        left = Counter(self.names)
        left.subtract(by.names)
        if by.factor == 0 or self.factor % by.factor or any(count < 0 for count in left.values()):
            return None
        return Size(self.factor // by.factor, tuple(sorted(left.elements())))


ONE = Size()


def product(sizes: Iterable[Size]) -> Size:
    """The product of `sizes`."""
    total = ONE
    for size in sizes:
        total = total * size
    return total


def size_of(dim: int | SymbolicDim, padded: str, largest: int) -> Size | None:
    """`dim` as a product; None if it depends on the dimension `padded` in another way.

    Args:
        largest: the most that `padded` is: ``min(padded, 128)`` is `padded` itself up to 128.
    """
    if isinstance(dim, int):
        return Size(dim)
    factor, names = 1, []
    for part in _factors(str(dim.value)):
        clipped = _CLIPPED.match(part)
        if clipped:
            limit, name = int(clipped[1] or clipped[4]), clipped[2] or clipped[3]
            if name == padded and (largest <= limit or limit == 1):
                part = "1" if limit == 1 else name
        if part.isdecimal():
            factor *= int(part)
        elif part != padded and mentions(part, padded):
            return None
        else:
            names.append(part)
    return Size(factor, tuple(sorted(names)))


def mentions(text: str, name: str) -> bool:
    """Whether the expression `text` depends on the symbol `name`."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def _factors(text: str) -> list[str]:
    """The factors of an expression that is a product; otherwise the whole as one."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and character == "*":
            parts.append(text[start:at].strip())
            start = at + 1
        elif depth == 0 and _OUTSIDE.match(character):
            return [text]
    parts.append(text[start:].strip())
    return parts if all(parts) else [text]  # an empty factor: a power, written with two stars
