"""Running XLA programs on the device that is here (the CPU, unless JAX finds an accelerator)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from graphopt.artifact import PADDED, SHAPE
from graphopt.errors import GraphoptError, LoweringError, UnsupportedError
from graphopt.runtime.devices import cuda_device_count
from graphopt.runtime.feeds import FeedSpec, check_feeds

Call = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]

SPECIALISED_ELEMENTS = 128
"""Inputs up to this size (shapes, axes, k) may have a program made for each value that they take."""

MAX_PROGRAMS = 64
"""Programs that one session keeps, for as many shapes and values; the least recently used one goes."""


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """64-bit types for the length of a call; the user's own JAX settings stay as they are."""
    with jax.enable_x64(True):
        yield


@functools.cache
def cpu_compiler_options() -> dict[str, str]:
    """What XLA's CPU compiler is told, as far as the installed one knows it.

    Its fusions for the YNNPACK library are off: where one holds a reduction that starts from a constant
    that the fusion uses elsewhere too, jaxlib 0.10 reads memory that nobody wrote (a 1x1 convolution, Relu
    and global pooling gave 0 or infinity by turns). Without them convolutions and products are as fast.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # an older or newer XLA without the option
        return {}
    return options


def require_gpu() -> None:
    """Raise UnsupportedError (GO605) unless JAX runs programs on an NVIDIA GPU here."""
    if not cuda_device_count():
        raise UnsupportedError(
            "GO605",
            "the program was compiled for an NVIDIA GPU, and there is none here",
            next_step="Copy the artifact to a machine that has one, or compile the model for xla-cpu.",
        )
    try:
        jax.local_devices(backend="cuda")
    except RuntimeError as error:
        raise UnsupportedError(
            "GO605",
            "JAX cannot use the GPU here",
            found=str(error).splitlines()[0][:300],
            next_step="pip install 'graphopt[xla-gpu]'; `graphopt doctor` shows the driver.",
        ) from error


def jitted(function: Call, platform: str = "cpu") -> Call:
    """`function` compiled for `platform` at its first call for each combination of shapes."""
    call: Call = jax.jit(function, compiler_options=cpu_compiler_options() if platform == "cpu" else None)
    return call


@dataclasses.dataclass(frozen=True)
class Step:
    """One segment of a partitioned model.

    Attributes:
        call: ``(weights, inputs) -> outputs`` by name; for the host ``inputs -> outputs``; for control flow
            that the host drives ``(bodies, inputs) -> outputs``.
        inputs: the names of the values that it takes.
        weights: the names of the weights that it takes.
        bodies: of control flow that the host drives, its branches or body.
    """

    where: Literal["xla", "host", "driven"]
    call: Callable[..., dict[str, Any]]
    inputs: tuple[str, ...]
    weights: tuple[str, ...] = ()
    bodies: tuple[Plan, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of a model, or of a body, for one set of shapes.

    Attributes:
        known: values that are known before any step runs.
        outputs: of a body the names of what it gives, in order.
    """

    steps: tuple[Step, ...]
    known: Mapping[str, Any]
    outputs: tuple[str, ...] = ()


class XlaSession:
    """One model on XLA. Compiles on the first call for each combination of shapes, then reuses it.

    Safe to call from several threads.

    Args:
        inputs: what may be fed.
        outputs: the names of the outputs, in order (JAX sorts them).
        weights: the program's weight arguments by name; read when the first call is made.
        program_for: gives the function ``(weights, inputs) -> outputs`` for the shapes of the feeds
            and the values of the inputs that it must know; it is asked once for each.
        takes: the names of the inputs that a whole program takes: those of types that XLA has.
        plan_for: gives the plan with host segments, for shapes and values that no single program
            exists for. None: the error that said so is raised.
        partitioned: whether it is known that no single program exists.
        platform: the JAX platform to run on.
        defaults: what inputs are when they are not fed.
    """

    def __init__(
        self,
        inputs: Sequence[FeedSpec],
        outputs: Sequence[str],
        weights: Callable[[], Mapping[str, np.ndarray]],
        program_for: Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], Call],
        *,
        takes: frozenset[str],
        plan_for: Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], Plan] | None = None,
        partitioned: bool = False,
        platform: str = "cpu",
        defaults: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.platform = platform
        self._defaults = dict(defaults or {})
        self._load_weights = weights
        self._program_for = program_for
        self._takes = takes
        self._plan_for = plan_for
        self._partitioned = partitioned
        self._device = jax.local_devices(backend=platform)[0]
        self._weights: dict[str, Any] | None = None
        self._plans: OrderedDict[Any, Plan] = OrderedDict()
        self._static_names: set[str] = set()
        self._lock = threading.Lock()  # of the fields
        self._making = threading.Lock()  # of a plan: runs of those that exist go on meanwhile

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name. Raises FeedError when the feeds do not match the inputs."""
        arrays = {**self._defaults, **check_feeds(self.inputs, feeds)}
        arrays |= {spec.name: None for spec in self.inputs if spec.name not in arrays and spec.may_be_absent}
        with self._lock:
            if self._weights is None:
                self._weights = self._device_weights()
        while True:
            known = {n: a for n, a in arrays.items() if n in self._static_names}
            try:
                return self._run({n: a for n, a in arrays.items() if n not in known}, known)
            except LoweringError as error:
                # An input that the program must know: specialise on its value, and remember to.
                needed = self._to_specialise(error, arrays)
                if not needed:
                    raise
                self._static_names |= needed

    def _to_specialise(self, error: GraphoptError, arrays: Mapping[str, Any]) -> set[str]:
        """The inputs whose values would let a program exist, if a program for each value makes sense."""
        if not getattr(error, "specialisable", True):
            return set()
        needed = set(getattr(error, "inputs", ())) & set(arrays) - self._static_names
        small = all(
            isinstance(arrays[n], np.ndarray) and arrays[n].size <= SPECIALISED_ELEMENTS for n in needed
        )
        return needed if small else set()

    def _run(self, arrays: dict[str, Any], known: dict[str, np.ndarray]) -> dict[str, Any]:
        key = (
            tuple((n, _key(a)) for n, a in sorted(arrays.items())),
            tuple((n, a.shape, a.tobytes()) for n, a in sorted(known.items())),
        )
        shapes = {name: shape_of(array) for name, array in arrays.items()}
        plan = self._plan(key, shapes, known, cut=self._partitioned)
        try:
            return self._execute(plan, {**arrays, **known})
        except (LoweringError, UnsupportedError) as error:
            self._forget(key)
            whole = self._plan_for is not None and not self._partitioned and error.code != "GO604"
            if not whole or self._to_specialise(error, arrays):
                raise
        return self._execute(self._plan(key, shapes, known, cut=True), {**arrays, **known})

    def _plan(
        self, key: Any, shapes: Mapping[str, Any], known: Mapping[str, np.ndarray], *, cut: bool
    ) -> Plan:
        """The plan kept under `key`, else a new one: with host segments, or of the whole program."""
        if (plan := self._kept(key)) is not None:
            return plan
        with self._making:
            if (plan := self._kept(key)) is not None:
                return plan
            if cut and self._plan_for is not None:
                made = self._plan_for(shapes, known)
            else:
                program = self._program_for(shapes, known)
                fed = tuple(name for name in shapes if name in self._takes)
                made = Plan((Step("xla", program, fed, tuple(self._weights or ())),), {})
            plan = self._ready_plan(made)
            with self._lock:
                self._plans[key] = plan
                if len(self._plans) > MAX_PROGRAMS:
                    self._plans.popitem(last=False)
            return plan

    def _kept(self, key: Any) -> Plan | None:
        with self._lock:
            if key in self._plans:
                self._plans.move_to_end(key)
            return self._plans.get(key)

    def _forget(self, key: Any) -> None:
        with self._lock:
            self._plans.pop(key, None)

    def _ready_plan(self, plan: Plan) -> Plan:
        return dataclasses.replace(plan, steps=tuple(self._ready(step) for step in plan.steps))

    def _ready(self, step: Step) -> Step:
        """The step as a function of its inputs alone: compiled, and with its weights."""
        if step.where == "driven":
            bodies = [functools.partial(_run_body, self._ready_plan(body)) for body in step.bodies]
            return dataclasses.replace(step, call=functools.partial(step.call, bodies))
        if step.where == "host":
            return dataclasses.replace(step, call=lambda given: step.call(on_host(given)))
        weights = {name: (self._weights or {})[name] for name in step.weights}
        return dataclasses.replace(step, call=functools.partial(jitted(step.call, self.platform), weights))

    def _execute(self, plan: Plan, feeds: Mapping[str, Any]) -> dict[str, Any]:
        with _settings(), jax.default_device(self._device):
            try:
                values = _run_steps(plan, feeds)
                return {name: on_host(values[name]) for name in self.outputs}
            except jax.errors.JaxRuntimeError as error:
                raise UnsupportedError("GO604", f"XLA failed: {str(error).splitlines()[0][:400]}") from error

    def _device_weights(self) -> dict[str, Any]:
        with _settings(), jax.default_device(self._device):
            return {name: jax.device_put(array, self._device) for name, array in self._load_weights().items()}


def _run_steps(plan: Plan, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every value of `plan`, whose steps are ready, by name."""
    values = {**plan.known, **given}
    for step in plan.steps:
        values.update(step.call({name: values[name] for name in step.inputs}))
    return values


def _run_body(plan: Plan, given: Mapping[str, Any]) -> list[Any]:
    """What the body gives, in order."""
    values = _run_steps(plan, given)
    return [values[name] for name in plan.outputs]


def shape_of(feed: Any) -> Any:
    """The shape of an array; of a sequence the list of its items' shapes, of an absent optional None."""
    if isinstance(feed, (list, tuple)):
        return [shape_of(item) for item in feed]
    return None if feed is None else tuple(feed.shape)


def _key(feed: Any) -> Any:
    """The shape as part of a key; an empty sequence is not a scalar."""
    shape = shape_of(feed)
    return ("sequence", *shape) if isinstance(shape, list) else shape


def on_host(result: Any) -> Any:
    """Arrays as numpy; sequences and dicts item by item; an absent optional as None.

    What the program padded is cut to its size.
    """
    if isinstance(result, dict) and result.keys() == {PADDED, SHAPE}:
        return np.asarray(result[PADDED])[tuple(slice(int(size)) for size in np.asarray(result[SHAPE]))]
    if isinstance(result, dict):
        return {name: on_host(value) for name, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [on_host(item) for item in result]
    return None if result is None else result if isinstance(result, np.ndarray) else np.asarray(result)


def exported_call(data: bytes) -> Call:
    """The function of a program that ``jax.export`` serialised."""
    from jax import export

    call: Call = export.deserialize(bytearray(data)).call
    return call
