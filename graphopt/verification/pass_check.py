"""What a pipeline asks after each pass: whether the model still gives the answers that it gave before it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import onnx_ir.passes

from graphopt.errors import UsageError
from graphopt.ir import Model
from graphopt.transform import Exactness, Pass, Pipeline
from graphopt.verification.bisect import bisect_pipeline
from graphopt.verification.feeds import Feeds
from graphopt.verification.judge import Failure, Judge, crash
from graphopt.verification.reduce import reduce_failure
from graphopt.verification.reference import ReferenceRun
from graphopt.verification.reference_process import ReferenceProcess
from graphopt.verification.reproducer import write_reproducer

REDUCE_SECONDS = 30.0


class PassChecker:
    """Checks passes for :meth:`graphopt.transform.Pipeline.run`, in the order in which they run.

    Args:
        feeds_list, special: what to run on (see :class:`graphopt.verification.Judge`).
        precision: the narrowest type that lossy passes use.
        reproducers: a folder; each pass that is at fault gets a folder in it with a small model that
            shows the fault. None: nothing is written.
    """

    def __init__(
        self,
        process: ReferenceProcess,
        feeds_list: Sequence[Feeds],
        special: frozenset[int] = frozenset(),
        *,
        precision: str | None = None,
        reproducers: Path | None = None,
    ) -> None:
        self._process = process
        self._feeds_list = list(feeds_list)
        self._special = special
        self._precision = precision
        self._reproducers = reproducers
        self._expected: list[ReferenceRun] | None = None
        self._faults = 0

    def __call__(self, before: Model, after: Model | Exception, pass_: onnx_ir.passes.PassBase) -> str | None:
        """What is wrong with `after` (or that the pass raised), in words; None if all is well."""
        failure = self._failure(before, after, pass_)
        if failure is None:
            return None
        if self._reproducers is None:
            return failure.message
        self._faults += 1
        name = re.sub(r"[^\w-].*", "", str(pass_) if isinstance(pass_, Pass) else type(pass_).__name__)
        return failure.message + self._written(before, pass_, self._reproducers / f"{self._faults:02}-{name}")

    def _failure(
        self, before: Model, after: Model | Exception, pass_: onnx_ir.passes.PassBase
    ) -> Failure | None:
        if isinstance(after, Exception):
            return crash(after)
        judge = Judge(self._process, before, self._feeds_list, self._special, self._expected)
        exactness = pass_.exactness if isinstance(pass_, Pass) else Exactness.REASSOCIATES
        failure = judge.failure(after, exactness, self._precision)
        # The model that the next pass starts from: this one, or the one before if it is undone.
        self._expected = judge.found if failure is None else judge.expected
        return failure

    def _written(self, before: Model, pass_: onnx_ir.passes.PassBase, folder: Path) -> str:
        """Write the reproducer; what to tell about that."""
        pipeline = Pipeline([pass_])
        found = bisect_pipeline(
            self._process,
            before,
            pipeline,
            self._feeds_list,
            special=self._special,
            precision=self._precision,
        )
        try:
            reduction = reduce_failure(
                self._process, before, pipeline, found, precision=self._precision, seconds=REDUCE_SECONDS
            )
        except UsageError as error:
            return f" (no reproducer: {error.message})"
        write_reproducer(folder, reduction, precision=self._precision)
        return f" (reproducer: {folder})"
