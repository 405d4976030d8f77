"""Descriptions of GPUs that are not there, as XLA:GPU takes them (``gpu_targets.toml`` names the sources)."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from importlib import resources
from typing import Any

_OF_EVERY_GPU = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49152,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "device_address_bits": 64,
}
"""CUDA programming guide, technical specifications: the same for compute capability 7.5 to 12.0."""

_OF_EACH = (
    *("core_count", "fpus_per_core", "clock_rate_ghz", "memory_bandwidth", "device_memory_size"),
    *("l2_cache_size", "shared_memory_per_core", "shared_memory_per_block_optin", "threads_per_core_limit"),
)

_DNN = (9, 10, 0)
"""The cuDNN that is assumed: of the 9 that jax[cuda13] installs, the version in OpenXLA's descriptions."""


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / "gpu_targets.toml").read_text(encoding="utf-8"))


def gpu_names() -> list[str]:
    """The GPUs that are described."""
    return list(_table())


def gpu_capability(name: str) -> str:
    """The compute capability of the GPU called `name`, ``9.0``."""
    return str(_table()[name]["capability"])


def target_config(name: str) -> str:
    """The GpuTargetConfigProto of the GPU called `name`, as text."""
    row = _table()[name]
    major, minor = row["capability"].split(".")
    extension = "ACCELERATED_FEATURES" if row.get("accelerated") else "NONE"
    numbers = {**_OF_EVERY_GPU, **{key: row[key] for key in _OF_EACH}}
    title = json.dumps(row["title"])
    lines = [
        "gpu_device_info {",
        *(f"  {key}: {value}" for key, value in numbers.items()),
        f"  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}",
        '  device_vendor: "NVIDIA Corporation"',
        f"  name: {title}",
        "}",
        'platform_name: "CUDA"',
        "dnn_version_info {{ major: {} minor: {} patch: {} }}".format(*_DNN),
        f"device_description_str: {title}",
    ]
    return "\n".join(lines) + "\n"
