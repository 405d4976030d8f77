"""Judge a changed model by the answers of the one it was made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError, ModelError
from graphopt.ir import Model
from graphopt.ir.check import check_model
from graphopt.transform import Exactness
from graphopt.verification.comparison import OutputComparison, compare
from graphopt.verification.conditioning import noise_of, nudged
from graphopt.verification.feeds import BATCH_SIZE, IMAGE_SIZE, SEQUENCE_SIZE, Feeds, generate_feeds
from graphopt.verification.reference import ReferenceRun
from graphopt.verification.reference_process import ReferenceProcess

CRASH, INVALID, REFUSED, MISMATCH = "crash", "invalid", "refused", "mismatch"
SECOND_SIZES = {BATCH_SIZE: 3, IMAGE_SIZE: 48, SEQUENCE_SIZE: 5}
"""Other sizes of free dimensions, by the size that they are given first."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """What is wrong with a changed model.

    Attributes:
        kind: ``crash`` (the pass raised), ``invalid`` (the model breaks the rules of the IR), ``refused``
            (ONNX Runtime does not load it, or fails), or ``mismatch`` (it gives other results).
        message: what is wrong, in a sentence.
        sort: what tells failures of one kind apart: an error code, or the type of an exception.
        feeds_index: the set of inputs that shows a mismatch, or on which it fails.
        output: the worst output of a mismatch.
        expected, actual: all outputs, where both models ran.
    """

    kind: str
    message: str
    sort: str = ""
    feeds_index: int = 0
    output: str | None = None
    expected: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)
    actual: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The failure as a JSON-ready dict, without arrays."""
        return {"kind": self.kind, "message": self.message, "output": self.output}


class Judge:
    """Holds the answers of one model on some feeds, and compares those of changed ones with them.

    Args:
        original: the model that is right.
        feeds_list: sets of inputs.
        expected: the outputs of the original on each of them, where they are known.
        special: the sets among them that only bit-exact passes are held to, by index: they hold NaN
            and infinities, and what becomes of those depends on the order of sums.

    Raises:
        ModelError: GO604, the original cannot be run on the feeds.
    """

    def __init__(
        self,
        process: ReferenceProcess,
        original: Model,
        feeds_list: Sequence[Feeds],
        special: frozenset[int] = frozenset(),
        expected: Sequence[ReferenceRun] | None = None,
    ) -> None:
        self._process = process
        self._original = original
        self.feeds_list = list(feeds_list)
        self.special = special
        self.expected = list(expected) if expected is not None else process.run(original, self.feeds_list)
        self.found: list[ReferenceRun] | None = None
        """The outputs of the model that was judged last, if it was run on all sets."""

    def failure(self, changed: Model, exactness: Exactness, precision: str | None = None) -> Failure | None:
        """What is wrong with `changed`, or None."""
        try:
            check_model(changed)
        except GraphoptError as error:
            return Failure(INVALID, f"the model is no longer valid: {error}", sort=error.code)
        return self.difference(changed, exactness, precision)

    def difference(
        self, changed: Model, exactness: Exactness, precision: str | None = None
    ) -> Failure | None:
        """How the answers of `changed`, which is valid, differ; None if they do not."""
        if self._process.optimized and exactness is Exactness.BIT_EXACT:
            exactness = Exactness.REASSOCIATES  # the runtime may fuse the one model and not the other
        chosen = [
            i
            for i in range(len(self.feeds_list))
            if exactness is Exactness.BIT_EXACT or i not in self.special
        ]
        self.found = None
        try:
            found = self._process.run(changed, [self.feeds_list[i] for i in chosen])
        except GraphoptError as error:
            return self._refusal(changed, chosen, error)
        self.found = found if len(chosen) == len(self.feeds_list) else None
        for index, actual in zip(chosen, found, strict=True):
            worst = self._worst(index, actual, exactness, precision)
            if worst is not None:
                return Failure(
                    MISMATCH, describe(worst), "", index, worst.name, dict(self.expected[index]), dict(actual)
                )
        return None

    def _refusal(self, changed: Model, chosen: Sequence[int], error: GraphoptError) -> Failure:
        """The failure of a model that does not run on all sets: it may run on some of them."""
        for index in chosen:
            try:
                self._process.run(changed, [self.feeds_list[index]])
            except GraphoptError as own:
                return _refused(own, index)
        return _refused(error, chosen[0])

    def _worst(
        self, index: int, actual: ReferenceRun, exactness: Exactness, precision: str | None
    ) -> OutputComparison | None:
        expected = self.expected[index]
        comparison = compare(expected, actual, exactness, precision=precision)
        if not comparison.ok and exactness is not Exactness.BIT_EXACT:
            # Before it is called wrong: how much of that does rounding alone explain?
            variants = nudged(self.feeds_list[index])
            try:
                runs = self._process.run(self._original, variants) if variants else []
            except GraphoptError:
                runs = []
            noise = noise_of(runs, expected)
            comparison = compare(expected, actual, exactness, precision=precision, noise=noise)
        return None if comparison.ok else comparison.worst


def _refused(error: GraphoptError, index: int) -> Failure:
    return Failure(REFUSED, f"the model no longer runs: {error.found or error.message}", "", index)


def describe(worst: OutputComparison) -> str:
    """A comparison that failed, in words."""
    text = f"output {worst.name!r}: {worst.problem}"
    if not worst.elements or worst.worst_index is None:
        return text
    return (
        f"{text}, max abs error {worst.max_abs_error:.3g}, max rel error {worst.max_rel_error:.3g}; "
        f"at {list(worst.worst_index)} {worst.worst_actual} instead of {worst.worst_expected}"
    )


def exact_feeds(
    process: ReferenceProcess, model: Model, *, dims: Mapping[str, int] | None = None, seed: int = 0
) -> tuple[list[Feeds], frozenset[int]]:
    """Sets of inputs that show what a pass may get wrong, and which of them are special (see Judge).

    Two sets of plausible numbers, one with other sizes of the free dimensions, and one with NaN,
    infinities and zeros of both signs in its floats. Sets that the model itself fails on are left out.

    Raises:
        GraphoptError: plausible inputs cannot be generated, or the model fails on them.
    """
    first = generate_feeds(model, dims=dims, seed=seed)
    try:
        process.run(model, [first])
    except ModelError as error:
        raise ModelError(
            error.code,
            "the model does not run on inputs that were made up for it",
            found=error.found,
            next_step="Give inputs with --data (feeds=), or sizes with --dim, if it needs certain ones.",
        ) from error
    sets = [first]
    candidates = [
        (generate_feeds(model, dims=dims, seed=seed + 1), False),
        (generate_feeds(model, dims=_second_sizes(model, dims), seed=seed + 2), False),
        (_with_special_numbers(generate_feeds(model, dims=dims, seed=seed + 3)), True),
    ]
    special = set()
    for feeds, is_special in candidates:
        try:
            process.run(model, [feeds])
        except GraphoptError:
            continue
        if is_special:
            special.add(len(sets))
        sets.append(feeds)
    return sets, frozenset(special)


def _second_sizes(model: Model, dims: Mapping[str, int] | None) -> dict[str, int]:
    """Sizes for the free dimensions that nobody fixed, other than those that they get by default."""
    sizes = dict(dims or {})
    default = generate_feeds(model, dims=dims)
    for value in model.graph.inputs:
        array = default.get(value.name or "")
        for axis, dim in enumerate(value.shape.dims if value.shape is not None else ()):
            if not isinstance(dim, int) and array is not None and str(dim.value) not in sizes:
                size = array.shape[axis]
                sizes[str(dim.value)] = SECOND_SIZES.get(size, size + 1)
    return sizes


def _with_special_numbers(feeds: Feeds) -> Feeds:
    """`feeds` with NaN, both infinities, both zeros and a large number in each float array that has room."""
    changed = {}
    for name, array in feeds.items():
        if array.dtype in (np.float32, np.float64, np.float16) and array.size >= 16:
            numbers = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 6e4], array.dtype)
            array = array.copy()
            array.reshape(-1)[:: max(array.size // len(numbers), 1)][: len(numbers)] = numbers
        changed[name] = array
    return changed


def same_sort(failure: Failure | None, wanted: Failure) -> bool:
    """Whether a model fails in the way that another one did.

    Where wrong numbers made another model stop (a shape that does not fit), wrong numbers are enough.
    """
    if failure is None:
        return False
    if wanted.kind == REFUSED and failure.kind == MISMATCH:
        return True
    return (failure.kind, failure.sort) == (wanted.kind, wanted.sort)


def crash(error: Exception) -> Failure:
    """The failure of a pass that raised `error`."""
    cause = error.__cause__ or error
    told = error if isinstance(error, GraphoptError) else f"{type(error).__name__}: {error}"
    if isinstance(error, GraphoptError) and error.code == "GO302":
        return Failure(INVALID, str(error), sort=error.code)
    sort = cause.code if isinstance(cause, GraphoptError) else type(cause).__name__
    return Failure(CRASH, f"the pass raised {told}", sort=sort)
