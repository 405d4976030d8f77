"""What is wrong with a machine's driver and libraries, planted one by one, and what is said about it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnxruntime
import pytest

from graphopt.runtime import devices
from graphopt.runtime.ort import OrtSession, _failure

CUDA = "CUDAExecutionProvider"
HAS_CUDA = CUDA in onnxruntime.get_available_providers()
pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("gcc") is None, reason="planted with gcc, on Linux"
    ),
    pytest.mark.skipif(not HAS_CUDA, reason="this ONNX Runtime was built without CUDA"),
]
Plant = Callable[..., str | None]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    caches = (devices.driver, devices.why_unusable, devices.missing_library, devices.gpu_names)
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Why CUDA is unusable under a driver library that answers as planted."""

    def planted(init: int = 0, count: int = 1, version: int = 13000, library: str | None = "") -> str | None:
        source = (
            f"int cuInit(unsigned f) {{ return {init}; }}\n"
            f"int cuDeviceGetCount(int *n) {{ *n = {count}; return 0; }}\n"
            f"int cuDriverGetVersion(int *v) {{ *v = {version}; return 0; }}\n"
            "int cuDeviceGet(int *d, int i) { *d = i; return 0; }\n"
            'int cuDeviceGetName(char *p, int n, int d) { p[0] = "AB"[d]; p[1] = 0; return 0; }\n'
        )
        (tmp_path / "driver.c").write_text(source)
        path = tmp_path / f"libdriver{init}{count}{version}.so"
        command = ["gcc", "-shared", "-fPIC", "-w", "-o", str(path), str(tmp_path / "driver.c")]
        subprocess.run(command, check=True)
        monkeypatch.setattr(devices, "_device_files", lambda: True)
        monkeypatch.setattr(devices, "_driver_library", lambda: ctypes.CDLL(str(path)))
        if library != "":
            monkeypatch.setattr(devices, "missing_library", lambda provider: library)
        return devices.why_unusable(CUDA)

    return planted


def test_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_device_files", lambda: False)
    assert devices.why_unusable(CUDA) == "no NVIDIA GPU was found"
    assert devices.cuda_device_count() == 0


def test_a_device_without_a_driver_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_device_files", lambda: True)
    monkeypatch.setattr(devices, "_driver_library", lambda: ctypes.CDLL("libcuda-of-nobody.so.1"))
    reason = devices.why_unusable(CUDA) or ""
    assert "no driver library: libcuda-of-nobody.so.1: cannot open" in reason
    assert "--gpus all" in reason


@pytest.mark.parametrize(
    ("init", "words"),
    [
        (100, "no CUDA device"),
        (803, "different versions"),
        (804, "older than"),
        (999, "reset"),
        (42, "error 42"),
    ],
)
def test_a_driver_that_does_not_start(plant: Plant, init: int, words: str) -> None:
    assert words in (plant(init=init) or "")


def test_a_driver_without_devices(plant: Plant) -> None:
    assert "offers no device" in (plant(count=0) or "")


def test_a_driver_that_is_too_old_for_this_onnxruntime(plant: Plant) -> None:
    wanted = devices.wanted_cuda()
    assert wanted is not None
    reason = plant(version=(wanted[0] - 1) * 1000 + 20) or ""
    assert f"up to {wanted[0] - 1}.2" in reason
    assert f"built for {wanted[0]}.{wanted[1]}" in reason


def test_a_good_driver_and_its_devices(plant: Plant) -> None:
    assert plant(count=2, version=13010, library=None) is None
    assert devices.driver() == devices.Driver(2, (13, 1), None)
    assert devices.gpu_names() == ("A", "B")


@pytest.mark.skipif(devices.cuda_device_count() > 0, reason="describes a machine without CUDA's libraries")
def test_a_missing_library_is_named_with_its_package(plant: Plant) -> None:
    """The real loader on the real provider."""
    reason = plant() or ""
    assert "a library is missing: lib" in reason
    assert "the Python package nvidia-" in reason


@pytest.mark.parametrize(
    ("message", "package"),
    [
        ("libcudnn.so.9: cannot open shared object file", "nvidia-cudnn"),
        ("libnvinfer.so.10: cannot open shared object file", "tensorrt"),
        ("libcublasLt.so.13: cannot open", "nvidia-cublas"),
        ("libstrange.so.1: cannot open", None),
    ],
)
def test_packages_of_libraries(message: str, package: str | None) -> None:
    text = devices._about_library(message)
    assert message in text
    assert ("the Python package" in text) == (package is not None)
    assert package is None or f"package {package} has it" in text


def test_libraries_of_pip_packages_are_found_anywhere_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "cudnn/lib/libcudnn.so.9",
        "cu13/lib/libcublas.so.13",
        "cu13/lib/libcudart.so.13",
        "cu13/lib/libother.so.1",
    ):
        path = tmp_path / "nvidia" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    found = [path.name for path in devices.packaged_libraries() if tmp_path in path.parents]
    assert found == ["libcudart.so.13", "libcublas.so.13", "libcudnn.so.9"]


# --- failures of a session on a device, as ONNX Runtime words them -----------------------------------------


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=x", "not enough memory"),
        (
            "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 94657043173376",
            "not enough memory",
        ),
        (
            "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
            "driver is too old",
        ),
        (
            "CUDA failure 209: no kernel image is available for execution on the device",
            "no code for this GPU",
        ),
        ("CUDNN failure 1: CUDNN_STATUS_NOT_INITIALIZED ; GPU=0", "cuDNN and ONNX Runtime"),
        ("TensorRT EP could not deserialize engine from cache: /x/y.engine", "remove the folder tensorrt"),
    ],
)
def test_what_to_do_about_failures_of_a_device(message: str, words: str) -> None:
    error = _failure("ONNX Runtime failed while running the model", RuntimeError(message))
    assert error.code == "GO604"
    assert words in (error.next_step or "")


def test_a_model_for_a_device_that_is_not_here_says_so() -> None:
    import onnx.parser

    text = """<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>
        g (float[1, 4, 8] x, float[8] b) => (float[1, 4, 4] y) { y = com.microsoft.BiasSplitGelu(x, b) }"""
    with pytest.raises(Exception, match="made for a device that is not here") as caught:
        OrtSession(onnx.parser.parse_model(text).SerializeToString(), [("NoSuchProvider", {})])
    assert getattr(caught.value, "code", None) == "GO604"
