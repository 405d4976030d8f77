"""Ahead-of-time compilation with the vendor's own compiler, in a child process, with no device.

libtpu compiles for every TPU generation on a plain CPU machine when it is told a topology instead
of looking for chips. The child gets the environment that this takes; the user's process does not.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphopt.errors import LoweringError, UnsupportedError, UsageError
from graphopt.target import Target, device_of

TOPOLOGY_PREFIX = {"v7x": "tpu7x"}
TIMEOUT_S = 3600.0
MEMORY_BYTES = 64 << 30

_TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Two compilers at once: without this the second one is aborted by a lock file.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a vendor's compiler made of a program.

    Attributes:
        executable: the serialised executable.
        hlo: the scheduled module as text, with the compiler's cost figures.
        memory: bytes of arguments, outputs, temporaries, aliases and generated code.
        flops, bytes_accessed: the compiler's count for the whole program.
        compiler: its name and version.
        seconds: wall time of the child.
    """

    executable: bytes
    hlo: str
    memory: dict[str, int]
    flops: float
    bytes_accessed: float
    device_kind: str
    compiler: str
    topology: str
    seconds: float

    @property
    def hbm_bytes(self) -> int:
        """Device memory in use while the program runs: arguments, outputs, temporaries and code."""
        m = self.memory
        return m["argument"] + m["output"] + m["temp"] + m["generated_code"] - m["alias"]


def tpu_compiler_installed() -> bool:
    """Whether libtpu is installed (it is not imported to find out)."""
    return importlib.util.find_spec("libtpu") is not None


def topology_name(target: Target) -> str:
    """The compiler's name of the target's slice: ``v5e:2x2``, ``tpu7x:2x2x1``."""
    device = device_of(target)
    if device is None or device.topology is None:
        raise UsageError("GO702", "the target names no TPU", found=str(target))
    return f"{TOPOLOGY_PREFIX.get(device.name, device.name)}:{target.topology or device.topology}"


def compile_for_tpu(
    program: bytes,
    target: Target,
    *,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
    tick: Callable[[float], None] | None = None,
) -> Compiled:
    """Compile an exported program with libtpu for one chip of the target's topology.

    Args:
        program: what :func:`graphopt.lowering.xla.export.export_program` made, with static shapes.
        tick: called about ten times a second with the seconds since the start (for progress).

    Raises:
        UnsupportedError: GO207, libtpu is not installed.
        LoweringError: GO206, the compiler refused the program, crashed, or went over a limit.
    """
    if not tpu_compiler_installed():
        raise UnsupportedError(
            "GO207", "the TPU compiler is not installed", next_step="pip install 'graphopt[tpu]' adds libtpu."
        )
    name = topology_name(target)
    with tempfile.TemporaryDirectory(prefix="graphopt-aot-") as scratch:
        folder = Path(scratch)
        (folder / "program.bin").write_bytes(program)
        request = {"platform": "tpu", "topology": {"topology_name": name}}
        (folder / "request.json").write_text(json.dumps(request))
        started = time.monotonic()
        _run_worker(folder, name, timeout_s, memory_bytes, tick)
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        return Compiled(
            executable=(folder / "executable.bin").read_bytes(),
            hlo=(folder / "compiled.hlo.txt").read_text(),
            memory=result["memory"],
            flops=result["flops"],
            bytes_accessed=result["bytes_accessed"],
            device_kind=result["device_kind"],
            compiler=result["compiler"],
            topology=name,
            seconds=time.monotonic() - started,
        )


def _run_worker(
    folder: Path, name: str, timeout_s: float, memory_bytes: int, tick: Callable[[float], None] | None
) -> None:
    environment = {**os.environ, **_TPU_ENVIRONMENT, "TMPDIR": str(folder)}
    for leaked in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64"):
        environment.pop(leaked, None)
    log = folder / "log.txt"
    started = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "graphopt.lowering.xla.aot_worker", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                elapsed = time.monotonic() - started
                if elapsed > timeout_s:
                    raise LoweringError(
                        "GO206", f"the TPU compiler took over {timeout_s:.0f} s and was stopped", where=name
                    )
                if _resident_bytes(process.pid) > memory_bytes:
                    raise LoweringError(
                        "GO206",
                        f"the TPU compiler used over {memory_bytes >> 30} GiB and was stopped",
                        where=name,
                    )
                if tick is not None:
                    tick(elapsed)
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0 or not (folder / "result.json").exists():
        raise _failure(process.returncode, log.read_text(errors="replace"), name)


def _resident_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(match.group(1)) * 1024 if match else 0


def _failure(code: int, log: str, name: str) -> LoweringError:
    """The compiler's own last words as an error."""
    if code < 0:
        return LoweringError("GO206", f"the TPU compiler was killed by signal {-code}", where=name)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b.*:", line)]
    reason = errors[-1] if errors else (lines[-1] if lines else f"exit code {code}")
    if "hbm" in reason.lower() and ("RESOURCE_EXHAUSTED" in reason or "exceed" in reason.lower()):
        return LoweringError(
            "GO206",
            "the program does not fit into the chip's memory",
            where=name,
            found=reason[:400],
            next_step="Use a smaller batch (--dim), --precision bf16, or a chip with more memory.",
        )
    if "topology" in reason.lower() or "Invalid chip" in reason:
        return LoweringError(
            "GO206", "the TPU compiler does not know this slice", where=name, found=reason[:300]
        )
    return LoweringError("GO206", "the TPU compiler refused the program", where=name, found=reason[:600])
