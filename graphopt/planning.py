"""What a model would cost on several chips and at several sizes: the what-if table behind a purchase.

Each size is optimised and traced once; its program goes to one child process for each target, some at
once. What fails for one target or size is told in its row and does not hide the others.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphopt import driver
from graphopt.build_xla import describe_compile, trace_programs
from graphopt.dimensions import require_static
from graphopt.errors import GraphoptError, UsageError
from graphopt.ir import Model
from graphopt.parallel import Tick, run_all
from graphopt.target import Target, device_of, devices

MOST_ROWS = 64
Say = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Row:
    """One size on one target.

    Attributes:
        dims: the sizes of the row.
        cost, memory: as an :class:`~graphopt.executable.Executable` has them; None where it failed.
        error: the error as JSON; None where it compiled.
        batch: items that one run takes: the first input's first dimension.
        placement: the nodes that run on the host, and why; `cost` and `memory` are of the rest.
        transfers: segments, and what moves between them in each run; None where all is on the TPU.
        notes: what else is to be known of the figures.
    """

    target: Target
    dims: dict[str, int]
    cost: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    batch: int | None = None
    placement: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    transfers: dict[str, Any] | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    cached: bool = False
    seconds: float = 0.0

    @property
    def fits(self) -> bool | None:
        """Whether its peak is within the memory that a program has; None where nobody knows."""
        device = device_of(self.target)
        if self.memory is None or device is None:
            return None
        return bool(self.memory["peak"] <= device.per_program().hbm_bytes)

    @property
    def items_per_second(self) -> float | None:
        """Items that one chip takes in a second, by the estimate, with a program on each of its cores."""
        device = device_of(self.target)
        seconds = (self.cost or {}).get("seconds")
        if not seconds or device is None or self.batch is None:
            return None
        return self.batch * device.devices_per_chip / float(seconds)

    def to_json(self) -> dict[str, Any]:
        """The row, JSON-ready, without the nodes."""
        cost, memory = self.cost or {}, self.memory or {}
        device = device_of(self.target)
        return {
            "target": str(self.target),
            "dims": self.dims,
            "cycles": cost.get("total_cycles"),
            "seconds": cost.get("seconds"),
            "bound": cost.get("bound"),
            "mfu": cost.get("mfu"),
            "least_seconds": cost.get("least_seconds"),
            "hbm_peak_bytes": memory.get("peak"),
            "hbm_device_bytes": None if device is None else device.per_program().hbm_bytes,
            "fits": self.fits,
            "batch": self.batch,
            "devices_per_chip": None if device is None else device.devices_per_chip,
            "items_per_second_per_chip": self.items_per_second,
            "advice": cost.get("advice", []),
            "placement": self.placement,
            "transfers": self.transfers,
            "notes": self.notes,
            "error": self.error,
            "cached": self.cached,
            "compiler_seconds": round(self.seconds, 3),
        }


@dataclasses.dataclass(frozen=True)
class _Traced:
    """The programs for one size, one for each segment on the TPU, or why there are none."""

    dims: dict[str, int]
    model: Model | None = None
    programs: dict[str, bytes] = dataclasses.field(default_factory=dict)
    about: dict[str, str] = dataclasses.field(default_factory=dict)
    placement: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    transfers: dict[str, Any] | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    error: GraphoptError | None = None


def plan(
    source: Any,
    targets: Sequence[str | Target] = ("tpu:v5e", "tpu:v5p", "tpu:v6e", "tpu:v7x"),
    dims: Mapping[str, int | Sequence[int]] | None = None,
    *,
    level: int = 2,
    precision: str | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    constants: Mapping[str, Any] | None = None,
    keep_fp32: str | None = None,
    pipeline: str | None = None,
    jobs: int | None = None,
    timeout: float | None = None,
    cache: bool = True,
    say: Say | None = None,
) -> list[Row]:
    """Compile `source` for each of `targets` at each size and say what it would cost there.

    Args:
        targets: ``tpu:v5e`` or just ``v5e``.
        dims: sizes by dimension; several sizes of one make rows for each.
        jobs: compilers that run at once; as many as there are processors if not given.
        timeout: seconds after which one compile is stopped.

    Returns:
        A row for each size and target, in the order given.

    Raises:
        UsageError: GO701 or GO702, a target is no TPU, or there are too many rows. What goes wrong for one
            row only is in that row.
    """
    chosen = [_tpu(target) for target in targets]
    sizes = _combinations(dims or {})
    if not chosen or len(chosen) * len(sizes) > MOST_ROWS:
        raise UsageError(
            "GO701",
            "too many rows" if chosen else "no target",
            where="plan",
            found=len(chosen) * len(sizes),
            expected=f"1 to {MOST_ROWS}",
        )
    options = {
        "level": level,
        "precision": precision,
        "shapes": shapes,
        "constants": constants,
        "keep_fp32": keep_fp32,
        "pipeline": pipeline,
    }
    traced = []
    for index, size in enumerate(sizes):
        if say is not None:
            say("optimise and trace", index, len(sizes))
        traced.append(_trace(source, chosen[0], size, options))
    return _compile_all(traced, chosen, precision, jobs, {"timeout_s": timeout, "cache": cache}, say)


def _tpu(target: str | Target) -> Target:
    if isinstance(target, str) and target.partition(":")[0] in devices("tpu"):
        target = f"tpu:{target}"
    parsed = Target.parse(target)
    if parsed.kind != "tpu":
        raise UsageError("GO702", "a plan is for TPUs", found=str(parsed), expected=", ".join(devices("tpu")))
    return parsed


def _combinations(dims: Mapping[str, int | Sequence[int]]) -> list[dict[str, int]]:
    """Every combination of the sizes, the last name's varying fastest."""
    names = list(dims)
    lists = [[size] if isinstance(size, int) else list(dict.fromkeys(size)) for size in dims.values()]
    return [dict(zip(names, sizes, strict=True)) for sizes in itertools.product(*lists)]


def _trace(source: Any, target: Target, dims: dict[str, int], options: Mapping[str, Any]) -> _Traced:
    """The portable programs for one size: the same for every TPU, since the passes are."""
    try:
        result = driver.optimize(source, target, dims=dims, **options)
        require_static(result.model)
        programs, traced = trace_programs(result.model, target, options["precision"])
    except GraphoptError as error:
        return _Traced(dims, error=error)
    asked = {"dims": dims, "precision": options["precision"] or "fp32", "level": options["level"]}
    about = describe_compile(result.model, result.pipeline, asked)
    return _Traced(
        dims,
        result.model,
        {name: exported.data for name, exported in programs.items()},
        about,
        traced.placement,
        traced.manifest.get("transfers"),
        traced.notes,
    )


def _compile_all(
    traced: Sequence[_Traced],
    targets: Sequence[Target],
    precision: str | None,
    jobs: int | None,
    settings: Mapping[str, Any],
    say: Say | None,
) -> list[Row]:
    def piece(one: _Traced, target: Target) -> Callable[[Tick], Row]:
        return lambda tick: _row(one, target, precision, {**settings, "tick": tick})

    def finished(done: int, total: int) -> None:
        if say is not None:
            say("compile with the TPU compiler", min(done, total - 1), total)

    work = [piece(one, target) for one in traced for target in targets]
    if say is not None:
        say("compile with the TPU compiler", 0, len(work))
    return run_all(work, jobs=jobs, finished=finished)


def _row(one: _Traced, target: Target, precision: str | None, settings: Mapping[str, Any]) -> Row:
    if one.model is None or one.error is not None:
        return Row(target, one.dims, error=None if one.error is None else one.error.to_json())
    aot = importlib.import_module("graphopt.lowering.xla.aot")
    report = importlib.import_module("graphopt.lowering.xla.report")
    try:
        parts = {
            name: aot.compile_for_tpu(program, target, about=one.about, **settings)
            for name, program in one.programs.items()
        }
    except GraphoptError as error:
        return Row(target, one.dims, error=error.to_json())
    options = {"dims": one.dims, "precision": precision}
    reports = {name: report.compiled_report(part, one.model, target, options) for name, part in parts.items()}
    cost, memory = report.combined(reports, target)
    return Row(
        target,
        one.dims,
        cost,
        memory,
        batch=_batch(one.model),
        placement=one.placement,
        transfers=one.transfers,
        notes=one.notes,
        cached=all(part.cached for part in parts.values()),
        seconds=sum(part.seconds for part in parts.values()),
    )


def _batch(model: Model) -> int | None:
    """The first dimension of the first input that has one."""
    for value in model.graph.inputs:
        if value.shape is not None and len(value.shape) and not value.is_initializer():
            first = value.shape.dims[0]
            return first if isinstance(first, int) else None
    return None
