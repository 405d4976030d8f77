"""What doctor says about driver, CUDA and cuDNN, with machines planted."""

from __future__ import annotations

import pytest

from graphopt.cli import doctor
from graphopt.runtime import devices, nvidia_report
from graphopt.runtime.devices import Driver


def told(
    monkeypatch: pytest.MonkeyPatch,
    driver: Driver,
    packages: dict[str, str] | None = None,
    reason: str | None = None,
) -> dict[str, dict[str, str]]:
    """The findings by what they are about."""

    def installed(stem: str) -> list[tuple[str, str]]:
        return sorted((name, v) for name, v in (packages or {}).items() if name.startswith(stem))

    monkeypatch.setattr(devices, "driver", lambda: driver)
    monkeypatch.setattr(devices, "wanted_cuda", lambda: (13, 0))
    monkeypatch.setattr(devices, "gpu_names", lambda: ("H100",) * driver.devices)
    monkeypatch.setattr(devices, "why_unusable", lambda provider: reason)
    monkeypatch.setattr(nvidia_report, "_installed", installed)
    return {row["what"]: row for row in nvidia_report.report()}


def test_a_machine_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {"nvidia-cuda-runtime": "13.0.96", "nvidia-cudnn-cu13": "9.14.0"}
    found = told(monkeypatch, Driver(2, (13, 1)), packages)
    assert {row["status"] for row in found.values()} == {"ok"}
    assert found["NVIDIA GPU"]["found"] == "H100, H100"
    assert (found["NVIDIA driver"]["found"], found["NVIDIA driver"]["wanted"]) == (
        "CUDA up to 13.1",
        "CUDA 13 or newer",
    )
    assert found["cuDNN packages"]["wanted"] == "9.x"


def test_an_old_driver_and_packages_of_another_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {"nvidia-cuda-runtime-cu12": "12.8.90", "nvidia-cudnn-cu12": "8.9.7"}
    found = told(monkeypatch, Driver(1, (12, 8)), packages, "too old")
    for what in ("NVIDIA driver", "CUDA packages", "cuDNN packages"):
        assert found[what]["status"] == "warn"
        assert found[what]["advice"]
    assert "12.8" in found["NVIDIA driver"]["found"]
    assert "nvidia-cudnn-cu12 8.9.7" in found["cuDNN packages"]["found"]
    assert found["cuda target"]["status"] == "warn"


def test_no_gpu_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(monkeypatch, Driver(problem="no NVIDIA GPU was found"), None, "no NVIDIA GPU was found")
    assert {row["status"] for row in found.values()} == {"missing"}


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (
            "a library is missing: libcudnn.so.9: no; the Python package nvidia-cudnn has it",
            "onnxruntime-gpu[cuda,cudnn]",
        ),
        (
            "a library is missing: libnvinfer.so.10: no; the Python package tensorrt has it",
            "pip install tensorrt",
        ),
    ],
)
def test_missing_libraries_have_advice(monkeypatch: pytest.MonkeyPatch, reason: str, advice: str) -> None:
    assert advice in told(monkeypatch, Driver(1, (13, 0)), None, reason)["tensorrt target"]["advice"]


def test_a_driver_that_kills_its_process_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    (row,) = doctor.nvidia()
    assert row["status"] == "warn"
    assert "cannot be asked" in row["found"]
