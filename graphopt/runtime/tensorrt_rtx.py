"""Run a TensorRT-RTX engine: ONNX Runtime's provider for it, on a GPU that the engine was built for."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import threading
from collections.abc import Sequence
from typing import Any

from graphopt.errors import UnsupportedError
from graphopt.runtime.devices import compute_capabilities
from graphopt.runtime.ort import OrtSession

PROVIDER = "NvTensorRTRTXExecutionProvider"
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
"""NVIDIA's package with the provider; a build of ONNX Runtime may have it inside instead."""

_lock = threading.Lock()


def require_device(capabilities: Sequence[str]) -> None:
    """Raise UnsupportedError (GO605) unless a GPU here has one of `capabilities` (``sm89``, …)."""
    wanted = f"a GPU of compute capability {' or '.join(capabilities)}"
    here = compute_capabilities()
    if not here:
        raise UnsupportedError(
            "GO605",
            "the engine needs an NVIDIA GPU, and there is none here",
            expected=wanted,
            next_step="Copy the artifact to a machine that has one, or compile the model for cpu.",
        )
    if not set(here) & set(capabilities):
        raise UnsupportedError(
            "GO605",
            "the engine was built for other GPUs than the one here",
            found=", ".join(here),
            expected=wanted,
            next_step=f"Compile again with --target tensorrt-rtx:{','.join([*capabilities, *here])}.",
        )


def open_engine(model: str | os.PathLike[str]) -> OrtSession:
    """A session for an ONNX model of one EPContext node; its engine lies in a file beside it.

    Raises:
        UnsupportedError: GO605, ONNX Runtime's TensorRT-RTX provider is not here or does not load.
        ModelError: GO604, the provider refuses the engine.
    """
    import onnxruntime

    if PROVIDER in onnxruntime.get_available_providers():
        return OrtSession(model, [PROVIDER], strict=True)
    return OrtSession(model, devices=_plugin_devices())


def _plugin_devices() -> list[Any]:
    """The devices that the plugin offers, after it was registered with ONNX Runtime."""
    import onnxruntime

    if importlib.util.find_spec(PLUGIN) is None:
        raise UnsupportedError(
            "GO605",
            "ONNX Runtime has no TensorRT-RTX provider here",
            expected=PROVIDER,
            next_step=f"pip install {PLUGIN.replace('_', '-')}",
        )
    try:
        with _lock, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            plugin = importlib.import_module(PLUGIN)
            if not any(device.ep_name == PROVIDER for device in onnxruntime.get_ep_devices()):
                onnxruntime.register_execution_provider_library(PROVIDER, plugin.get_library_path())
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    # Whatever a vendor's package raises while it looks for its libraries and for GPUs.
    except Exception as error:
        raise UnsupportedError(
            "GO605", "the TensorRT-RTX provider cannot be loaded", found=str(error)[:400]
        ) from error
    if not devices:
        raise UnsupportedError("GO605", "the TensorRT-RTX provider finds no GPU that it supports")
    return devices[:1]
