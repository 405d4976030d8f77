"""Find out, quietly, which ONNX Runtime providers can really be used on this machine, and why not."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import re
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

_LIBRARIES = {
    "CUDAExecutionProvider": "libonnxruntime_providers_cuda.so",
    "TensorrtExecutionProvider": "libonnxruntime_providers_tensorrt.so",
}
NVIDIA_PROVIDERS = frozenset(_LIBRARIES)

PACKAGES = {
    "libcublas": "nvidia-cublas",
    "libcublasLt": "nvidia-cublas",
    "libcudart": "nvidia-cuda-runtime",
    "libcudnn": "nvidia-cudnn",
    "libcufft": "nvidia-cufft",
    "libcurand": "nvidia-curand",
    "libnvrtc": "nvidia-cuda-nvrtc",
    "libnvinfer": "tensorrt",
    "libnvonnxparser": "tensorrt",
}
"""Library → the Python package that has it (for CUDA 12 and older, and cuDNN, with -cu12 and so on)."""

LOADED_BEFORE = ("cudart", "nvJitLink", "nvrtc", "cublasLt", "cublas", "curand", "cufft", "cudnn")
"""Libraries of NVIDIA's Python packages that are loaded before a provider, in an order that works."""

_INIT_ERRORS = {
    100: "the driver finds no CUDA device",
    803: "the driver's kernel module and its library are of different versions: restart the machine",
    804: "the driver is older than the compatibility libraries that were found",
    999: "the driver failed: restart the machine, or reset the GPU",
}
"""What cuInit returns, in words (cuda.h: CUresult)."""

_preload_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Driver:
    """The NVIDIA driver.

    Attributes:
        devices: how many CUDA devices it offers.
        cuda: the newest CUDA (major, minor) that it serves; None if nobody knows.
        problem: why it offers none.
    """

    devices: int = 0
    cuda: tuple[int, int] | None = None
    problem: str | None = None


@cache
def driver() -> Driver:
    """The NVIDIA driver of this machine; without a device file it is not even loaded."""
    if sys.platform.startswith("linux") and not _device_files():
        return Driver(problem="no NVIDIA GPU was found")
    try:
        library = _driver_library()
    except OSError as error:
        return Driver(
            problem="there is an NVIDIA GPU, but no driver library: "
            f"{str(error).splitlines()[0]} (in a container: give it the GPU, as with --gpus all)"
        )
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    cuda = None
    if library.cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value:
        cuda = (version.value // 1000, version.value % 1000 // 10)
    status = library.cuInit(0)
    if status == 0:
        status = library.cuDeviceGetCount(ctypes.byref(count))
    if status != 0:
        return Driver(0, cuda, _INIT_ERRORS.get(status, f"the NVIDIA driver gives error {status}"))
    return Driver(count.value, cuda, None if count.value else "the NVIDIA driver offers no device")


def _device_files() -> bool:
    nodes = [*Path("/dev").glob("nvidia[0-9]*"), Path("/dev/nvidiactl"), Path("/dev/dxg")]
    nodes += [Path("/dev/nvhost-ctrl-gpu"), Path("/dev/nvmap")]
    return any(node.exists() for node in nodes)


def _driver_library() -> Any:
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def cuda_device_count() -> int:
    """The number of CUDA devices that the NVIDIA driver offers; 0 without a driver."""
    return driver().devices


@cache
def gpu_names() -> tuple[str, ...]:
    """The names of the CUDA devices that the driver offers."""
    names = []
    for index in range(cuda_device_count()):
        library, handle, buffer = _driver_library(), ctypes.c_int(), ctypes.create_string_buffer(256)
        if library.cuDeviceGet(ctypes.byref(handle), index) == 0:
            library.cuDeviceGetName(buffer, len(buffer), handle)
        names.append(buffer.value.decode(errors="replace") or "unknown")
    return tuple(names)


def wanted_cuda() -> tuple[int, int] | None:
    """The CUDA (major, minor) that the installed ONNX Runtime was built for; None for a build without."""
    import onnxruntime

    match = re.match(r"(\d+)\.(\d+)", str(getattr(onnxruntime, "cuda_version", None) or ""))
    return None if match is None else (int(match[1]), int(match[2]))


_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""The driver's numbers of these two attributes of a device (cuda.h)."""


@cache
def compute_capabilities() -> tuple[str, ...]:
    """What the CUDA devices here are, in their order: ``sm89``, …; nothing without a driver."""
    count = cuda_device_count()
    if not count:
        return ()
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    found = []
    for index in range(count):
        device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        found.append(f"sm{major.value}{minor.value}")
    return tuple(found)


@cache
def why_unusable(provider: str) -> str | None:
    """Why `provider` cannot be used on this machine; None if, as far as can be told, it can.

    A provider that ONNX Runtime lists as available may still lack its device, a driver that is new enough
    or its libraries. All are looked at here first, because ONNX Runtime would print its own errors about
    them.
    """
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        return "the installed ONNX Runtime was built without it"
    if provider not in NVIDIA_PROVIDERS:
        return None
    found, wanted = driver(), wanted_cuda()
    if found.devices == 0:
        return found.problem or "no NVIDIA GPU was found"
    if found.cuda is not None and wanted is not None and found.cuda[0] < wanted[0]:
        return (
            f"the NVIDIA driver is too old: it serves CUDA up to {_dotted(found.cuda)}, "
            f"and ONNX Runtime was built for {_dotted(wanted)}"
        )
    _preload()
    return missing_library(provider)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _preload() -> None:
    """Load the CUDA libraries that pip installed, if there are any, without a word on the screen.

    ONNX Runtime's own way looks beside its own package only; a virtual environment over another one has
    NVIDIA's packages elsewhere.
    """
    import onnxruntime

    with _preload_lock, contextlib.redirect_stdout(io.StringIO()):
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        for path in packaged_libraries():
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def packaged_libraries() -> list[Path]:
    """The libraries of NVIDIA's Python packages that a provider needs, in the order to load them in."""
    found: list[tuple[int, Path]] = []
    for path in _packaged():
        match = re.match(r"lib(\w+?)\.so", path.name)
        if match is not None and match[1] in LOADED_BEFORE:
            found.append((LOADED_BEFORE.index(match[1]), path))
    return [path for _, path in sorted(found)]


def _packaged() -> Iterator[Path]:
    for entry in sys.path:
        root = Path(entry) / "nvidia"
        if root.is_dir():
            yield from root.glob("*/lib/lib*.so.*")


@cache
def missing_library(provider: str) -> str | None:
    """Which library `provider` lacks, and the package that has it (asked on Linux only)."""
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
        return _about_library(str(error).splitlines()[0])
    return None


def _about_library(message: str) -> str:
    """The loader's message, with where the library is from."""
    match = re.match(r"(lib\w+)\.so", message)
    package = None if match is None else PACKAGES.get(match[1])
    if package is None:
        return f"a library is missing: {message}"
    return f"a library is missing: {message}; the Python package {package} has it"
