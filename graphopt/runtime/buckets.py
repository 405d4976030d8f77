"""Run a model that was compiled for a few sizes at any size up to the largest: pad, run, cut.

What is fed for the missing rows is a copy of the last real one: it is valid wherever that one is (an index
stays in its table, a divisor is not zero), so rows that are thrown away raise nothing. That they change
nothing in the others is proven at compile time (:mod:`graphopt.analysis.padding`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.analysis.padding.result import PaddedAxis, Padding
from graphopt.errors import ArtifactError, FeedError, InvariantError
from graphopt.runtime.feeds import FeedSpec, check_feeds

Run = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The sizes that a model was compiled for.

    Attributes:
        sizes: by symbol of the dimension, in ascending order. A program exists for every combination.
        padding: by symbol where padding goes and what is cut from the results; None: feeds must have
            exactly the sizes of a program.
    """

    sizes: Mapping[str, tuple[int, ...]]
    padding: Mapping[str, Padding] | None

    def combinations(self) -> Iterator[dict[str, int]]:
        """Every combination of sizes, the last dimension's varying fastest."""
        for chosen in itertools.product(*self.sizes.values()):
            yield dict(zip(self.sizes, chosen, strict=True))

    @property
    def largest(self) -> dict[str, int]:
        """The largest combination."""
        return {name: sizes[-1] for name, sizes in self.sizes.items()}

    def example(self) -> dict[str, int]:
        """Sizes for generated feeds: small, and between the buckets where these may be padded."""
        if self.padding is None:
            return {name: sizes[0] for name, sizes in self.sizes.items()}
        return {
            name: next((n for n in range(1, sizes[-1]) if n not in sizes), sizes[0])
            for name, sizes in self.sizes.items()
        }

    def pick(self, found: Mapping[str, int]) -> dict[str, int]:
        """The smallest combination that holds feeds of the sizes `found`.

        Raises:
            FeedError: GO603, none does.
        """
        chosen = {}
        for name, sizes in self.sizes.items():
            if name not in found:
                continue
            size = found[name]
            if self.padding is None and size not in sizes:
                raise FeedError(
                    "GO603",
                    f"the model was compiled for feeds of exactly these sizes of {name!r}",
                    found=size,
                    expected=_listed(sizes),
                )
            fitting = [n for n in sizes if n >= size]
            if size < 1 or not fitting:
                raise FeedError(
                    "GO603",
                    f"the feeds are larger than every bucket of {name!r}" if size else "the feeds are empty",
                    found=f"{name}={size}",
                    expected=f"1 to {sizes[-1]} (the buckets are {_listed(sizes)})",
                    next_step=f"Feed parts of at most {sizes[-1]}, or compile with a larger --dim {name}=….",
                )
            chosen[name] = fitting[0]
        return chosen

    def to_json(self) -> dict[str, Any]:
        """The sizes and the padding, JSON-ready."""
        padding = self.padding
        return {
            "sizes": [{"dim": name, "sizes": list(sizes)} for name, sizes in self.sizes.items()],
            "mode": "exact" if padding is None else "pad",
            "padding": None if padding is None else [p.to_json() for p in padding.values()],
        }

    @classmethod
    def from_json(cls, data: Any) -> Buckets:
        """What :meth:`to_json` wrote. Raises ArtifactError (GO602) for anything else."""
        try:
            sizes = {str(row["dim"]): tuple(int(n) for n in row["sizes"]) for row in data["sizes"]}
            rows = data["padding"]
            padding = None if rows is None else {p.dim: p for p in map(Padding.from_json, rows)}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError("GO602", "the manifest's buckets cannot be read", found=error) from error
        if not all(sizes.values()) or (padding is not None and padding.keys() != sizes.keys()):
            raise ArtifactError("GO602", "the manifest's buckets cannot be read")
        return cls(sizes, padding)


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))


class BucketSession:
    """A session that pads its feeds to the smallest bucket that holds them, and cuts the results.

    Args:
        run: runs the model at a bucket's sizes.
        inputs: what may be fed.
        defaults: what inputs are when they are not fed.
    """

    def __init__(
        self, run: Run, inputs: Sequence[FeedSpec], buckets: Buckets, defaults: Mapping[str, np.ndarray]
    ) -> None:
        self._run = run
        self.inputs = list(inputs)
        self.buckets = buckets
        self._defaults = dict(defaults)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name, of the feeds' own sizes. Raises FeedError when no bucket fits."""
        arrays = {**self._defaults, **check_feeds(self.inputs, feeds)}
        sizes = self._sizes(arrays)
        chosen = self.buckets.pick(sizes)
        padded = [
            p for name, p in (self.buckets.padding or {}).items() if chosen.get(name) != sizes.get(name)
        ]
        for padding in padded:
            for name in padding.inputs.keys() & arrays.keys():
                arrays[name] = filled(arrays[name], padding.inputs[name], chosen[padding.dim])
        results = self._run(arrays)
        now = {**sizes, **chosen}
        for padding in padded:
            for name, cuts in padding.outputs.items():
                for each in cuts:
                    results[name] = cut(results[name], each, now, padding.dim, sizes[padding.dim])
            now[padding.dim] = sizes[padding.dim]
        return results

    def _sizes(self, arrays: Mapping[str, Any]) -> dict[str, int]:
        """The sizes of the symbolic dimensions in the feeds."""
        return {
            dim: size
            for spec in self.inputs
            if spec.shape is not None and isinstance(arrays.get(spec.name), np.ndarray)
            for dim, size in zip(spec.shape, arrays[spec.name].shape, strict=True)
            if isinstance(dim, str)
        }


def filled(array: np.ndarray, axes: Sequence[int], size: int) -> np.ndarray:
    """`array` with its last element along each of `axes` repeated up to `size`."""
    for axis in axes:
        missing = size - array.shape[axis]
        last = np.take(array, [-1], axis=axis)
        array = np.concatenate([array, np.repeat(last, missing, axis=axis)], axis=axis)
    return array


def cut(array: np.ndarray, padded: PaddedAxis, sizes: Mapping[str, int], dim: str, real: int) -> np.ndarray:
    """The real part of a result along one axis.

    Args:
        sizes: of all dimensions, as they are in `array`; of `dim` the padded size.
        real: the size of `dim` that was fed.
    """
    outer = padded.factor * math.prod(sizes[name] for name in padded.names)
    length, full = array.shape[padded.axis], outer * sizes[dim]
    if full == 0 or length % full:
        raise InvariantError(
            "GO901",
            "a padded result has an unexpected shape",
            found=array.shape,
            expected=f"{dim}={sizes[dim]}",
        )
    before, after = array.shape[: padded.axis], array.shape[padded.axis + 1 :]
    parts = array.reshape(*before, outer, sizes[dim], length // full, *after)
    kept = np.take(parts, range(real), axis=padded.axis + 1)
    return kept.reshape(*before, outer * real * (length // full), *after)
