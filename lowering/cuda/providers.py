"""The provider and session options that a model is run with, and the reason for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from graphopt.errors import UsageError
from graphopt.ir import DataType, Model
from graphopt.ir.query import is_op, static_shape
from graphopt.lowering.cuda.kernels import CONTRIB_DOMAIN
from graphopt.lowering.cuda.layout import CONVOLUTIONS, is_fused_conv, residual_transposes
from graphopt.lowering.cuda.placement import CUDA, PROVIDERS, TENSORRT
from graphopt.lowering.profiles import input_profile
from graphopt.target import Target

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
CACHE_FOLDER = "tensorrt"
"""Engines and timings are cached; the runtime puts the user's own folder in the place of this name."""

Profiles = Mapping[str, tuple[int, int, int]]
"""Dimension name → its smallest, most likely and largest size."""


@dataclasses.dataclass
class Options:
    """Options of one provider (or of the session) as they are chosen, each with its reason."""

    values: dict[str, str] = dataclasses.field(default_factory=dict)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)

    def set(self, name: str, value: object, reason: str) -> None:
        """Choose `value` for option `name`."""
        self.values[name] = str(value)
        self.reasons[name] = reason


def check_precision(precision: str | None) -> None:
    """Raise UsageError (GO701) for a precision that ONNX Runtime has no option for."""
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(
            "GO701", "unknown precision", where="precision", found=precision, expected=", ".join(PRECISIONS)
        )


def choose(
    model: Model,
    target: Target,
    *,
    precision: str | None,
    profiles: Profiles | None,
    device_id: int,
    engines: int,
    shape_nodes: int = 0,
) -> tuple[dict[str, Options], list[str]]:
    """The options of each provider of `target`, in their order, and notes for the user.

    Args:
        precision: fp32 (also None), tf32, fp16 or bf16.
        profiles: for TensorRT, the range of every dynamic dimension.
        engines: the number of TensorRT engines that is predicted.
        shape_nodes: the number of nodes that compute shapes on the CPU.

    Raises:
        LoweringError: GO204, `profiles` does not name all dynamic dimensions.
    """
    notes: list[str] = []
    chosen: dict[str, Options] = {}
    for provider in PROVIDERS[target.kind]:
        options = Options()
        if provider == CUDA:
            _cuda(options, model, precision, device_id, notes, shape_nodes)
        elif provider == TENSORRT:
            _tensorrt(options, model, precision, profiles, device_id, engines, notes)
        chosen[provider] = options
    if target.kind == "cuda" and profiles:
        notes.append("Shape profiles are TensorRT's: the CUDA provider takes any shape as it comes.")
    return chosen, notes


def _cuda(
    options: Options,
    model: Model,
    precision: str | None,
    device_id: int,
    notes: list[str],
    shape_nodes: int,
) -> None:
    static = has_static_inputs(model)
    options.set("device_id", device_id, "the device that was asked for")
    if static:
        options.set(
            "arena_extend_strategy",
            "kSameAsRequested",
            "shapes are fixed, so memory need not be reserved ahead",
        )
    else:
        options.set(
            "arena_extend_strategy", "kNextPowerOfTwo", "shapes vary, so the arena grows in few large steps"
        )
    if any(is_op(node, *CONVOLUTIONS) or is_fused_conv(node) for node in model.graph.all_nodes()):
        _layout(options, model, shape_nodes)
        options.set("cudnn_conv_use_max_workspace", 1, "the fastest algorithms need the most memory")
        if static:
            options.set(
                "cudnn_conv_algo_search", "EXHAUSTIVE", "shapes are fixed: each convolution is tuned once"
            )
        else:
            options.set(
                "cudnn_conv_algo_search",
                "HEURISTIC",
                "shapes vary: tuning would start again for each new one",
            )
    if precision == "tf32":
        options.set("use_tf32", 1, "TF32 was asked for")
    else:
        options.set("use_tf32", 0, "float32 means float32: TF32 keeps 10 bits of the mantissa only")
    skips = [
        n for n in model.graph.all_nodes() if n.op_type.startswith("Skip") and n.domain == CONTRIB_DOMAIN
    ]
    if any(n.inputs[0] is not None and n.inputs[0].dtype == DataType.FLOAT16 for n in skips):
        options.set(
            "enable_skip_layer_norm_strict_mode", 1, "the sums of a normalization are taken in float32"
        )
    # A captured graph replays fixed device addresses, which feeds from host arrays do not have.
    options.set("enable_cuda_graph", 0, "a captured CUDA graph cannot follow inputs that move in memory")
    if static:
        notes.append(
            "All shapes are fixed: with I/O binding and provider option enable_cuda_graph=1 the launches "
            "could be captured once and replayed."
        )


def _layout(options: Options, model: Model, shape_nodes: int) -> None:
    """Channels last for convolutions in 16 bits, whose tensor cores read it; what that costs is counted."""
    convolutions = [n for n in model.graph.all_nodes() if is_op(n, *CONVOLUTIONS) or is_fused_conv(n)]
    half = [n for n in convolutions if n.outputs[0].dtype in (DataType.FLOAT16, DataType.BFLOAT16)]
    count = residual_transposes(model)
    if len(half) * 2 > len(convolutions) and shape_nodes:
        # ONNX Runtime decides anew after it changed the layout, and then puts them on the device.
        reason = (
            f"{shape_nodes} nodes compute shapes: with channels last they would run on the GPU and be copied"
        )
        options.set("prefer_nhwc", 0, reason)
    elif len(half) * 2 > len(convolutions) and count <= len(half):
        reason = f"16-bit convolutions are fastest with channels last; {count} transposes are left for it"
        options.set("prefer_nhwc", 1, reason)
    elif len(half) * 2 > len(convolutions):
        options.set("prefer_nhwc", 0, f"channels last would leave {count} transposes, more than convolutions")
    else:
        options.set(
            "prefer_nhwc", 0, f"float32 convolutions gain nothing by channels last ({count} transposes)"
        )


def _tensorrt(
    options: Options,
    model: Model,
    precision: str | None,
    profiles: Profiles | None,
    device_id: int,
    engines: int,
    notes: list[str],
) -> None:
    options.set("device_id", device_id, "the device that was asked for")
    used = {value.dtype for node in model.graph.all_nodes() for value in node.outputs}
    half = precision == "fp16" or (precision is None and DataType.FLOAT16 in used)
    brain = precision == "bf16" or (precision is None and DataType.BFLOAT16 in used)
    options.set(
        "trt_fp16_enable", half, "float16 kernels only where float16 was asked for or is in the model"
    )
    options.set("trt_bf16_enable", brain, "bfloat16 kernels only where it was asked for or is in the model")
    if half:
        options.set(
            "trt_layer_norm_fp32_fallback", True, "the sums of a normalization overflow float16 easily"
        )
    if precision in (None, "fp32"):
        notes.append(
            "TensorRT itself may use TF32 for float32: the provider has no option for it. "
            "Set NVIDIA_TF32_OVERRIDE=0 in the environment to forbid it."
        )
    options.set("trt_engine_cache_enable", True, "building an engine takes minutes, loading one does not")
    options.set("trt_engine_cache_path", CACHE_FOLDER, "the user's own cache, by what the engine was made of")
    options.set("trt_timing_cache_enable", True, "a rebuilt engine reuses what was measured before")
    options.set("trt_timing_cache_path", CACHE_FOLDER, "the user's own cache, by what the engine was made of")
    if engines > 1:
        options.set(
            "trt_context_memory_sharing_enable", True, "engines run one after the other: they share memory"
        )
    options.set("trt_detailed_build_log", False, "the builder's log is for debugging the builder")
    if has_static_inputs(model):
        return
    if not profiles:
        notes.append(
            "Shapes vary and no ranges are given: TensorRT builds for the first shape that it meets and "
            "again whenever a shape is outside what it has seen. --dim N=min:opt:max avoids that."
        )
    elif engines > 1:
        # With explicit ranges TensorRT wants them for every dynamic input of every engine, and those
        # between engines have names that only ONNX Runtime's own optimisations decide.
        notes.append(
            f"The ranges of dimensions are not passed on: with {engines} engines TensorRT would want them "
            "for the tensors between engines too. It widens its ranges as shapes come."
        )
    elif any(set(":,") & set(value.name or "") for value in model.graph.inputs):
        notes.append(
            "The ranges of dimensions are not passed on: TensorRT's profiles cannot name an input with : or ,"
        )
    else:
        for name, text in _profile_texts(model, profiles).items():
            options.set(name, text, "the ranges that were given")


def has_static_inputs(model: Model) -> bool:
    """Whether every input of the main graph has a fixed shape."""
    return all(static_shape(value) is not None for value in model.graph.inputs)


def _profile_texts(model: Model, profiles: Profiles) -> dict[str, str]:
    """The profile options: ``x:1x3x224x224,y:…`` for the smallest, likely and largest shapes."""
    shapes = input_profile(model, profiles, or_none=True)
    return {
        f"trt_profile_{key}_shapes": ",".join(
            f"{name}:" + "x".join(map(str, sizes[which])) for name, sizes in shapes.items()
        )
        for which, key in enumerate(("min", "opt", "max"))
    }


def session_options() -> dict[str, Any]:
    """The options of the session itself, as plain data.

    ONNX Runtime's log stays silent: what matters in it reaches the caller as an error or as a fallback.
    """
    return {
        "graph_optimization_level": "ORT_ENABLE_ALL",
        "intra_op_num_threads": None,
        "log_severity_level": 4,
        "config_entries": {},
    }
