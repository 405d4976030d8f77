"""The driver: the one place where a pipeline meets a lowering.

:func:`optimize` runs a pipeline and gives back ONNX. :func:`compile` goes on to a target and gives an
:class:`~graphopt.executable.Executable`, which runs here and saves itself as an artifact.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir.passes

from graphopt.artifact import is_artifact
from graphopt.build_buckets import MODES, Mode, lower_buckets, plan_buckets, split_dims
from graphopt.build_onnxruntime import lower_onnxruntime
from graphopt.build_tensorrt_rtx import lower_tensorrt_rtx
from graphopt.build_xla import lower_xla
from graphopt.dimensions import Dims, binding_passes, require_static
from graphopt.errors import AccuracyError, FeedError, UsageError
from graphopt.executable import Executable
from graphopt.ir import Model
from graphopt.ir.bind import bind_constants
from graphopt.ir.check import check_model
from graphopt.ir.io import load, read, save
from graphopt.target import Target
from graphopt.transform import Exactness, Instrument, Observer, Pass, Pipeline, Report, Watch

if TYPE_CHECKING:
    from graphopt.reporting import Recall
    from graphopt.runtime.buckets import Buckets
    from graphopt.verification import VerifyReport

VerifyMode = Literal["each", "end"]
Data = str | os.PathLike[str] | Sequence[Mapping[str, Any]]
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


@dataclasses.dataclass
class Result:
    """An optimised model and the report of what was done to it.

    ``result.report("out.html")`` writes the report as a page that shows the graph pass by pass. For that
    the pipeline runs again, unless a :class:`graphopt.viz.Timeline` was among the instruments.
    """

    model: Model
    report: Report
    pipeline: str
    recall: Recall | None = dataclasses.field(default=None, repr=False, compare=False)

    def save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write the model as ONNX (weights beside it when they are large)."""
        save(self.model, path, **options)

    def _repr_html_(self) -> str:
        text: str = importlib.import_module("graphopt.reporting").inline(self.model, self.recall)
        return text


class Progress(Instrument):
    """Tells a callback which stage runs: ``say("pass fold-constants", 3, 17)``."""

    def __init__(self, say: Callable[[str, int, int], None]) -> None:
        self._say = say

    def before_pass(self, index: int, total: int, pass_: onnx_ir.passes.PassBase, model: Model) -> None:
        """Report the pass that starts."""
        self._say(
            f"pass {pass_.pass_name() if isinstance(pass_, Pass) else type(pass_).__name__}", index, total
        )

    def after_pass(self, index: int, total: int, record: Any, model: Model) -> None:
        """Nothing to say after a pass."""


def optimize(
    source: Any,
    target: str | Target | None = None,
    level: int = 2,
    pipeline: str | Pipeline | None = None,
    verify: VerifyMode | None = None,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Dims | None = None,
    constants: Mapping[str, Any] | None = None,
    precision: str | None = None,
    keep_fp32: str | None = None,
    rule_limit: int | None = None,
    reproducers: str | os.PathLike[str] | None = None,
    data: Data | None = None,
    instruments: Sequence[Instrument] = (),
    say: Callable[[str, int, int], None] | None = None,
) -> Result:
    """Run a pipeline on a model.

    Args:
        source: what :func:`graphopt.load` takes.
        target: chooses the preset; None gives standard ONNX that any runtime takes.
        level: 0 (nothing but what is asked) to 3.
        pipeline: a pipeline, or its text, instead of the preset.
        verify: ``each`` compares results around every pass, rolls back one that changes them and names
            it; ``end`` compares once at the end.
        shapes: shapes of inputs by name; strings leave a dimension free.
        dims: sizes of symbolic dimensions by name.
        constants: inputs that are always the same, by name; they leave the interface.
        precision: ``bf16`` or ``fp16`` narrow the floating-point computation; the interface stays.
        keep_fp32: a regular expression on node names that narrowing leaves alone.
        rule_limit: stop after this many applications of rules, over all passes (a pass without rules
            counts as one): replays a part of the pipeline, as :func:`graphopt.bisect` does.
        reproducers: a folder that gets a small failing model for every pass that is rolled back.
        data: calibration feeds, or where they are (see :func:`graphopt.verification.load_feeds`): the
            passes that narrow numbers look at what the model makes of them, and keep what would not fit.
        say: called with (stage, step, steps) as the work goes on.

    Raises:
        GraphoptError: the model is broken, a name is unknown, or (``end``) the answers changed.
    """
    if verify not in (None, "each", "end"):
        raise UsageError("GO701", "unknown verify mode", found=repr(verify), expected="each or end")
    if rule_limit is not None and rule_limit < 0:
        raise UsageError("GO701", "a limit is not negative", where="--rule-limit", found=rule_limit)
    _tell(say, "read the model")
    again = functools.partial(
        prepare,
        source,
        target,
        level,
        pipeline,
        shapes=shapes,
        dims=dims,
        constants=constants,
        precision=precision,
        keep_fp32=keep_fp32,
        data=data,
    )
    work = again()
    watching: list[Instrument] = [*instruments, *([Progress(say)] if say else [])]
    run = functools.partial(
        work.pipeline.run,
        instruments=watching,
        watch=None if rule_limit is None else Watch(rule_limit),
        observe=work.observe,
    )
    if verify is None:
        model, report = run(work.model)
        check_model(model)
    else:
        model, report = _verified_run(work, run, verify, None if reproducers is None else Path(reproducers))
    reporting = importlib.import_module("graphopt.reporting")
    recall = functools.partial(reporting.recall_run, again, report, model, instruments, rule_limit)
    report.page = functools.partial(reporting.write_run, recall, target=target, precision=precision)
    return Result(model, report, str(work.pipeline), recall)


@dataclasses.dataclass
class Prepared:
    """A model as it is read, and what is going to be done to it.

    Attributes:
        model: in canonical form.
        bound: the same with its free dimensions bound as asked: what inputs are generated for.
        pipeline: the passes, with those first that bind dimensions.
        observe: runs a model on the calibration feeds, if there are any.
    """

    model: Model
    bound: Model
    pipeline: Pipeline
    precision: str | None
    observe: Observer | None = None


def prepare(
    source: Any,
    target: str | Target | None = None,
    level: int = 2,
    pipeline: str | Pipeline | None = None,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Dims | None = None,
    constants: Mapping[str, Any] | None = None,
    precision: str | None = None,
    keep_fp32: str | None = None,
    data: Data | None = None,
) -> Prepared:
    """The model and the pipeline that :func:`optimize` runs on it, which takes the same arguments."""
    chosen = Target.parse(target) if target is not None else None
    model = load(source)
    feeds = None if data is None else calibration_feeds(data, model)
    bind_constants(model, constants or {})
    binding = binding_passes(model, shapes or {}, dims or {})
    steps = _pipeline(chosen, level, pipeline, precision, keep_fp32)
    bound = Pipeline(binding).run(model.clone())[0] if binding else model
    narrow = precision if precision in ("bf16", "fp16", "tf32") else None
    observe = None if feeds is None else _observer(feeds)
    return Prepared(model, bound, Pipeline([*binding, *steps]), narrow, observe)


def _verified_run(
    work: Prepared,
    run: Callable[..., tuple[Model, Report]],
    verify: VerifyMode,
    reproducers: Path | None,
) -> tuple[Model, Report]:
    """Run the pipeline with its results compared, around each pass or at the end."""
    verification = importlib.import_module("graphopt.verification")
    with verification.ReferenceProcess() as process:
        feeds, special = verification.exact_feeds(process, work.bound)
        if verify == "each":
            check = verification.PassChecker(
                process, feeds, special, precision=work.precision, reproducers=reproducers
            )
            model, report = run(work.model, check=check)
            check_model(model)
            return model, report
        judge = verification.Judge(process, work.model.clone(), feeds, special)
        model, report = run(work.model)
        check_model(model)
        fault = judge.difference(model, report.exactness, work.precision)
    if fault is not None:
        raise AccuracyError(
            "GO401",
            f"the optimised model gives other results: {fault.message}",
            next_step="--verify each rolls back and names the pass.",
        )
    return model, report


def compile(
    source: Any,
    target: str | Target = "xla-cpu",
    level: int = 2,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Dims | None = None,
    precision: str | None = None,
    constants: Mapping[str, Any] | None = None,
    strict: bool = False,
    *,
    pipeline: str | Pipeline | None = None,
    verify: VerifyMode | None = None,
    keep_fp32: str | None = None,
    data: Data | None = None,
    instruments: Sequence[Instrument] = (),
    say: Callable[[str, int, int], None] | None = None,
    tick: Callable[[float], None] | None = None,
    timeout: float | None = None,
    cache: bool = True,
    buckets: Mode = "pad",
    jobs: int | None = None,
) -> Executable:
    """Compile a model for a target.

    Arguments are those of :func:`optimize`, and:

    Args:
        target: ``cpu``, ``xla-cpu``, ``cuda``, ``tensorrt``, ``tensorrt-rtx:sm89,sm120``, ``xla-gpu:h100``,
            ``tpu:v5p:4x4x4``, ….
        strict: refuse (PolicyError) rather than fall back to the CPU for a part of the model.
        tick: called with the seconds that a vendor's compiler has been running.
        timeout: seconds after which a vendor's compiler is stopped; an hour if not given.
        cache: whether the compile cache is used (see :mod:`graphopt.cache`).
        buckets: what several sizes of a dimension (``dims={"batch": (1, 8, 32)}``, for ``tpu`` and
            ``xla-cpu``) are for. ``pad``: feeds of any size up to the largest run in the smallest that
            holds them, which is refused unless it is proven to change no result. ``exact``: feeds must
            have one of the sizes.
        jobs: compilers that run at once; as many as there are processors if not given.

    A model with free dimensions is compiled per shape when it runs; ahead of time (``tpu``, ``xla-gpu``)
    every dimension must be bound by `dims` or `shapes`.
    """
    chosen = Target.parse(target)
    _require_compiler(chosen)
    if precision not in (None, *PRECISIONS):
        raise UsageError("GO701", "unknown precision", found=repr(precision), expected=", ".join(PRECISIONS))
    if buckets not in MODES:
        raise UsageError("GO701", "unknown use of buckets", found=repr(buckets), expected=" or ".join(MODES))
    static, profiles, sizes = split_dims(dims or {}, chosen)
    result = optimize(
        source,
        chosen,
        level,
        pipeline,
        verify,
        shapes=shapes,
        dims=static,
        constants=constants,
        precision=precision,
        keep_fp32=keep_fp32,
        data=data,
        instruments=instruments,
        say=say,
    )
    options = {
        "level": level,
        "precision": precision or "fp32",
        "dims": dict(sorted(static.items())) | {name: list(several) for name, several in sizes.items()},
        "strict": strict,
    }
    compiler = {"tick": tick, "timeout_s": timeout, "cache": cache}
    if chosen.is_xla:
        planned = plan_buckets(result.model, sizes, buckets) if sizes else None
        executable = _lower_xla(result, chosen, planned, options, {**compiler, "jobs": jobs}, say)
    else:
        executable = _lower_for_onnxruntime(result, chosen, profiles, options, compiler, say)
    executable.recall = result.recall
    executable.notes += [
        f"the pass {record.name} was rolled back, it changes results: {record.rolled_back}"
        for record in result.report.passes
        if record.rolled_back
    ]
    return executable


def _lower_for_onnxruntime(
    result: Result,
    target: Target,
    profiles: Mapping[str, tuple[int, int, int]],
    options: Mapping[str, Any],
    compiler: Mapping[str, Any],
    say: Callable[[str, int, int], None] | None,
) -> Executable:
    """For one of ONNX Runtime's providers; TensorRT-RTX's gets its engine built here."""
    model, report, text = result.model, result.report, result.pipeline
    if target.kind == "tensorrt-rtx":
        return lower_tensorrt_rtx(
            model, target, report, text, options, profiles=profiles, say=say, compiler=compiler
        )
    strict = options["strict"]
    return lower_onnxruntime(model, target, report, text, options, strict=strict, profiles=profiles)


def _lower_xla(
    result: Result,
    target: Target,
    buckets: Buckets | None,
    options: Mapping[str, Any],
    compiler: Mapping[str, Any],
    say: Callable[[str, int, int], None] | None,
) -> Executable:
    model, report, text = result.model, result.report, result.pipeline
    if buckets is None:
        if target.is_ahead_of_time:
            require_static(model)
        return lower_xla(model, target, report, text, options, say=say, compiler=compiler)
    return lower_buckets(model, buckets, target, report, text, options, say=say, compiler=compiler)


def _require_compiler(target: Target) -> None:
    """Raise UnsupportedError (GO207) before the work of all passes where nothing comes of it."""
    if target.kind == "tensorrt-rtx":
        importlib.import_module("graphopt.lowering.tensorrt_rtx.build").require_installed()
    if target.kind == "xla-gpu":
        importlib.import_module("graphopt.lowering.xla.aot").require_gpu_compiler()


def calibration_feeds(data: Data, model: Model) -> list[dict[str, Any]]:
    """Sets of feeds for `model`: those given, or those in a file or a folder.

    Raises:
        FeedError: GO603, there are none.
    """
    if isinstance(data, (str, os.PathLike)):
        names = [v.name or "" for v in model.graph.inputs if not v.is_initializer()]
        verification = importlib.import_module("graphopt.verification")
        return list(verification.load_feeds(data, inputs=names))
    if not data:
        raise FeedError("GO603", "no feeds are given", expected="at least one set of arrays")
    return [dict(feeds) for feeds in data]


def _observer(feeds: Sequence[Mapping[str, Any]]) -> Observer:
    observation = importlib.import_module("graphopt.verification.observation")
    observe: Observer = observation.observer(feeds)
    return observe


def _tell(say: Callable[[str, int, int], None] | None, stage: str) -> None:
    if say is not None:
        say(stage, 0, 0)


def _pipeline(
    target: Target | None,
    level: int,
    given: str | Pipeline | None,
    precision: str | None,
    keep_fp32: str | None,
) -> Pipeline:
    presets = importlib.import_module("graphopt.passes.presets")
    if isinstance(given, Pipeline):
        return given
    text = given if given is not None else presets.pipeline_text(level, target, precision, keep_fp32)
    return Pipeline.parse(text)


def load_artifact(folder: str | os.PathLike[str]) -> Executable:
    """The executable in an artifact's folder, after all of its files were checked.

    A TPU artifact runs on XLA:CPU where there is no TPU, a CUDA one on ONNX Runtime's CPU provider
    where there is no GPU; ``notes`` says so. An engine of TensorRT-RTX and a program of ``xla-gpu`` run on
    a GPU only (GO605).
    """
    return Executable.load(folder)


def verify(
    subject: Any,
    against: Any = None,
    *,
    feeds: Sequence[Mapping[str, Any]] | None = None,
    dims: Mapping[str, int] | None = None,
    constants: Mapping[str, Any] | None = None,
    seed: int = 0,
    runs: int = 1,
    tolerance: Any = None,
    **compile_options: Any,
) -> VerifyReport:
    """Compare an executable, an artifact or a model with ONNX Runtime, its optimisations off.

    Args:
        subject: an Executable, an artifact's folder, or a model, which is compiled first with
            `compile_options` (see :func:`compile`).
        against: the model as it was before graphopt. By default the model given, or, of an
            executable or artifact, its own optimised model (then passes are not checked, only the
            lowering and what the target's compiler made of it).
        feeds: sets of inputs; by default `runs` sets are generated.
        dims: sizes of free dimensions in generated inputs.
        constants: values of inputs that `subject` was compiled with.
        tolerance: a :class:`graphopt.verification.Tolerance` instead of the one that follows from the
            exactness of the passes and the precision.

    Raises:
        GraphoptError: the subject or the reference cannot be run. A difference is no error: see ``ok``.
    """
    verification = importlib.import_module("graphopt.verification")
    executable, reference = _subject(subject, against, dims, constants, compile_options)
    fixed = bind_constants(reference.clone(), constants) if constants else {}
    sizes = {**executable.example_sizes(), **{k: v for k, v in (dims or {}).items() if isinstance(v, int)}}
    given = (
        [dict(f) for f in feeds]
        if feeds is not None
        else [verification.generate_feeds(executable.model, dims=sizes, seed=seed + i) for i in range(runs)]
    )
    names = {i["name"] for i in executable.inputs}
    exactness = Exactness(executable.manifest["exactness"])
    precision = executable.manifest["options"]["precision"]
    report: VerifyReport = verification.verify(
        lambda one: executable.run({k: v for k, v in one.items() if k in names}),
        reference,
        feeds_list=[{**f, **fixed} for f in given],
        # Another runtime adds in another order, even when no pass did.
        exactness=tolerance or (Exactness.REASSOCIATES if exactness is Exactness.BIT_EXACT else exactness),
        precision=precision if precision in ("bf16", "fp16", "tf32") else None,
    )
    return report


def _subject(
    subject: Any,
    against: Any,
    dims: Mapping[str, int] | None,
    constants: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> tuple[Executable, Model]:
    """The executable to check and the model to check it against."""
    if isinstance(subject, Executable):
        executable = subject
    elif isinstance(subject, (str, os.PathLike)) and is_artifact_path(subject):
        executable = Executable.load(subject)
    else:
        executable = compile(subject, constants=constants, dims=dims, **{"target": "xla-cpu", **options})
        against = subject if against is None else against
    return executable, executable.model if against is None else read(against)


def is_artifact_path(subject: str | os.PathLike[str]) -> bool:
    """Whether `subject` is a path to an artifact's folder (a model's text is no path)."""
    try:
        return is_artifact(subject)
    except (OSError, ValueError):
        return False
