"""Run an ONNX model with ONNX Runtime, by the plan that the CUDA lowering made."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import ml_dtypes
import numpy as np

from graphopt.errors import ArtifactError, ModelError, PolicyError, UnsupportedError, UsageError
from graphopt.runtime.devices import gpu_names, why_unusable
from graphopt.runtime.feeds import FeedSpec, check_feeds
from graphopt.runtime.ort_binding import Binding
from graphopt.runtime.tensorrt_cache import engine_folder

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
PLAN_SCHEMA = "graphopt.ort-plan/1"
MAX_MESSAGE = 400
Providers = Sequence[str | tuple[str, Mapping[str, str]] | list[Any]]

_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    "string": "string",
    "bfloat16": "bfloat16",
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    "complex64": "complex64",
    "complex128": "complex128",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""ONNX Runtime's element types by their numpy names."""

_OPAQUE = {
    np.dtype(ml_dtypes.bfloat16): 16,
    np.dtype(ml_dtypes.float8_e4m3fn): 17,
    np.dtype(ml_dtypes.float8_e4m3fnuz): 18,
    np.dtype(ml_dtypes.float8_e5m2): 19,
    np.dtype(ml_dtypes.float8_e5m2fnuz): 20,
}
"""Types that ONNX Runtime does not exchange as numpy arrays, with their ONNX number."""

_PLAN_OPTIONS = frozenset(
    {
        "arena_extend_strategy",
        "cudnn_conv_algo_search",
        "cudnn_conv_use_max_workspace",
        "device_id",
        "enable_cuda_graph",
        "enable_skip_layer_norm_strict_mode",
        "prefer_nhwc",
        "trt_bf16_enable",
        "trt_builder_optimization_level",
        "trt_context_memory_sharing_enable",
        "trt_detailed_build_log",
        "trt_engine_cache_enable",
        "trt_engine_cache_path",
        "trt_fp16_enable",
        "trt_layer_norm_fp32_fallback",
        "trt_profile_max_shapes",
        "trt_profile_min_shapes",
        "trt_profile_opt_shapes",
        "trt_timing_cache_enable",
        "trt_timing_cache_path",
        "use_tf32",
    }
)
"""What a plan may set: it may come from a stranger's artifact, and other options load libraries by path."""

_PLAN_ENTRIES = {"session.intra_op.allow_spinning": frozenset({"0", "1"})}
"""The session's entries that a plan may set, with their values."""


class OrtSession:
    """An ONNX Runtime session whose inputs are checked and whose fallbacks are told.

    May be used by several threads at once.

    Attributes:
        fallbacks: the providers that were asked for and are not used, each with the reason.
        specs: the inputs.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        plan: Mapping[str, Any] | Providers | None = None,
        *,
        strict: bool = False,
        record_assignment: bool = False,
        devices: Sequence[Any] | None = None,
        optimized_model: str | os.PathLike[str] | None = None,
    ) -> None:
        """Create the session.

        Args:
            model: a file (external data is read beside it) or a serialized model.
            plan: a plan as JSON (``graphopt.ort-plan/1``), or providers in order; None: the CPU.
            strict: refuse to run without a provider that was asked for.
            record_assignment: let :meth:`assignment` tell which provider each node went to.
            devices: those of a provider that was registered with ONNX Runtime, instead of providers.
            optimized_model: a file for the model as ONNX Runtime runs it, with the copies between devices.

        Raises:
            PolicyError: GO501, in strict mode.
            ArtifactError: GO602, `plan` is none of ours.
            ModelError: GO604, ONNX Runtime refuses the model.
            UnsupportedError: GO202, an input is no tensor.
        """
        import onnxruntime

        settings: Mapping[str, Any] = (
            _checked_plan(plan) if isinstance(plan, Mapping) else {"providers": plan or [CPU]}
        )
        source = model if isinstance(model, bytes) else Path(model).resolve()
        self.fallbacks: list[str] = []
        chosen = self._usable(settings.get("providers") or [CPU], source)
        self._check_strict(strict)
        options = _session_options(settings.get("session_options") or {})
        if record_assignment:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if devices:
            options.add_provider_for_devices(list(devices), {})
        if optimized_model is not None:
            options.optimized_model_filepath = os.fspath(optimized_model)
        self._errors = _runtime_errors()
        try:
            self._session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else os.fspath(model),
                options,
                providers=None if devices else chosen,
                enable_fallback=0,
            )
        except self._errors as error:
            raise _failure("ONNX Runtime cannot load the model", error, self.fallbacks) from error
        self._session.disable_fallback()
        used = self._session.get_providers()
        self.fallbacks += [
            f"{name}: ONNX Runtime could not start it"
            for name, _ in chosen
            if name not in used and not devices
        ]
        self._check_strict(strict)
        self.specs = [
            *(_spec(node, optional=False) for node in self._session.get_inputs()),
            *(_spec(node, optional=True) for node in self._session.get_overridable_initializers()),
        ]
        outputs = self._session.get_outputs()
        self._output_names = [node.name for node in outputs]
        captured = dict(chosen).get(CUDA, {}).get("enable_cuda_graph") == "1"
        self._binding = self.bind() if captured else None
        opaque = {dtype.name for dtype in _OPAQUE}
        self._by_value = any(spec.dtype in opaque for spec in self.specs) or any(
            _DTYPES.get(_element(node.type) or "") in opaque for node in outputs
        )

    def _usable(self, wanted: Providers, model: Path | bytes) -> list[tuple[str, dict[str, str]]]:
        chosen = []
        for entry in wanted:
            name, options = (entry, {}) if isinstance(entry, str) else (entry[0], dict(entry[1]))
            reason = why_unusable(name)
            if reason is None:
                chosen.append((name, _with_cache(options, model)))
            else:
                self.fallbacks.append(f"{name}: {reason}")
        if not any(name == CPU for name, _ in chosen):
            chosen.append((CPU, {}))
        return chosen

    def _check_strict(self, strict: bool) -> None:
        if strict and self.fallbacks:
            raise PolicyError(
                "GO501",
                "strict mode refuses to run without " + "; ".join(self.fallbacks),
                next_step="`graphopt doctor` says what is missing; --no-strict accepts the CPU.",
                details={"fallbacks": list(self.fallbacks)},
            )

    @property
    def providers(self) -> list[str]:
        """The providers in use, in the order in which they were offered the nodes."""
        return list(self._session.get_providers())

    @property
    def output_names(self) -> list[str]:
        """The outputs, in the model's order."""
        return list(self._output_names)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The outputs for `feeds`, by name; an output that is a sequence is a list of arrays.

        Raises:
            FeedError: GO603, the feeds do not fit the inputs.
            ModelError: GO604, ONNX Runtime fails on them.
        """
        arrays = check_feeds(self.specs, feeds)
        try:
            if self._binding is not None:
                results: Any = self._binding.run(arrays)
            elif self._by_value:
                values = {name: _to_value(array) for name, array in arrays.items()}
                results = [
                    _from_value(v) for v in self._session.run_with_ort_values(self._output_names, values)
                ]
            else:
                results = self._session.run(self._output_names, arrays)
        except self._errors as error:
            raise _failure("ONNX Runtime failed while running the model", error, self.fallbacks) from error
        return dict(zip(self._output_names, results, strict=True))

    def bind(self) -> Binding:
        """Buffers for inputs and outputs that stay, on the device of the first provider.

        Raises:
            UnsupportedError: GO202, a shape is not fixed.
        """
        on_gpu = self.providers[0] != CPU
        device_id = int(self._session.get_provider_options().get(self.providers[0], {}).get("device_id", 0))
        outputs = [
            (node.name, _DTYPES.get(_element(node.type) or ""), node.shape)
            for node in self._session.get_outputs()
        ]
        needed = [spec for spec in self.specs if not spec.optional]
        return Binding(self._session, needed, outputs, "cuda" if on_gpu else "cpu", device_id)

    def assignment(self) -> dict[str, str]:
        """Node name → provider, as ONNX Runtime assigned them (after its own fusions).

        Needs ``record_assignment=True``.
        """
        return {name: provider for provider, names in self.assigned_groups() for name in names}

    def assigned_groups(self) -> list[tuple[str, list[str]]]:
        """(provider, node names) of everything that was assigned at once: for TensorRT, an engine.

        Needs ``record_assignment=True``. Empty where ONNX Runtime is too old to tell.
        """
        tell = getattr(self._session, "get_provider_graph_assignment_info", None)
        groups = [] if tell is None else tell()
        return [(group.ep_name, [node.name for node in group.get_nodes()]) for group in groups]


def _checked_plan(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """`plan`, if it is one and sets only what a plan may set.

    Raises:
        ArtifactError: GO602.
    """
    problem = None
    if plan.get("schema") != PLAN_SCHEMA:
        problem = f"schema {plan.get('schema')!r}"
    for name, options in plan.get("providers") or []:
        if unknown := sorted(set(options) - _PLAN_OPTIONS):
            problem = f"{name} option {unknown[0]!r}"
        for key, value in options.items():
            path = PurePath(str(value))
            if key.endswith("_path") and (path.is_absolute() or ".." in path.parts):
                problem = f"{key}={value!r}"
    for key, value in ((plan.get("session_options") or {}).get("config_entries") or {}).items():
        if value not in _PLAN_ENTRIES.get(key, ()):
            problem = f"session entry {key!r}"
    if problem:
        raise ArtifactError("GO602", "not a plan for ONNX Runtime that graphopt wrote", found=problem)
    return plan


def _session_options(settings: Mapping[str, Any]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    level = str(settings.get("graph_optimization_level") or "ORT_ENABLE_ALL")
    levels = onnxruntime.GraphOptimizationLevel.__members__
    if level not in levels:
        raise UsageError(
            "GO701", "unknown graph_optimization_level", found=level, expected=f"one of {', '.join(levels)}"
        )
    options.graph_optimization_level = levels[level]
    options.log_severity_level = int(settings.get("log_severity_level", 4))
    threads = settings.get("intra_op_num_threads")
    if threads is not None:
        options.intra_op_num_threads = int(threads)
    for key, value in (settings.get("config_entries") or {}).items():
        options.add_session_config_entry(key, value)
    return options


def _with_cache(options: Mapping[str, Any], model: Path | bytes) -> dict[str, str]:
    """Provider options whose cache paths are the user's own folder for this model and this machine."""
    resolved = {str(key): str(value) for key, value in options.items()}
    paths = [
        f"trt_{name}_cache_path" for name in ("engine", "timing") if f"trt_{name}_cache_path" in resolved
    ]
    if paths:
        given = {k: v for k, v in resolved.items() if k not in paths}
        try:
            folder = engine_folder(model, given, gpu_names())
        except OSError:
            # No place to keep engines in: they are built anew in each session.
            return {k: "False" if k.endswith("_cache_enable") else v for k, v in given.items()}
        resolved |= dict.fromkeys(paths, str(folder))
    return resolved


@cache
def _runtime_errors() -> tuple[type[Exception], ...]:
    """Everything that ONNX Runtime raises: one class per status code, and what pybind11 translates to."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception)]
    return (*own, RuntimeError, ValueError)


_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"out of memory|Failed to allocate memory|CUDA failure 2\b|OutOfMemory",
        "The device has not enough memory for this: use smaller batches, or free some.",
    ),
    (
        r"driver version is insufficient|CUDA failure 35\b",
        "The NVIDIA driver is too old for this ONNX Runtime: `graphopt doctor` says what is wanted.",
    ),
    (
        r"no kernel image|CUDA failure 209\b",
        "This ONNX Runtime has no code for this GPU: another build of it may.",
    ),
    (
        r"CUDNN|cuDNN",
        "cuDNN and ONNX Runtime may not fit each other: `graphopt doctor` says what is wanted.",
    ),
    (
        r"(?i)deserializ|engine cache|timing cache|serialized engine",
        "The cache of TensorRT's engines is damaged or of another version: remove the folder tensorrt in the "
        "cache (`graphopt cache` names it), and they are built again.",
    ),
)
"""What ONNX Runtime's messages contain → what to do."""


def _failure(what: str, error: Exception, fallbacks: Sequence[str] = ()) -> ModelError:
    """The first line of ONNX Runtime's message, without the places in its own source, and what to do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"/\S+\.(cc|h|cpp):\d+ (?:.*\) )?", "", lines[0]) if lines else type(error).__name__
    next_step = next((advice for pattern, advice in _CAUSES if re.search(pattern, str(error))), None)
    if fallbacks and re.search(r"Could not find an implementation|NOT_IMPLEMENTED", str(error)):
        next_step = f"It was made for a device that is not here ({'; '.join(fallbacks)})."
    found = text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "…"
    return ModelError("GO604", what, found=found, next_step=next_step)


def _element(type_: str) -> str | None:
    """``tensor(float)`` → ``float``; None for sequences, maps and optionals."""
    return type_[len("tensor(") : -1] if type_.startswith("tensor(") else None


def _spec(node: Any, optional: bool) -> FeedSpec:
    dtype = _DTYPES.get(_element(node.type) or "")
    if dtype is None:
        raise UnsupportedError(
            "GO202", "an input of this type cannot be fed", where=repr(node.name), found=node.type
        )
    # A dimension without a name fits any size, whatever the others are.
    shape = tuple(
        dim if dim is not None else f"{node.name}.{axis}" for axis, dim in enumerate(node.shape or ())
    )
    return FeedSpec(node.name, dtype, shape, optional)


def _to_value(array: np.ndarray) -> Any:
    from onnxruntime import OrtValue

    number = _OPAQUE.get(array.dtype)
    if number is not None:
        bits = np.array(array, order="C", copy=None).view(f"u{array.dtype.itemsize}")
        return OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)
    if array.dtype == object:
        raise UnsupportedError("GO202", "strings beside bfloat16 or float8 cannot be fed")
    return OrtValue.ortvalue_from_numpy(np.array(array, order="C", copy=None))


def _from_value(value: Any) -> Any:
    """The array in an OrtValue; for types unknown to ONNX Runtime's numpy bridge, a copy of its bytes."""
    element = _element(value.data_type())
    dtype = np.dtype(_DTYPES[element]) if element in _DTYPES and element != "string" else None
    if dtype not in _OPAQUE or dtype is None:
        return value.numpy()
    if value.device_name() != "cpu":
        raise UnsupportedError("GO202", "an output of this type was left on the device", found=element)
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if count == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(ctypes.string_at(value.data_ptr(), count), dtype).reshape(shape).copy()
