"""Tune: the fastest way to run a model on the device that is here, found by measuring, checked by results.

A candidate is a pipeline, a precision and choices about ONNX Runtime's session. Each is compared with the
original model before its latency counts for anything. Candidates take turns with the best so far; in the
end the winner and the starting point are measured against each other anew, because the best of many
measurements is partly luck.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt import driver
from graphopt.bench import Axis, Found, Journal, Point, Series, Trial, interleave, ratio, search
from graphopt.build_onnxruntime import with_session_choices
from graphopt.errors import AccuracyError, GraphoptError, PolicyError, UsageError
from graphopt.executable import Executable, versions
from graphopt.ir import Model
from graphopt.ir.bind import bind_constants
from graphopt.ir.io import load
from graphopt.target import Target
from graphopt.transform import Exactness, Pass, Pipeline

if TYPE_CHECKING:
    import numpy as np

KINDS = ("cpu", "cuda", "tensorrt")
GENERATED_RUNS = 2
LEAST_ROUNDS = 7
MOST_ROUNDS = 2000
EARLY_QUANTILE = 3.29
"""Of the normal distribution, for the interval of 99.9 % that ends a measurement before its time."""
MOST_CONFIRMED = 3
"""How many of the best points are measured anew: the last, and those before it where it was luck."""
SLOW_S = 0.1
"""From this latency on, what the candidate before left behind no longer counts."""
FINAL_SHARE = 0.15
"""The part of the time that is kept for the last comparison."""
CANDIDATE_SHARE = 1 / 24
"""The part of the time that one candidate is measured for, at most."""

SWITCHES: dict[str, tuple[str, ...]] = {
    "attention": ("raise-attention", "raise-causal-masks", "select-attention"),
    "packed-attention": ("select-attention",),
    "normalizations": ("raise-layer-normalization", "raise-rms-normalization", "select-skip-normalization"),
    "rotary": ("raise-rotary-embedding",),
    "gelu": ("raise-gelu", "select-activations"),
    "fused-activations": ("select-fused-conv",),
    "fused-products": ("select-fused-matmul",),
    "layout": ("push-transposes", "cancel-transposes", "absorb-transposes"),
    "residual-sums": ("select-residual-sum",),
    "global-pools": ("select-global-pools",),
    "batch-normalization": ("select-batch-normalization",),
    "split": ("raise-split",),
}
"""What may be left out of a pipeline: by name, the passes that go. Only what changes the model is tried."""

Say = Callable[[str, int, int], None]
Clock = Callable[[], float]


@dataclasses.dataclass
class Tuned:
    """What a search found.

    Attributes:
        executable: the winner; its manifest has the table under ``tuning``.
        trials: everything that was tried.
        choices: where the winner differs from the starting point.
        speedup, interval: of the winner against the starting point, measured anew; 1 if nothing was faster.
        complete: whether all was tried, or the time was up.
        resumed: how many trials were known from the state file.
    """

    executable: Executable
    trials: list[Trial]
    axes: list[Axis]
    choices: Point
    speedup: float
    interval: tuple[float, float]
    complete: bool
    resumed: int

    def to_json(self) -> dict[str, Any]:
        """The table, JSON-ready (schema ``graphopt.tune/1``)."""
        return {
            "schema": "graphopt.tune/1",
            "target": str(self.executable.target),
            **self.executable.manifest["tuning"],
            "complete": self.complete,
            "resumed": self.resumed,
            "artifact": None if self.executable.folder is None else str(self.executable.folder),
        }


def tune(
    source: Any,
    target: str | Target = "cpu",
    *,
    budget_s: float = 60.0,
    data: driver.Data | None = None,
    seed: int = 0,
    precisions: Sequence[str] = ("fp32",),
    level: int = 2,
    state: str | os.PathLike[str] | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    constants: Mapping[str, Any] | None = None,
    keep_fp32: str | None = None,
    say: Say | None = None,
    clock: Clock = time.perf_counter,
) -> Tuned:
    """Find the fastest verified way to run a model on the device that is here.

    Args:
        source: what :func:`graphopt.load` takes.
        target: ``cpu``, ``cuda`` or ``tensorrt``; its device must be here.
        budget_s: seconds for the search. What is under way is finished, and the starting point is always
            compiled, checked and measured.
        data: feeds to check and to measure on (the first set); else they are generated from `seed`.
        seed: of generated feeds, of the order of candidates and of turns.
        precisions: those that may be chosen; the first is where the search starts.
        level: where the search starts.
        state: a file that holds what was measured: a search that was cut off goes on from it.
        clock: seconds since some time.

    Raises:
        AccuracyError: GO401, no candidate gives the results of the original.
        PolicyError: GO501, the target's device is not here.
        UsageError: GO701, an argument is wrong, or `state` is of another search.
    """
    chosen = Target.parse(target)
    _check(chosen, precisions, budget_s)
    model = load(source)
    feeds = _feeds(model, data, shapes, dims, constants, seed)
    settings = {"shapes": shapes, "dims": dims, "constants": constants, "keep_fp32": keep_fp32, "data": data}
    bench = _Bench(model, chosen, feeds, settings, constants or {}, seed, budget_s, say, clock)
    axes = bench.axes(level, precisions)
    key = _key(model, chosen, feeds, {**settings, "data": None}, axes, seed)
    journal = Journal(None if state is None else Path(state), key)
    found = search(axes, journal, bench.attempt, seed)
    if found.best is None or found.base is None:
        raise _none_passed(journal.trials)
    return _finish(bench, axes, journal, found, seed)


def _finish(bench: _Bench, axes: list[Axis], journal: Journal, found: Found, seed: int) -> Tuned:
    assert found.best is not None
    assert found.base is not None
    best, speedup, interval = found.base, 1.0, (1.0, 1.0)
    chain = found.steps[:0:-1][:MOST_CONFIRMED]
    for index, point in enumerate(chain):
        measured, spread = bench.final(found.base, point, len(chain) - index)
        if spread[0] > 1.0:  # else it was luck, and the one before it may not have been
            best, speedup, interval = point, measured, spread
            break
    choices = {name: value for name, value in best.items() if value != found.base[name]}
    executable = bench.executable(best)
    executable.manifest["tuning"] = {
        "seed": seed,
        "device": _device(bench.target),
        "axes": {axis.name: list(axis.values) for axis in axes},
        "trials": [trial.to_json() for trial in journal.trials],
        "base": found.base,
        "winner": best,
        "choices": choices,
        "speedup": speedup,
        "interval": list(interval),
        "confirmed": best == found.best,
    }
    return Tuned(
        executable,
        journal.trials,
        axes,
        choices,
        speedup,
        interval,
        found.complete,
        journal.resumed,
    )


def _check(target: Target, precisions: Sequence[str], budget_s: float) -> None:
    if target.kind not in KINDS:
        raise UsageError(
            "GO701", "this target has nothing to tune", found=str(target), expected=", ".join(KINDS)
        )
    if not budget_s > 0:
        raise UsageError("GO701", "a budget is positive", where="--budget", found=budget_s)
    wrong = [p for p in precisions if p not in driver.PRECISIONS]
    if wrong or not precisions:
        raise UsageError(
            "GO701", "unknown precision", found=wrong or "none", expected=", ".join(driver.PRECISIONS)
        )
    usable = importlib.import_module("graphopt.runtime.devices").why_unusable
    providers = importlib.import_module("graphopt.lowering.cuda.placement").PROVIDERS[target.kind]
    reason = usable(providers[0])
    if reason is not None:
        raise PolicyError(
            "GO501",
            f"{target} cannot be measured here: {reason}",
            next_step="Run it on the machine that the model is for; `graphopt doctor` says what is missing.",
        )


def _feeds(
    model: Model,
    data: driver.Data | None,
    shapes: Mapping[str, Sequence[int | str]] | None,
    dims: Mapping[str, int] | None,
    constants: Mapping[str, Any] | None,
    seed: int,
) -> list[dict[str, np.ndarray]]:
    """Feeds for all inputs of the original model, constants included."""
    bound = driver.prepare(model.clone(), shapes=shapes, dims=dims, pipeline="").bound
    fixed = bind_constants(bound.clone(), constants) if constants else {}
    if data is not None:
        return [{**feeds, **fixed} for feeds in driver.calibration_feeds(data, model)]
    generate = importlib.import_module("graphopt.verification").generate_feeds
    return [
        {**generate(bound, dims=dict(dims or {}) or None, seed=seed + i), **fixed}
        for i in range(GENERATED_RUNS)
    ]


class _Bench:
    """Compiles, checks and measures candidates."""

    def __init__(
        self,
        model: Model,
        target: Target,
        feeds: Sequence[dict[str, np.ndarray]],
        settings: Mapping[str, Any],
        constants: Mapping[str, Any],
        seed: int,
        budget_s: float,
        say: Say | None,
        clock: Clock,
    ) -> None:
        self.target = target
        self._model, self._settings, self._seed = model, settings, seed
        self._say, self._clock = say, clock
        self._budget_s = budget_s
        self._searching_s = budget_s * (1 - FINAL_SHARE)
        self._begun = clock()
        bound = set(constants)
        self._feeds = [{k: v for k, v in one.items() if k not in bound} for one in feeds]
        self._answers = importlib.import_module("graphopt.verification").Answers(model, feeds)
        self._compiled: dict[tuple[Any, ...], Executable] = {}
        self._open: dict[str, Executable] = {}
        self._tried = 0

    def axes(self, level: int, precisions: Sequence[str]) -> list[Axis]:
        """What can be chosen for this model; what would change nothing is left out."""
        first: Point = {"level": level, "precision": precisions[0]}
        base = self._compile(first)
        lowering = importlib.import_module("graphopt.lowering.cuda.choices")
        found = [
            Axis(name, tuple(values), lowering.TITLES[name])
            for name, values in lowering.session_axes(base.manifest["onnxruntime"], self.target.kind).items()
        ]
        if len(precisions) > 1:
            found.append(Axis("precision", tuple(precisions), "type that is computed in"))
        else:
            found.append(Axis("precision", tuple(precisions)))
        levels = (level, *(n for n in (2, 3, 1, 0) if n != level))
        found.append(Axis("level", levels, "level of graphopt's passes"))
        changed = {row["name"].partition("{")[0] for row in base.report["passes"] if row["modified"]}
        found += [
            Axis(name, ("on", "off"), f"without {', '.join(p for p in passes if p in changed)}")
            for name, passes in SWITCHES.items()
            if changed & set(passes)
        ]
        return found

    def attempt(self, point: Point, best: Point | None) -> Trial | None:
        """Check `point`, and measure it against `best`; None if the time is up."""
        left = self._searching_s - (self._clock() - self._begun)
        if left <= 0 and best is not None:
            return None
        self._tried += 1
        if self._say is not None:
            self._say(f"try {describe(point, best)}; {max(left, 0):.0f} s left", 0, 0)
        try:
            executable = self.executable(point)
            problem = self._difference(executable)
            if problem is not None:
                return Trial(point, "refused", best, reason=problem)
            if best is None:
                (series,) = self._measure({"base": point}, self._searching_s * CANDIDATE_SHARE)
                return Trial(point, "base", p50_s=series.median, rounds=len(series.seconds))
            return self._against(point, best)
        except PolicyError:
            raise
        except GraphoptError as error:
            return Trial(point, "failed", best, reason=str(error))
        finally:
            self._forget(point, best)

    def final(self, base: Point, best: Point, shares: int) -> tuple[float, tuple[float, float]]:
        """How many times as fast as `base` `best` is, measured anew, with the 95 % interval.

        Args:
            shares: among how many such measurements the time that is left is divided.
        """
        if self._say is not None:
            self._say("measure the winner against the starting point", 0, 0)
        left = self._budget_s - (self._clock() - self._begun)
        first, second = self._measure({"base": base, "best": best}, max(left, 0.0) / shares, turn=shares)
        median, low, high = ratio(first, second)
        return median, (low, high)

    def executable(self, point: Point) -> Executable:
        """The executable of `point`; the same one as long as it is in use."""
        label = repr(sorted(point.items()))
        if label not in self._open:
            self._open[label] = with_session_choices(self._compile(point), point)
        return self._open[label]

    def _against(self, point: Point, best: Point) -> Trial:
        base, other = self._measure(
            {"best": best, "candidate": point}, self._searching_s * CANDIDATE_SHARE, turn=self._tried
        )
        median, low, high = ratio(base, other)
        outcome = "faster" if low > 1.0 else "no gain"
        return Trial(point, outcome, best, median, (low, high), other.median, len(other.seconds))

    def _measure(self, points: Mapping[str, Point], seconds: float, turn: int = 0) -> list[Series]:
        calls = {name: self._call(self.executable(point)) for name, point in points.items()}
        started = self._clock()
        for call in calls.values():
            call()
        slow = self._clock() - started > SLOW_S * len(calls)
        return interleave(
            calls,
            runs=LEAST_ROUNDS,
            seconds=seconds,
            warmup=1,
            # What the other one left behind lasts for a millisecond or so.
            settle=0 if slow else 1,
            seed=self._seed + turn,
            enough=lambda series: len(series[0].seconds) >= MOST_ROUNDS or _decided(series),
            clock=self._clock,
        )

    def _call(self, executable: Executable) -> Callable[[], object]:
        session = executable.session() if self.target.kind == "cpu" else executable.session(strict=True)
        names = {spec["name"] for spec in executable.inputs}
        feeds = {name: array for name, array in self._feeds[0].items() if name in names}
        return lambda: session.run(feeds)

    def _difference(self, executable: Executable) -> str | None:
        """How the results of `executable` differ from the original's; None if they do not."""
        exactness = Exactness(executable.manifest["exactness"])
        precision = executable.manifest["options"]["precision"]
        if self.target.kind != "cpu":
            executable.session(strict=True)
        names = {spec["name"] for spec in executable.inputs}
        report = self._answers.check(
            lambda one: executable.run({k: v for k, v in one.items() if k in names}),
            Exactness.REASSOCIATES if exactness is Exactness.BIT_EXACT else exactness,
            precision if precision in ("bf16", "fp16", "tf32") else None,
        )
        if report.ok:
            return None
        try:
            report.raise_if_different()
        except AccuracyError as error:
            return str(error)
        return "the results differ"

    def _compile(self, point: Point) -> Executable:
        """The model of `point`, with the choices about its session still open."""
        off = tuple(name for name in SWITCHES if point.get(name) == "off")
        key = (point["level"], point["precision"], off)
        if key not in self._compiled:
            presets = importlib.import_module("graphopt.passes.presets")
            precision = str(point["precision"])
            text = presets.pipeline_text(
                int(point["level"] or 0), self.target, precision, self._settings["keep_fp32"]
            )
            gone = {name for switch in off for name in SWITCHES[switch]}
            kept = [p for p in Pipeline.parse(text) if not (isinstance(p, Pass) and p.pass_name() in gone)]
            self._compiled[key] = driver.compile(
                self._model.clone(),
                self.target,
                int(point["level"] or 0),
                precision=precision,
                pipeline=Pipeline(kept) if gone else None,
                **self._settings,
            )
        return self._compiled[key]

    def _forget(self, point: Point, best: Point | None) -> None:
        """Close all sessions but those of `point` and `best`: their memory and threads are in the way."""
        keep = {repr(sorted(one.items())) for one in (point, best) if one is not None}
        self._open = {label: executable for label, executable in self._open.items() if label in keep}


def _decided(series: Sequence[Series]) -> bool:
    """Whether it is clear which is faster: clearer than in the end, as it is asked after each round."""
    if len(series) < 2 or len(series[0].seconds) < 2 * LEAST_ROUNDS:
        return False
    _, low, high = ratio(series[0], series[1], EARLY_QUANTILE)
    return low > 1.02 or high < 0.98


def describe(point: Point, best: Point | None = None) -> str:
    """The choices of `point`, of those that `best` makes otherwise only, in words."""
    shown = {k: v for k, v in point.items() if best is None or best.get(k) != v}
    return ", ".join(f"{k}={'auto' if v is None else v}" for k, v in shown.items()) or "the same"


def _none_passed(trials: Sequence[Trial]) -> AccuracyError:
    reasons = {trial.reason for trial in trials if trial.reason}
    return AccuracyError(
        "GO401",
        f"none of {len(trials)} candidates gives the results of the original",
        found=next(iter(sorted(reasons)), None),
        next_step="`graphopt bisect` finds the pass; real inputs (--data) may be needed.",
        details={"trials": [trial.to_json() for trial in trials]},
    )


def _key(
    model: Model,
    target: Target,
    feeds: Sequence[Mapping[str, np.ndarray]],
    settings: Mapping[str, Any],
    axes: Sequence[Axis],
    seed: int,
) -> dict[str, Any]:
    """What a search is about, so that its measurements are not taken for those of another one."""
    import onnx_ir

    digest = hashlib.sha256(onnx_ir.to_proto(model).SerializeToString(deterministic=True))
    fed = hashlib.sha256()
    for one in feeds:
        for name in sorted(one):
            fed.update(f"{name} {one[name].dtype} {one[name].shape}".encode())
            fed.update(
                one[name].tobytes() if one[name].dtype != object else repr(one[name].tolist()).encode()
            )
    return {
        "model": digest.hexdigest(),
        "data": fed.hexdigest(),
        "target": str(target),
        "settings": hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest(),
        "axes": {axis.name: list(axis.values) for axis in axes},
        "seed": seed,
        "device": _device(target),
        "versions": versions("onnxruntime-gpu", "onnxruntime"),
    }


def _device(target: Target) -> dict[str, Any]:
    """What the measurements were made on."""
    found: dict[str, Any] = {"machine": platform.machine(), "processor": _processor()}
    affinity = getattr(os, "sched_getaffinity", None)
    found["processors"] = os.cpu_count() if affinity is None else len(affinity(0))
    if target.kind != "cpu":
        found["gpus"] = importlib.import_module("graphopt.runtime.devices").gpu_names()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
