"""Targets: what a model is compiled for, and the devices behind the names."""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from graphopt.errors import UsageError

KINDS: dict[str, str] = {
    "cpu": "ONNX Runtime on the CPU",
    "xla-cpu": "XLA on the CPU",
    "cuda": "ONNX Runtime with the CUDA execution provider",
    "tensorrt": "ONNX Runtime with the TensorRT execution provider",
    "tensorrt-rtx": "TensorRT-RTX engines for named compute capabilities",
    "xla-gpu": "XLA on an NVIDIA GPU",
    "tpu": "XLA on a Google TPU",
}


CAPABILITIES: dict[str, str] = {
    "sm75": "Turing: RTX 20, T4; no bfloat16, no float32 matrix products",
    "sm80": "Ampere: A100, A30",
    "sm86": "Ampere: RTX 30, A10, A40",
    "sm89": "Ada: RTX 40, L4, L40",
    "sm120": "Blackwell: RTX 50, RTX PRO 6000",
    "sm121": "Blackwell: GB10",
}
"""Compute capabilities that TensorRT-RTX builds for (1.7), with GPUs that have them.
Source: NVIDIA, TensorRT-RTX support matrix, and the CUDA GPUs page."""


@dataclasses.dataclass(frozen=True)
class Device:
    """One accelerator chip, from the device table (``devices.toml``, which names its sources).

    Attributes:
        name: ``v5e``, ``h100``, …
        topology: for TPUs, the smallest topology the compiler takes, ``v5e:2x2``.
        clock_hz: core clock that cycle counts are converted to time with; None if not published.
        hbm_bytes: memory of one chip, in bytes.
        hbm_bytes_per_s: memory bandwidth, in bytes per second.
        flops: peak operations per second by precision.
        devices_per_chip: programs that run on one chip at once, each with an equal part of it.
    """

    name: str
    kind: str
    title: str
    topology: str | None
    clock_hz: float | None
    hbm_bytes: int
    hbm_bytes_per_s: float
    flops: dict[str, float]
    source: str
    devices_per_chip: int = 1

    def per_program(self) -> Device:
        """The part of the chip that one program has: what its cycles, bytes and peak are held against."""
        parts = self.devices_per_chip
        return dataclasses.replace(
            self,
            hbm_bytes=self.hbm_bytes // parts,
            hbm_bytes_per_s=self.hbm_bytes_per_s / parts,
            flops={name: rate / parts for name, rate in self.flops.items()},
        )


class SizeRange(NamedTuple):
    """What a TensorRT engine is built for: the least, the best and the largest size of a dimension."""

    least: int
    best: int
    most: int


@dataclasses.dataclass(frozen=True)
class Target:
    """What to compile for: a kind, and for some kinds a device and a slice of devices.

    Written ``cpu``, ``xla-cpu``, ``cuda``, ``tensorrt``, ``tensorrt-rtx:sm89,sm120``,
    ``xla-gpu:h100``, ``tpu``, ``tpu:v5e``, ``tpu:v5p:4x4x4``.
    """

    kind: str
    device: str | None = None
    topology: str | None = None
    capabilities: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            self.kind,
            *([self.device] if self.device else []),
            *([self.topology] if self.topology else []),
        ]
        return ":".join([*parts, *([",".join(self.capabilities)] if self.capabilities else [])])

    @property
    def is_xla(self) -> bool:
        """Whether the XLA lowering serves this target (else ONNX Runtime and TensorRT do)."""
        return self.kind in ("xla-cpu", "xla-gpu", "tpu")

    @property
    def is_ahead_of_time(self) -> bool:
        """Whether XLA compiles for it here, once and for fixed shapes, for a device that need not be here."""
        return self.kind in ("xla-gpu", "tpu")

    @classmethod
    def parse(cls, text: str | Target) -> Target:
        """The target that `text` names. Raises UsageError (GO702) with the choices."""
        if isinstance(text, Target):
            return text
        kind, _, rest = text.strip().partition(":")
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=2)
            raise UsageError(
                "GO702",
                f"unknown target {text!r}",
                expected=("" if len(near) == 1 else "one of ") + ", ".join(near or KINDS),
                next_step="`graphopt targets` lists all of them.",
            )
        if kind == "tpu":
            return _parse_tpu(rest)
        if kind == "xla-gpu":
            return cls(kind, device=_device(rest or "h100", "gpu").name)
        if kind == "tensorrt-rtx":
            return cls(kind, capabilities=_capabilities(rest))
        if rest:
            raise UsageError("GO702", f"the target {kind} takes no device", found=repr(text), expected=kind)
        return cls(kind)


def _parse_tpu(rest: str) -> Target:
    name, _, topology = rest.partition(":")
    device = _device(name or "v5e", "tpu")
    if not topology:
        return Target("tpu", device=device.name)
    if not re.fullmatch(r"\d{1,3}(x\d{1,3}){1,2}", topology):
        raise UsageError(
            "GO702", "a TPU slice is written like 2x2 or 4x4x4", where=f"tpu:{rest}", found=repr(topology)
        )
    return Target("tpu", device=device.name, topology=topology)


def _capabilities(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip())) or ("sm89",)
    for name in names:
        if name not in CAPABILITIES:
            raise UsageError(
                "GO702",
                "TensorRT-RTX builds for no such compute capability",
                where="tensorrt-rtx",
                found=repr(name),
                expected=f"one of {', '.join(CAPABILITIES)}",
                next_step="The targets tensorrt and xla-gpu serve data-centre GPUs too.",
            )
    return names


def _device(name: str, kind: str) -> Device:
    table = devices(kind)
    if name not in table:
        raise UsageError(
            "GO702",
            f"unknown {kind.upper()} {name!r}",
            expected=f"one of {', '.join(table)}",
            next_step="`graphopt targets` lists all of them.",
        )
    return table[name]


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((resources.files("graphopt") / "devices.toml").read_text(encoding="utf-8"))


@cache
def devices(kind: str) -> dict[str, Device]:
    """The devices of `kind` (``tpu`` or ``gpu``) by name."""
    rows = _table()[kind]
    return {
        name: Device(
            name=name,
            kind=kind,
            title=row["title"],
            topology=row.get("topology"),
            clock_hz=row.get("clock_mhz", 0) * 1e6 or None,
            hbm_bytes=int(row["hbm_gb"] * 1e9) if "hbm_gb" in row else int(row["hbm_gib"] * 2**30),
            hbm_bytes_per_s=row["hbm_gb_per_s"] * 1e9,
            flops={k.removesuffix("_tflops"): v * 1e12 for k, v in row.items() if k.endswith("_tflops")},
            source=row["source"],
            devices_per_chip=row.get("devices_per_chip", 1),
        )
        for name, row in rows.items()
    }


def device_of(target: Target) -> Device | None:
    """The device of `target`, if it names one that the table knows."""
    if target.kind == "tpu" and target.device:
        return devices("tpu")[target.device]
    if target.kind == "xla-gpu" and target.device:
        return devices("gpu")[target.device]
    return None
