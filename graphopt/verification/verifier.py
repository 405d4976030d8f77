"""Verify: run a compiled model and the model it was made from on the same inputs, and compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import AccuracyError
from graphopt.ir import Model
from graphopt.ir.io import load
from graphopt.transform import Exactness
from graphopt.verification.comparison import Comparison, Tolerance, compare
from graphopt.verification.conditioning import rounding_noise
from graphopt.verification.feeds import generate_feeds
from graphopt.verification.reference import TIMEOUT_S, Source, run_reference_on_all


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """What verification found.

    Attributes:
        runs: one comparison for each set of inputs.
        inputs: where the inputs are from (``given``, or ``generated with seed 0`` …).
        engine: what computed the reference.
        note: why that was not ONNX Runtime, else None.
        exactness: what the results were held to.
    """

    runs: list[Comparison]
    inputs: list[str]
    engine: str
    note: str | None
    exactness: str

    @property
    def ok(self) -> bool:
        """Whether all outputs of all runs agree."""
        return all(run.ok for run in self.runs)

    @property
    def max_abs_error(self) -> float:
        """The largest absolute error of any output in any run."""
        return max((o.max_abs_error for run in self.runs for o in run.outputs), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON-ready dict (schema ``graphopt.verify/1``)."""
        return {
            "schema": "graphopt.verify/1",
            "ok": self.ok,
            "engine": self.engine,
            "note": self.note,
            "exactness": self.exactness,
            "runs": [
                {"inputs": source, **run.to_json()}
                for source, run in zip(self.inputs, self.runs, strict=True)
            ],
        }

    def table(self) -> list[tuple[str, ...]]:
        """Rows for display, the first one the header; outputs of all runs below each other."""
        rows: list[tuple[str, ...]] = []
        for source, run in zip(self.inputs, self.runs, strict=True):
            header, *body = run.table()
            rows += [] if rows else [("inputs", *header)]
            rows += [(source, *row) for row in body]
        return rows

    def raise_if_different(self) -> None:
        """Raise AccuracyError (GO401) that names the worst output, unless all is well."""
        for source, run in zip(self.inputs, self.runs, strict=True):
            worst = run.worst
            if run.ok or worst is None:
                continue
            raise AccuracyError(
                "GO401",
                f"{worst.problem} (inputs {source})",
                where=f"output {worst.name!r}",
                found=f"{worst.worst_actual} at {list(worst.worst_index)}" if worst.worst_index else None,
                expected=worst.worst_expected,
                details=self.to_json(),
            )


def verify(
    run: Callable[[dict[str, np.ndarray]], Mapping[str, Any]],
    reference_model: Source,
    *,
    feeds_list: Sequence[Mapping[str, np.ndarray]] | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    runs: int = 1,
    exactness: Exactness | Tolerance = Exactness.REASSOCIATES,
    precision: str | None = None,
    isolate: bool = True,
    timeout_s: float = TIMEOUT_S,
) -> VerifyReport:
    """Compare `run` with the reference on the same inputs.

    Args:
        run: feeds by name → outputs by name.
        reference_model: the model as the user gave it.
        feeds_list: inputs; None: `runs` sets are generated from `dims`, `seed`, `seed` + 1, …
        exactness: what the passes promise; it decides the tolerance.
        precision: for lossy passes, the narrowest type.
        isolate: run the reference in a child process.

    Raises:
        ModelError: GO604, the reference cannot be run.
    """
    if feeds_list is None:
        model = reference_model if isinstance(reference_model, Model) else load(reference_model)
        fed = [generate_feeds(model, dims=dims, seed=seed + i) for i in range(runs)]
        sources = [f"generated with seed {seed + i}" for i in range(runs)]
    else:
        fed, sources = [dict(feeds) for feeds in feeds_list], None
    answers = Answers(reference_model, fed, sources, isolate=isolate, timeout_s=timeout_s)
    return answers.check(run, exactness, precision)


class Answers:
    """What a model answers on some feeds, to hold several others against.

    Args:
        model: the model as the user gave it; it is run once, here.
        feeds_list: inputs.
        sources: where each of them is from, for people; None: they were given.
        isolate, timeout_s: as in :func:`verify`.

    Raises:
        ModelError: GO604, the model cannot be run.
    """

    def __init__(
        self,
        model: Source,
        feeds_list: Sequence[dict[str, np.ndarray]],
        sources: list[str] | None = None,
        *,
        isolate: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.feeds_list = list(feeds_list)
        given = (
            ["given"] if len(self.feeds_list) == 1 else [f"given, set {i}" for i in range(len(feeds_list))]
        )
        self._sources = sources or given
        self._model = model
        self._how: dict[str, Any] = {"isolate": isolate, "timeout_s": timeout_s}
        self._references = run_reference_on_all(model, self.feeds_list, **self._how)
        self._noise: dict[int, Any] = {}

    def check(
        self,
        run: Callable[[dict[str, np.ndarray]], Mapping[str, Any]],
        exactness: Exactness | Tolerance = Exactness.REASSOCIATES,
        precision: str | None = None,
    ) -> VerifyReport:
        """Compare what `run` gives with the answers; the arguments are those of :func:`verify`."""
        return VerifyReport(
            runs=[self._compare(i, run, exactness, precision) for i in range(len(self.feeds_list))],
            inputs=self._sources,
            engine=self._references[0].engine if self._references else "",
            note=self._references[0].note if self._references else None,
            exactness=exactness.value if isinstance(exactness, Exactness) else "tolerance",
        )

    def _compare(
        self,
        index: int,
        run: Callable[[dict[str, np.ndarray]], Mapping[str, Any]],
        exactness: Exactness | Tolerance,
        precision: str | None,
    ) -> Comparison:
        reference, feeds = self._references[index], self.feeds_list[index]
        found = run(dict(feeds))
        comparison = compare(reference, found, exactness, precision=precision)
        if comparison.ok or not isinstance(exactness, Exactness) or exactness is Exactness.BIT_EXACT:
            return comparison
        # Before it is called wrong: how much of that does rounding alone explain?
        if index not in self._noise:
            self._noise[index] = rounding_noise(self._model, feeds, reference, **self._how)
        return compare(reference, found, exactness, precision=precision, noise=self._noise[index])
