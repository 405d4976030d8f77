"""Ahead-of-time compilation with the vendor's own compiler, in a child process, with no device.

libtpu compiles for every TPU generation on a plain CPU machine when it is told a topology instead
of looking for chips, and XLA:GPU for every GPU that it is given a description of. The child gets the
environment that this takes; the user's process does not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt import cache as caching
from graphopt.errors import LoweringError, UnsupportedError, UsageError
from graphopt.lowering.child import Ending, Tick
from graphopt.lowering.vendor import Job, Limits, run_job
from graphopt.lowering.xla.gpu_target import target_config
from graphopt.target import Target, device_of

TOPOLOGY_PREFIX = {"v7x": "tpu7x"}
GPU_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
GPU_INSTALL = "pip install 'graphopt[xla-gpu]' adds it ('graphopt[xla-gpu-compiler]': only what compiles)."
WORKER = "graphopt.lowering.xla.aot_worker"
CACHE_FORMAT = 1

_QUIET = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}

_TPU_ENVIRONMENT = {
    **_QUIET,
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    # Two compilers at once: without this the second one is aborted by a lock file.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

_LEFT_OUT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64", "JAX_COMPILATION_CACHE_DIR")
"""Settings of the user's that would change what is compiled, or keep it elsewhere."""

_OUTPUTS = ("executable.bin", "compiled.hlo.txt", "result.json")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a vendor's compiler made of a program.

    Attributes:
        executable: the serialised executable.
        hlo: the scheduled module as text, with the compiler's cost figures.
        memory: bytes of arguments, outputs, temporaries, aliases and generated code.
        flops, bytes_accessed: the compiler's count for the whole program.
        compiler: its name and version.
        seconds: wall time of the child, or of finding it in the cache.
        cached: whether it came from the compile cache.
        remark: what is worth knowing about the cache: an entry was corrupt, the folder is read-only.
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
    cached: bool = False
    remark: str | None = None

    @property
    def hbm_bytes(self) -> int:
        """Device memory in use while the program runs: arguments, outputs, temporaries and code."""
        m = self.memory
        return m["argument"] + m["output"] + m["temp"] + m["generated_code"] - m["alias"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compiled for, and by what.

    Attributes:
        platform: as JAX calls it.
        topology: what ``get_topology_desc`` takes besides.
        name: of the device or the slice, for errors and reports.
        compiler: in words.
        version: the compiler's name and version.
        kind: of target.
    """

    platform: str
    topology: Mapping[str, str]
    name: str
    compiler: str
    version: str
    kind: str
    environment: Mapping[str, str]


def tpu_compiler_installed() -> bool:
    """Whether libtpu is installed (it is not imported to find out)."""
    return importlib.util.find_spec("libtpu") is not None


def gpu_compiler_installed() -> bool:
    """Whether XLA:GPU is installed (it is not imported to find out)."""
    return any(importlib.util.find_spec(name) is not None for name in GPU_PLUGINS)


def require_gpu_compiler() -> None:
    """Raise UnsupportedError (GO207) with the command that installs XLA:GPU, if it is not."""
    if not gpu_compiler_installed():
        raise UnsupportedError("GO207", "XLA:GPU is not installed", next_step=GPU_INSTALL)


def topology_name(target: Target) -> str:
    """The compiler's name of the target's slice: ``v5e:2x2``, ``tpu7x:2x2x1``."""
    device = device_of(target)
    if device is None or device.topology is None:
        raise UsageError("GO702", "the target names no TPU", found=str(target))
    return f"{TOPOLOGY_PREFIX.get(device.name, device.name)}:{target.topology or device.topology}"


def tpu_plan(target: Target) -> Plan:
    """How programs are compiled for a TPU."""
    name = topology_name(target)
    return Plan(
        platform="tpu",
        topology={"topology_name": name},
        name=name,
        compiler="the TPU compiler",
        version=f"libtpu {_version('libtpu')}",
        kind="tpu",
        environment=_TPU_ENVIRONMENT,
    )


def gpu_plan(target: Target) -> Plan:
    """How programs are compiled for a GPU, of which nothing but its description is here."""
    name = target.device or ""
    plugin = next((p for p in GPU_PLUGINS if importlib.util.find_spec(p) is not None), GPU_PLUGINS[0])
    return Plan(
        platform="cuda",
        topology={"topology_name": name, "topology": "1x1x1", "target_config": target_config(name)},
        name=name,
        compiler="XLA:GPU",
        version=f"{plugin.replace('_', '-')} {_version(plugin)}",
        kind="xla-gpu",
        environment=_QUIET,
    )


def compile_for_tpu(program: bytes, target: Target, **settings: Any) -> Compiled:
    """Compile an exported program with libtpu for one chip of the target's topology.

    Arguments and errors are those of :func:`compile_program`, and:

    Raises:
        UnsupportedError: GO207, libtpu is not installed.
    """
    if not tpu_compiler_installed():
        raise UnsupportedError(
            "GO207", "the TPU compiler is not installed", next_step="pip install 'graphopt[tpu]' adds libtpu."
        )
    return compile_program(program, tpu_plan(target), **settings)


def compile_for_gpu(program: bytes, target: Target, **settings: Any) -> Compiled:
    """Compile an exported program with XLA:GPU for the target's GPU.

    Arguments and errors are those of :func:`compile_program`, and:

    Raises:
        UnsupportedError: GO207, XLA:GPU is not installed.
    """
    require_gpu_compiler()
    return compile_program(program, gpu_plan(target), **settings)


def compile_program(
    program: bytes,
    plan: Plan,
    *,
    timeout_s: float | None = None,
    memory_bytes: int | None = None,
    cache: bool = True,
    about: Mapping[str, str] | None = None,
    tick: Tick | None = None,
    worker: str = WORKER,
) -> Compiled:
    """Compile an exported program for one device.

    Args:
        program: what :func:`graphopt.lowering.xla.export.export_program` made, with static shapes.
        timeout_s: an hour if not given.
        memory_bytes: resident memory; by default four fifths of what is free.
        cache: whether the compile cache is asked, and told.
        about: words for the cache's explanations: the model, its dims, its passes.
        tick: called some twenty times a second with the seconds since the start (for progress).
        worker: the module that the child runs.

    Raises:
        LoweringError: GO206, the compiler refused the program; GO208, it crashed; GO209, it went over a
            limit. The last two name a folder that replays it.
    """
    started = time.monotonic()
    key = cache_key(program, plan)
    store = caching.Cache.default() if cache else None
    found = store.get(key, about=about) if store is not None else caching.Lookup()
    if found.files is not None:
        return _compiled(found.files, plan.name, started, cached=True, remark=found.remark)
    with tempfile.TemporaryDirectory(prefix="graphopt-aot-") as scratch:
        folder = Path(scratch)
        write_request(folder, program, plan)
        _run_worker(folder, plan, Limits.of(timeout_s, memory_bytes), tick, worker)
        files = {each: (folder / each).read_bytes() for each in _OUTPUTS}
    told = store.put(key, files, about=about) if store is not None else None
    return _compiled(files, plan.name, started, remark=found.remark or told)


def cache_key(program: bytes, plan: Plan) -> dict[str, str]:
    """What the result of a compile depends on, part by part."""
    topology = json.dumps(dict(plan.topology), sort_keys=True)
    device = "" if plan.kind == "tpu" else f", device {hashlib.sha256(topology.encode()).hexdigest()[:12]}"
    return {
        "program": hashlib.sha256(program).hexdigest(),
        "target": plan.name if plan.kind == "tpu" else f"{plan.kind}:{plan.name}",
        "compiler": plan.version,
        "jax": f"jax {_version('jax')}, jaxlib {_version('jaxlib')}",
        "options": f"format {CACHE_FORMAT}{device}",
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def write_request(folder: Path, program: bytes, plan: Plan) -> None:
    """What the worker reads: the program, and what to compile it for, with the environment it needs."""
    (folder / "program.bin").write_bytes(program)
    request = {
        "platform": plan.platform,
        "topology": dict(plan.topology),
        "compiler": plan.version,
        "environment": dict(plan.environment),
        "left_out": list(_LEFT_OUT),
    }
    (folder / "request.json").write_text(json.dumps(request, indent=1))


def _compiled(
    files: Mapping[str, bytes],
    topology: str,
    started: float,
    *,
    cached: bool = False,
    remark: str | None = None,
) -> Compiled:
    result: dict[str, Any] = json.loads(files["result.json"])
    return Compiled(
        executable=files["executable.bin"],
        hlo=files["compiled.hlo.txt"].decode(),
        memory=result["memory"],
        flops=result["flops"],
        bytes_accessed=result["bytes_accessed"],
        device_kind=result["device_kind"],
        compiler=result["compiler"],
        topology=topology,
        seconds=time.monotonic() - started,
        cached=cached,
        remark=remark,
    )


def _run_worker(folder: Path, plan: Plan, limits: Limits, tick: Tick | None, worker: str) -> None:
    job = Job(
        compiler=plan.compiler,
        where=plan.name,
        worker=worker,
        kind=plan.kind,
        given=("program.bin", "request.json"),
        makes=_OUTPUTS,
        about="program.bin is a portable StableHLO program (jax.export; its weights are arguments), "
        "request.json says for what, and the environment that it takes.",
    )
    run_job(
        job,
        folder,
        environment=plan.environment,
        left_out=_LEFT_OUT,
        limits=limits,
        tick=tick,
        refusal=lambda ending: _refusal(ending, plan),
    )


def _refusal(ending: Ending, plan: Plan) -> LoweringError | None:
    """The compiler's own last words as an error; None if it did not say any."""
    lines = [line.strip() for line in ending.log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b.*:", line)]
    if not errors:
        return None
    reason, where = errors[-1], plan.name
    too_large = "hbm" in reason.lower() and ("RESOURCE_EXHAUSTED" in reason or "exceed" in reason.lower())
    if too_large or (plan.kind == "xla-gpu" and "RESOURCE_EXHAUSTED" in reason):
        return LoweringError(
            "GO206",
            "the program does not fit into the device's memory",
            where=where,
            found=reason[:400],
            next_step="Use a smaller batch (--dim), --precision bf16, or a device with more memory.",
        )
    if plan.kind == "tpu" and ("topology" in reason.lower() or "Invalid chip" in reason):
        return LoweringError(
            "GO206", "the TPU compiler does not know this slice", where=where, found=reason[:300]
        )
    return LoweringError("GO206", f"{plan.compiler} refused the program", where=where, found=reason[:600])
