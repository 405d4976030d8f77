"""What this machine has for ONNX Runtime's NVIDIA providers and what they want, found in this process.

``python -m graphopt.runtime.nvidia_report`` prints it as JSON: loading a broken driver may end a process.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from typing import Any

from graphopt.runtime import devices

WANTED_CUDNN = 9
"""The cuDNN that ONNX Runtime's builds for CUDA 12 and 13 are linked with."""

_LABELS = {"CUDAExecutionProvider": "cuda target", "TensorrtExecutionProvider": "tensorrt target"}
Finding = dict[str, str]


def report() -> list[Finding]:
    """Findings: what, status (``ok``, ``missing``, ``warn``), found, wanted, advice."""
    driver, wanted = devices.driver(), devices.wanted_cuda()
    major = None if wanted is None else wanted[0]
    rows = [_driver(driver, major)]
    if driver.devices:
        rows.append(_row("NVIDIA GPU", "ok", ", ".join(devices.gpu_names())))
    rows += _packages(major)
    for provider, label in _LABELS.items():
        reason = devices.why_unusable(provider)
        status = "ok" if reason is None else "warn" if driver.devices else "missing"
        rows.append(_row(label, status, reason or "can run here", advice=_advice(reason)))
    return rows


def _row(what: str, status: str, found: str, wanted: str = "", advice: str = "") -> Finding:
    return {"what": what, "status": status, "found": found, "wanted": wanted, "advice": advice}


def _driver(driver: devices.Driver, major: int | None) -> Finding:
    wanted = "" if major is None else f"CUDA {major} or newer"
    if driver.cuda is None:
        return _row("NVIDIA driver", "missing", driver.problem or "version unknown", wanted)
    found = f"CUDA up to {driver.cuda[0]}.{driver.cuda[1]}" + (
        f"; {driver.problem}" if driver.problem else ""
    )
    old = major is not None and driver.cuda[0] < major
    advice = "Update the NVIDIA driver, or install an ONNX Runtime for an older CUDA." if old else ""
    return _row("NVIDIA driver", "warn" if old or driver.problem else "ok", found, wanted, advice)


def _packages(major: int | None) -> list[Finding]:
    """CUDA's and cuDNN's Python packages, where there are any: those of another CUDA do not fit."""
    rows = []
    for title, stem, wanted in (
        ("CUDA packages", "nvidia-cuda-runtime", major),
        ("cuDNN packages", "nvidia-cudnn", WANTED_CUDNN if major is not None else None),
    ):
        found = _installed(stem)
        if not found or wanted is None:
            continue
        versions = [int(match[0]) for _, v in found if (match := re.match(r"\d+", v))]
        text = ", ".join(f"{name} {version}" for name, version in found)
        fits = wanted in versions
        advice = (
            "" if fits else f"pip install '{stem}' for version {wanted} (see ONNX Runtime's install page)."
        )
        rows.append(_row(title, "ok" if fits else "warn", text, f"{wanted}.x", advice))
    return rows


def _installed(stem: str) -> list[tuple[str, str]]:
    names = {
        str(d.metadata["Name"]): d.version for d in importlib.metadata.distributions() if d.metadata["Name"]
    }
    return sorted((name, version) for name, version in names.items() if name.lower().startswith(stem))


def _advice(reason: str | None) -> str:
    if reason is None or "a library is missing" not in reason:
        return ""
    if "package tensorrt" in reason:
        return "pip install tensorrt brings TensorRT along; the cuda target does without."
    return "pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA's libraries along."


def main() -> None:
    """Print the findings as one JSON document."""
    document: dict[str, Any] = {"findings": report()}
    print(json.dumps(document))


if __name__ == "__main__":
    main()
