"""graphopt targets: what can be compiled for, the devices' figures, and what is installed here."""

from __future__ import annotations

import importlib.util
from typing import Any

from graphopt.cli import options
from graphopt.cli.output import Output, size

NEEDS: dict[str, tuple[str, ...]] = {
    "cpu": ("onnxruntime",),
    "xla-cpu": ("jax",),
    "cuda": ("onnxruntime",),
    "tensorrt": ("onnxruntime",),
    "tensorrt-rtx": ("tensorrt_rtx",),
    "xla-gpu": ("jax",),
    "tpu": ("jax", "libtpu"),
}
"""Modules that compile for a kind of target."""

GPU_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
"""JAX's packages with XLA:GPU, one of which is needed."""


def targets(
    *, json: options.Json = False, verbose: options.Verbose = 0, quiet: options.Quiet = False
) -> None:
    """List the targets, their devices and what is installed here."""
    output = Output(json, verbose, quiet)
    from graphopt.target import CAPABILITIES, KINDS, devices

    kinds = [{"kind": kind, "what": what, **status(kind)} for kind, what in KINDS.items()]
    table = {kind: devices(kind) for kind in ("tpu", "gpu")}
    output.document(
        "graphopt.targets/1",
        {
            "targets": kinds,
            "devices": {
                kind: [
                    {
                        "name": d.name,
                        "title": d.title,
                        "smallest_topology": d.topology,
                        "clock_hz": d.clock_hz,
                        "hbm_bytes": d.hbm_bytes,
                        "hbm_bytes_per_s": d.hbm_bytes_per_s,
                        "flops_per_s": d.flops,
                        "source": d.source,
                    }
                    for d in found.values()
                ]
                for kind, found in table.items()
            },
            "capabilities": CAPABILITIES,
        },
    )
    output.table(
        ["target", "what", "compiles here", "runs here"],
        [(k["kind"], k["what"], k["compiles_here"], k["runs_here"]) for k in kinds],
    )
    for kind, found in table.items():
        rows = [
            (
                f"tpu:{d.name}" if kind == "tpu" else d.name,
                d.title,
                d.topology or "",
                f"{d.clock_hz / 1e6:.0f}" if d.clock_hz else "?",
                size(d.hbm_bytes),
                f"{d.hbm_bytes_per_s / 1e9:,.0f}",
                ", ".join(f"{name} {rate / 1e12:g}" for name, rate in d.flops.items()),
            )
            for d in found.values()
        ]
        output.table(
            ["name", "device", "smallest", ">MHz", ">memory", ">GB/s", "peak 10^12/s"],
            rows,
            title=f"{kind.upper()}s",
        )
    output.table(
        ["capability", "GPUs"],
        list(CAPABILITIES.items()),
        title="tensorrt-rtx:CAPABILITY,…",
    )
    output.line()
    output.line("Sources:")
    for found in table.values():
        for device in found.values():
            output.line(f"  {device.name}: {device.source}")


def status(kind: str) -> dict[str, Any]:
    """Whether models can be compiled for `kind` and run on it here, in words."""
    from graphopt import platforms

    missing = [name for name in NEEDS[kind] if importlib.util.find_spec(name) is None]
    compiles = f"no: {', '.join(missing)} missing" if missing else "yes"
    if kind == "tpu":
        if missing == ["libtpu"]:
            compiles = "portable program only: libtpu missing (pip install 'graphopt[tpu]')"
        runs = "yes" if platforms.has_tpu() and not missing else "on the CPU (no TPU here)"
    elif kind in ("cuda", "tensorrt"):
        runs = (
            "if `graphopt doctor` agrees" if platforms.has_nvidia_gpu() else "on the CPU (no NVIDIA GPU here)"
        )
    elif kind in ("tensorrt-rtx", "xla-gpu"):
        if kind == "xla-gpu" and not any(map(importlib.util.find_spec, GPU_PLUGINS)):
            missing, compiles = [GPU_PLUGINS[0]], f"no: {GPU_PLUGINS[0]} missing"
        if missing:
            compiles += f" (pip install 'graphopt[{kind}]')"
        runs = "if `graphopt doctor` agrees" if platforms.has_nvidia_gpu() else "no (no NVIDIA GPU here)"
    else:
        runs = compiles
    return {"compiles_here": compiles, "runs_here": runs}
