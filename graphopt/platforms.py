"""Which JAX platforms and which ONNX Runtime this machine has, found without importing either.

Where libtpu is installed to compile for TPUs that are elsewhere, JAX would first try to start a TPU
that is not there, slowly and with messages on the user's screen. So before graphopt is the first
to import JAX, it tells JAX which platforms exist; a choice that the user made stands.
"""

from __future__ import annotations

import glob
import importlib.metadata
import os
import re
import sys
from functools import cache

NEW_CUDA_KERNELS = (1, 31)
"""The first ONNX Runtime known to have CUDA kernels for nearly all operators up to opset 25."""


@cache
def onnxruntime_version() -> tuple[int, ...]:
    """The version of the installed ONNX Runtime; the newest that is known if there is none."""
    for package in ("onnxruntime-gpu", "onnxruntime"):
        try:
            text = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        return tuple(int(n) for n in re.findall(r"\d+", text)[:3])
    return NEW_CUDA_KERNELS


def has_tpu() -> bool:
    """Whether a TPU's device files are here."""
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def has_nvidia_gpu() -> bool:
    """Whether an NVIDIA GPU's device files are here."""
    return bool(glob.glob("/dev/nvidia[0-9]*")) or os.path.exists("/dev/dxg")


def announce_to_jax() -> None:
    """Set ``JAX_PLATFORMS`` to what is here, unless JAX is imported already or the user chose."""
    if "jax" in sys.modules or os.environ.get("JAX_PLATFORMS") or has_tpu() or has_nvidia_gpu():
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
