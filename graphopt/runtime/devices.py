"""Find out, quietly, which ONNX Runtime providers can really be used on this machine."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
import threading
from functools import cache
from pathlib import Path

_LIBRARIES = {
    "CUDAExecutionProvider": "libonnxruntime_providers_cuda.so",
    "TensorrtExecutionProvider": "libonnxruntime_providers_tensorrt.so",
}
NVIDIA_PROVIDERS = frozenset(_LIBRARIES)

_preload_lock = threading.Lock()


@cache
def cuda_device_count() -> int:
    """The number of CUDA devices that the NVIDIA driver offers; 0 without a driver."""
    if sys.platform.startswith("linux"):
        # Without a device file there is no device, and no reason to load the driver.
        nodes = [*Path("/dev").glob("nvidia[0-9]*"), Path("/dev/nvidiactl"), Path("/dev/dxg")]
        nodes += [Path("/dev/nvhost-ctrl-gpu"), Path("/dev/nvmap")]
        if not any(node.exists() for node in nodes):
            return 0
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


@cache
def gpu_names() -> tuple[str, ...]:
    """The names of the CUDA devices that the driver offers."""
    names = []
    for index in range(cuda_device_count()):
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        handle, buffer = ctypes.c_int(), ctypes.create_string_buffer(256)
        if driver.cuDeviceGet(ctypes.byref(handle), index) == 0:
            driver.cuDeviceGetName(buffer, len(buffer), handle)
        names.append(buffer.value.decode(errors="replace") or "unknown")
    return tuple(names)


@cache
def why_unusable(provider: str) -> str | None:
    """Why `provider` cannot be used on this machine; None if, as far as can be told, it can.

    A provider that ONNX Runtime lists as available may still lack its device or its libraries. Both
    are looked for here first, because ONNX Runtime would print its own errors about them.
    """
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        return "the installed ONNX Runtime was built without it"
    if provider not in NVIDIA_PROVIDERS:
        return None
    if cuda_device_count() == 0:
        return "no NVIDIA GPU was found"
    _preload()
    return _missing_library(provider)


def _preload() -> None:
    """Load the CUDA libraries that pip installed, if there are any, without a word on the screen."""
    import onnxruntime

    with _preload_lock, contextlib.redirect_stdout(io.StringIO()):
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()


def _missing_library(provider: str) -> str | None:
    """What the loader says if the provider's library cannot be loaded (asked on Linux only)."""
    import onnxruntime

    if not sys.platform.startswith("linux"):
        return None
    folder = Path(onnxruntime.__file__).parent / "capi"
    shared = folder / "libonnxruntime_providers_shared.so"
    library = folder / _LIBRARIES[provider]
    if not shared.is_file() or not library.is_file():
        return None
    try:
        ctypes.CDLL(str(shared), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return f"a library is missing: {str(error).splitlines()[0]}"
    return None
