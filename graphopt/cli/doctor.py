"""graphopt doctor: whether this machine has what graphopt needs, and what would help."""

from __future__ import annotations

import importlib.util
import json as json_module
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer

from graphopt.cli import options
from graphopt.cli.output import Output, size
from graphopt.errors import EXIT_INTERNAL

CHILD_TIMEOUT_S = 60
MIN_DISK_BYTES = 1 << 30
MIN_MEMORY_BYTES = 2 << 30

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;\s*(.*))?")

Finding = dict[str, Any]


def doctor(*, json: options.Json = False, verbose: options.Verbose = 0, quiet: options.Quiet = False) -> None:
    """Check packages, compilers, devices, memory and disk.

    The exit code is 1 if something that graphopt requires is broken.
    """
    output = Output(json, verbose, quiet)
    from graphopt.cli.progress import Progress

    with Progress(output) as progress:
        progress.say("look at packages")
        findings = [_python(), *packages()]
        progress.say("load ONNX Runtime and JAX in child processes")
        findings += [_loads("onnxruntime", _ORT_PROBE), _loads("jax", _JAX_PROBE)]
        progress.say("look at devices")
        findings += [tpu_compiler(), *gpu_compilers(), *_devices(), memory(), disk()]
    broken = any(f["status"] == "broken" for f in findings)
    output.document("graphopt.doctor/1", {"ok": not broken, "findings": findings})
    output.table(
        ["", "what", "found", "wanted"], [(f["status"], f["what"], f["found"], f["wanted"]) for f in findings]
    )
    for finding in findings:
        if finding["advice"]:
            output.line(f"  {finding['what']}: {finding['advice']}")
    output.line()
    output.line("Something required is broken." if broken else "Everything that is required is here.", "bold")
    if broken:
        raise typer.Exit(EXIT_INTERNAL)


def _finding(what: str, status: str, found: object, wanted: str = "", advice: str = "") -> Finding:
    """`status`: ``ok``, ``missing`` (optional and not here), ``warn`` or ``broken`` (required)."""
    return {"what": what, "status": status, "found": str(found), "wanted": wanted, "advice": advice}


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return _finding("Python", "ok" if sys.version_info >= (3, 11) else "broken", found, ">=3.11")


def packages() -> list[Finding]:
    """Every distribution that graphopt requires here, against the versions that it wants."""
    import importlib.metadata

    try:
        required = importlib.metadata.requires("graphopt") or []
    except importlib.metadata.PackageNotFoundError:
        return [_finding("graphopt", "warn", "not installed", advice="Run from a checkout: pip install -e .")]
    found: list[Finding] = []
    for text in required:
        match = _REQUIREMENT.match(text)
        if match is None or "extra" in (match.group(3) or "") or match.group(1).startswith("onnxruntime"):
            continue
        found.append(_package(match.group(1), match.group(2).strip()))
    return found


def _package(name: str, wanted: str) -> Finding:
    import importlib.metadata

    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _finding(name, "broken", "missing", wanted, f"pip install '{name}{wanted}'")
    if satisfies(version, wanted):
        return _finding(name, "ok", version, wanted)
    return _finding(name, "broken", version, wanted, f"pip install '{name}{wanted}'")


def satisfies(version: str, wanted: str) -> bool:
    """Whether `version` lies in a range such as ``>=1.1,<2``."""
    have = _numbers(version)
    for part in filter(None, (p.strip() for p in wanted.split(","))):
        match = re.match(r"(>=|<=|==|!=|<|>)\s*(.+)", part)
        if match is None:
            continue
        want = _numbers(match.group(2))
        width = max(len(have), len(want))
        a, b = ((*v, *[0] * (width - len(v))) for v in (have, want))
        ok = {">=": a >= b, "<=": a <= b, "==": a == b, "!=": a != b, "<": a < b, ">": a > b}[match.group(1)]
        if not ok:
            return False
    return True


def _numbers(version: str) -> list[int]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return [int(n) for n in match.group().split(".")] if match else [0]


_ORT_PROBE = "import onnxruntime as o; print(o.__version__, *o.get_available_providers(), sep=chr(10))"
_JAX_PROBE = "import jax; print(jax.__version__, jax.devices('cpu')[0].device_kind, sep=chr(10))"


def _loads(module: str, probe: str) -> Finding:
    """Whether a native library loads, tried in a child: a broken one may take its process down."""
    if importlib.util.find_spec(module) is None:
        return _finding(module, "broken", "missing", advice=f"pip install {module}")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", probe],
            capture_output=True,
            text=True,
            timeout=CHILD_TIMEOUT_S,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _finding(module, "broken", f"does not load: {error}", advice=f"Reinstall {module}.")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return _finding(module, "broken", f"does not load: {last[:200]}", advice=f"Reinstall {module}.")
    lines = done.stdout.split("\n")
    return _finding(f"{module} loads", "ok", f"{lines[0]}: {', '.join(filter(None, lines[1:]))}")


def tpu_compiler() -> Finding:
    """The TPU compiler, which works without a TPU."""
    import importlib.metadata

    if importlib.util.find_spec("libtpu") is None:
        return _finding(
            "TPU compiler",
            "missing",
            "no libtpu",
            advice="pip install 'graphopt[tpu]' compiles for TPUs here.",
        )
    return _finding("TPU compiler", "ok", f"libtpu {importlib.metadata.version('libtpu')}")


def gpu_compilers() -> list[Finding]:
    """The compilers for NVIDIA GPUs that work without one; with one, also what runs engines on it."""
    from graphopt import platforms

    found = [
        _optional("TensorRT-RTX", "tensorrt_rtx", "graphopt[tensorrt-rtx]", "builds engines with no GPU."),
        _optional("XLA:GPU", "jax-cuda13-plugin", "graphopt[xla-gpu]", "compiles for GPUs with none."),
    ]
    if platforms.has_nvidia_gpu():
        plugin = "onnxruntime-ep-nv-tensorrt-rtx"
        found.append(_optional("TensorRT-RTX provider", plugin, plugin, "lets ONNX Runtime run engines."))
    return found


def _optional(title: str, package: str, install: str, does: str) -> Finding:
    import importlib.metadata

    try:
        return _finding(title, "ok", f"{package} {importlib.metadata.version(package)}")
    except importlib.metadata.PackageNotFoundError:
        return _finding(title, "missing", f"no {package}", advice=f"pip install '{install}' {does}")


def _devices() -> list[Finding]:
    from graphopt import platforms

    tpu = _finding("TPU", "ok", "here") if platforms.has_tpu() else _finding("TPU", "missing", "none here")
    return [tpu, *nvidia()]


def nvidia() -> list[Finding]:
    """The NVIDIA driver, GPUs and libraries, and whether ONNX Runtime can use them; found in a child."""
    command = [sys.executable, "-m", "graphopt.runtime.nvidia_report"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=CHILD_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        found: list[Finding] = json_module.loads(done.stdout.splitlines()[-1])["findings"]
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError, KeyError) as error:
        text = f"cannot be asked: {type(error).__name__}"
        return [_finding("NVIDIA GPU", "warn", text, advice="Reinstall the NVIDIA driver or ONNX Runtime.")]
    return found


def memory() -> Finding:
    """Memory that is free for work."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return _finding("memory", "ok", "unknown")
    match = re.search(r"MemAvailable:\s+(\d+) kB", text)
    free = int(match.group(1)) * 1024 if match else 0
    low = free < MIN_MEMORY_BYTES
    advice = "Compiling for a TPU takes a few GiB." if low else ""
    return _finding("free memory", "warn" if low else "ok", size(free), f">={size(MIN_MEMORY_BYTES)}", advice)


def disk() -> Finding:
    """Free space where temporary files go."""
    import tempfile

    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    low = free < MIN_DISK_BYTES
    return _finding(
        f"free space in {folder}", "warn" if low else "ok", size(free), f">={size(MIN_DISK_BYTES)}"
    )
