"""What may be chosen about a session without another answer, and how a plan says it.

These are the choices that :func:`graphopt.tune` measures. None of them changes which numbers are computed
in which type; ONNX Runtime's optimisers may take sums in another order, which verification allows for.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from graphopt.lowering.cuda.placement import CUDA, PROVIDERS, TENSORRT

Value = str | int | None

SPINNING = "session.intra_op.allow_spinning"
MOST_THREADS = 64

PROVIDER_VALUES: dict[str, tuple[str, tuple[Value, ...]]] = {
    "prefer_nhwc": (CUDA, (0, 1)),
    "cudnn_conv_algo_search": (CUDA, ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")),
    "cudnn_conv_use_max_workspace": (CUDA, (1, 0)),
    "enable_cuda_graph": (CUDA, (0, 1)),
    "trt_builder_optimization_level": (TENSORRT, (3, 4, 5)),
}
"""Options of providers: whose, and the values that are worth trying."""

TITLES = {
    "optimizer": "ONNX Runtime's own optimisations",
    "threads": "threads within an operator",
    "spinning": "threads wait for work by spinning",
    "prefer_nhwc": "convolutions in channels-last layout",
    "cudnn_conv_algo_search": "how cuDNN's algorithm is found",
    "enable_cuda_graph": "launches are captured once and replayed, with buffers that stay",
    "cudnn_conv_use_max_workspace": "cuDNN may use as much memory as it likes",
    "trt_builder_optimization_level": "how long TensorRT looks for kernels",
}


def session_axes(plan: Mapping[str, Any], kind: str, processors: int | None = None) -> dict[str, list[Value]]:
    """The choices that make a difference to `plan`, by name; the first value is what the plan has.

    Args:
        plan: a plan as JSON.
        kind: of the target.
        processors: how many this process may use; None: it is found out.
    """
    settings = plan["session_options"]
    level = str(settings["graph_optimization_level"])
    levels = ("ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC", "ORT_DISABLE_ALL")
    found: dict[str, list[Value]] = {}
    if kind == "cpu":
        count = min(processors or _processors(), MOST_THREADS)
        halves = [count >> i for i in range(1, count.bit_length())]
        found["threads"] = _led_by(settings.get("intra_op_num_threads"), (None, *halves))
        found["spinning"] = [1, 0]
    if level != levels[-1]:  # off: because nothing was to be optimised, or ONNX Runtime does not survive it
        found["optimizer"] = _led_by(level, levels)
    options = {name: dict(values) for name, values in plan["providers"]}
    for name, (provider, values) in PROVIDER_VALUES.items():
        given = options.get(provider, {}).get(name)
        if provider in PROVIDERS[kind][:1] and (given is not None or name.startswith("trt_")):
            first = values[0] if given is None else int(given) if isinstance(values[0], int) else given
            found[name] = _led_by(first, values)
    return found


def _led_by(first: Value, values: tuple[Value, ...]) -> list[Value]:
    return [first, *(value for value in values if value != first)]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def with_choices(plan: Mapping[str, Any], choices: Mapping[str, Value]) -> dict[str, Any]:
    """A copy of `plan` (as JSON) in which `choices` are made; those of other names are left out."""
    made = copy.deepcopy(dict(plan))
    settings = made["session_options"]
    if choices.get("optimizer") is not None:
        settings["graph_optimization_level"] = choices["optimizer"]
    if "threads" in choices:
        settings["intra_op_num_threads"] = choices["threads"]
    if choices.get("spinning") == 0:
        settings["config_entries"] = {**(settings.get("config_entries") or {}), SPINNING: "0"}
    options: dict[str, dict[str, str]] = dict(made["providers"])
    for name, (provider, _) in PROVIDER_VALUES.items():
        if name in choices and provider in options:
            options[provider][name] = str(choices[name])
    return made
