"""Build an engine with TensorRT-RTX in a child process, with no GPU, or let its parser check a model."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphopt import cache as caching
from graphopt.artifact import file_digest
from graphopt.errors import LoweringError, UnsupportedError
from graphopt.ir import Model
from graphopt.ir.io import save
from graphopt.lowering.child import Ending, Tick
from graphopt.lowering.profiles import Ranges, Shapes, input_profile
from graphopt.lowering.registry import schema_version
from graphopt.lowering.tensorrt_rtx.layers import node_names
from graphopt.lowering.vendor import Job, Limits, run_job
from graphopt.target import Target

PACKAGE = "tensorrt_rtx"
INSTALL = "pip install 'graphopt[tensorrt-rtx]' adds it (no GPU is needed to build)."
WORKER = "graphopt.lowering.tensorrt_rtx.worker"
CACHE_FORMAT = 1
NEWEST_OPSET = 25
"""The newest opset that the parser is made for, by NVIDIA's ONNX opset guide for TensorRT 11. The parser
itself looks at operators' names only: one that was redefined later it would take in its old meaning."""

PROGRESS_S = 1.0

_LEFT_OUT = ("PYTHONSTARTUP", "NVIDIA_TF32_OVERRIDE")
"""Settings of the user's that would change what is built."""

_OUTPUTS = ("engine.bin", "result.json")

Say = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Engine:
    """What the builder made.

    Attributes:
        data: the serialised engine; it holds the weights.
        layers: its layers, in the builder's own words, one a line.
        memory: bytes, by the builder: ``weights``, ``activations``, ``scratch``.
        compiler: its name and version.
        profile: the shapes of the inputs that may vary.
        seconds: wall time of the child, or of finding it in the cache.
        cached: whether it came from the compile cache.
        remark: what is worth knowing about the cache.
    """

    data: bytes
    layers: str
    memory: dict[str, int]
    compiler: str
    profile: Shapes
    seconds: float
    cached: bool = False
    remark: str | None = None


def installed() -> bool:
    """Whether TensorRT-RTX is installed (it is not imported to find out)."""
    return importlib.util.find_spec(PACKAGE) is not None


def version() -> str:
    """The installed version, or ``unknown``."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def require_installed() -> None:
    """Raise UnsupportedError (GO207) with the command that installs it, if it is not."""
    if not installed():
        raise UnsupportedError("GO207", "TensorRT-RTX is not installed", next_step=INSTALL)


def build_engine(
    model: Model,
    target: Target,
    *,
    ranges: Ranges,
    tf32: bool = False,
    timeout_s: float | None = None,
    memory_bytes: int | None = None,
    cache: bool = True,
    about: Mapping[str, str] | None = None,
    say: Say | None = None,
    tick: Tick | None = None,
    worker: str = WORKER,
) -> Engine:
    """Build one engine for all compute capabilities that `target` names.

    Args:
        model: optimised; every type in it is kept (the network is strongly typed).
        ranges: the sizes of free dimensions by name: smallest, likeliest, largest.
        tf32: whether float32 products may be computed with 10 bits of the mantissa.
        timeout_s: an hour if not given.
        memory_bytes: resident memory; by default four fifths of what is free.
        cache: whether the compile cache is asked, and told.
        about: words for the cache's explanations: the model, its dims, its passes.
        say: called with (stage, step, steps) as the builder goes on.
        tick: called some twenty times a second with the seconds since the start.
        worker: the module that the child runs.

    Raises:
        UnsupportedError: GO207, TensorRT-RTX is not installed.
        LoweringError: GO201, nodes that it does not take, all of them; GO203, an input that must be known;
            GO204, a dimension without a range; GO206, the builder refused the network; GO208, it crashed;
            GO209, it went over a limit. The last two name a folder that replays it.
    """
    require_installed()
    profile = input_profile(model, ranges, or_none=False)
    _require_known_opset(model)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="graphopt-rtx-") as scratch:
        folder = Path(scratch)
        given = write_request(folder, model, target, profile=profile, tf32=tf32)
        key = cache_key(folder, given)
        store = caching.Cache.default() if cache else None
        found = store.get(key, about=about) if store is not None else caching.Lookup()
        if found.files is not None:
            return _engine(found.files, profile, started, cached=True, remark=found.remark)
        job = _job(target, given, _OUTPUTS, worker)
        _run(job, folder, model, Limits.of(timeout_s, memory_bytes), say, tick)
        files = {each: (folder / each).read_bytes() for each in _OUTPUTS}
    told = None
    # Weights hardly shrink: what is too large for the cache is not packed to find that out.
    if store is not None and len(files["engine.bin"]) <= store.limit_bytes:
        told = store.put(key, files, about=about)
    return _engine(files, profile, started, remark=found.remark or told)


def check_parser(
    model: Model, target: Target, *, worker: str = WORKER, timeout_s: float | None = None
) -> None:
    """Let the parser read `model`; nothing is built, so dimensions may be free.

    Raises:
        UnsupportedError, LoweringError: as :func:`build_engine` does.
    """
    require_installed()
    _require_known_opset(model)
    with tempfile.TemporaryDirectory(prefix="graphopt-rtx-") as scratch:
        folder = Path(scratch)
        given = write_request(folder, model, target, profile={}, tf32=False, stage="parse")
        job = _job(target, given, _OUTPUTS[1:], worker)
        _run(job, folder, model, Limits.of(timeout_s, None), None, None)


def write_request(
    folder: Path, model: Model, target: Target, *, profile: Shapes, tf32: bool, stage: str = "build"
) -> tuple[str, ...]:
    """Write what the worker reads, and return the names of the files."""
    save(model, folder / "model.onnx", declared=False)
    request = {
        "stage": stage,
        "capabilities": list(target.capabilities),
        "profile": profile,
        "tf32": tf32,
    }
    (folder / "request.json").write_text(json.dumps(request, indent=1, sort_keys=True), encoding="utf-8")
    return tuple(sorted(path.name for path in folder.iterdir()))


def cache_key(folder: Path, given: tuple[str, ...]) -> dict[str, str]:
    """What an engine depends on, part by part."""
    digests = "".join(file_digest(folder / name) for name in given if name != "request.json")
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    return {
        "program": hashlib.sha256(digests.encode()).hexdigest(),
        "target": "tensorrt-rtx:" + ",".join(request["capabilities"]),
        "compiler": f"{PACKAGE} {version()}",
        "profile": json.dumps(request["profile"], sort_keys=True),
        "options": f"format {CACHE_FORMAT}, tf32 {request['tf32']}",
    }


def _job(target: Target, given: tuple[str, ...], makes: tuple[str, ...], worker: str) -> Job:
    return Job(
        compiler="the TensorRT-RTX builder",
        where=str(target),
        worker=worker,
        kind="tensorrt-rtx",
        given=given,
        makes=makes,
        about="model.onnx is the optimised model with its weights, request.json says what to build of it.",
    )


def _run(job: Job, folder: Path, model: Model, limits: Limits, say: Say | None, tick: Tick | None) -> None:
    listener = _Listener(folder / "progress.json", say)

    def both(seconds: float) -> None:
        listener.look(seconds)
        if tick is not None:
            tick(seconds)

    def refusal(ending: Ending | None) -> LoweringError | None:
        with contextlib.suppress(OSError, ValueError):
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            return _refusal(result, job.where, model)
        return None if ending is None else _not_loaded(ending, job.where)

    try:
        run_job(job, folder, environment={}, left_out=_LEFT_OUT, limits=limits, tick=both, refusal=refusal)
    except LoweringError as error:
        refused = refusal(None)  # it may have died while it looked for more of what it had refused
        if refused is not None and error.code in ("GO208", "GO209"):
            raise refused from error
        raise
    refused = refusal(None)  # a check leaves no engine, so nothing else is missing then
    if refused is not None:
        raise refused


def _not_loaded(ending: Ending, where: str) -> LoweringError | None:
    """The package is there, but its libraries do not load."""
    lines = [line for line in ending.log.splitlines() if re.match(r"(ModuleNotFound|Import|OS)Error: ", line)]
    if not lines:
        return None
    return LoweringError(
        "GO207",
        "TensorRT-RTX is installed but cannot be loaded",
        where=where,
        found=lines[-1][:300],
        next_step=f"pip install --force-reinstall {PACKAGE}",
    )


class _Listener:
    """Reads how far the child is, and says so when that has changed."""

    def __init__(self, path: Path, say: Say | None) -> None:
        self._path = path
        self._say = say
        self._last: tuple[str, int, int] | None = None
        self._told = -PROGRESS_S

    def look(self, seconds: float) -> None:
        if self._say is None or seconds - self._told < PROGRESS_S:
            return
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = json.loads(self._path.read_text(encoding="utf-8"))
            now = (f"TensorRT-RTX: {found['phase'].lower()}", max(found["step"] - 1, 0), found["steps"])
            if now != self._last:
                self._last, self._told = now, seconds
                self._say(*now)


def _engine(
    files: Mapping[str, bytes],
    profile: Shapes,
    started: float,
    *,
    cached: bool = False,
    remark: str | None = None,
) -> Engine:
    result: dict[str, Any] = json.loads(files["result.json"])
    told = result["memory"]
    return Engine(
        data=files["engine.bin"],
        layers=result["layers"],
        memory={
            "weights": told.get("Total Weights", 0),
            "activations": told.get("Total Activation", 0),
            "scratch": told.get("Max Scratch", 0),
        },
        compiler=result["compiler"],
        profile=profile,
        seconds=time.monotonic() - started,
        cached=cached,
        remark=remark,
    )


def _require_known_opset(model: Model) -> None:
    """Raise LoweringError (GO202) for operators that were redefined after what the parser is made for."""
    opset = int(model.opset_imports.get("", 1))
    if opset <= NEWEST_OPSET:
        return
    rows = []
    for node in model.graph.all_nodes():
        since = schema_version("", node.op_type, opset) if node.domain in ("", "ai.onnx") else None
        if since is not None and since > NEWEST_OPSET:
            reason = (
                f"its form of opset {since} is newer than TensorRT-RTX's parser, which ends at {NEWEST_OPSET}"
            )
            rows.append(_row(node.name or "", node.op_type, node.domain or "", reason))
    if rows:
        raise _unsupported("GO202", rows, "tensorrt-rtx", "Export the model at an older opset.")


def _refusal(result: Mapping[str, Any], where: str, model: Model) -> LoweringError | None:
    """What TensorRT-RTX refused, as an error that names the nodes of the model."""
    if result.get("refused"):
        return _parser_refusal(result["refused"], where, model)
    if result.get("shape_inputs"):
        names = result["shape_inputs"]
        return LoweringError(
            "GO203",
            "TensorRT-RTX computes shapes from inputs, whose values an engine must know",
            where=where,
            found=", ".join(map(repr, names)),
            next_step="Bind them: " + " ".join(f"--constant {name}=VALUE" for name in names),
        )
    if result.get("build_error"):
        error = result["build_error"]
        nodes = node_names(error["metadata"])
        message = re.sub(r"^\w+::\w+: |(?: In \w+ at /_src/\S+)", "", " ".join(error["message"].split()))
        return LoweringError(
            "GO206",
            "the TensorRT-RTX builder refused the network",
            where=f"node {', '.join(map(repr, nodes))}" if nodes else where,
            found=message[:600],
            details={"nodes": nodes},
        )
    return None


def _parser_refusal(errors: list[dict[str, Any]], where: str, model: Model) -> LoweringError:
    domains = {node.name: node.domain or "" for node in model.graph.all_nodes()}
    rows = []
    for error in errors:
        if error.get("node") in domains:
            rows.append(_row(error["node"], error["op_type"], domains[error["node"]], _reason(error)))
    if rows:
        known = all(error["code"].startswith("UNSUPPORTED") for error in errors if "op_type" in error)
        step = "The targets cuda and tensorrt run such nodes outside TensorRT."
        return _unsupported("GO201" if known else "GO202", rows, where, step)
    return LoweringError(
        "GO206",
        "the TensorRT-RTX parser refused the model",
        where=where,
        found=str(errors[0]["message"])[:600],
    )


def _reason(error: Mapping[str, Any]) -> str:
    """The parser's words where it has any; it often gives the condition in its source that failed."""
    text = str(error["message"])
    quoted = re.search(r'&& "([^"]+)"', text)
    if quoted:
        return f"TensorRT-RTX: {quoted.group(1)}"
    said = " ".join(re.sub(r"^Assertion failed: ", "", text).split()).rstrip(".")
    op_type = error["op_type"]
    return {
        "UNSUPPORTED_NODE": f"TensorRT-RTX does not support {op_type}",
        "UNSUPPORTED_NODE_ATTR": f"TensorRT-RTX does not support an attribute of this {op_type}",
        "UNSUPPORTED_NODE_INPUT": f"TensorRT-RTX does not support an input of this {op_type}",
        "UNSUPPORTED_NODE_DATATYPE": f"TensorRT-RTX does not support {op_type} on this type",
        "UNSUPPORTED_NODE_DYNAMIC": f"TensorRT-RTX does not support {op_type} with a free dimension",
        "UNSUPPORTED_NODE_SHAPE": f"TensorRT-RTX does not support {op_type} on this shape",
    }.get(error["code"], f"TensorRT-RTX refuses {op_type} ({error['code']})") + (
        "" if said in ("", "false") else f": {said[:240]}"
    )


def _row(node: str, op_type: str, domain: str, reason: str) -> dict[str, str]:
    return {"node": node, "op_type": op_type, "domain": domain, "reason": reason}


def _unsupported(code: str, rows: list[dict[str, str]], where: str, step: str) -> LoweringError:
    """One error for all nodes; the first few in words, all in its details."""
    shown = "; ".join(f"{row['op_type']} {row['node']!r}: {row['reason']}" for row in rows[:5])
    more = f"; and {len(rows) - 5} more" if len(rows) > 5 else ""
    return LoweringError(
        code,
        f"{len(rows)} node{'s' if len(rows) > 1 else ''} that TensorRT-RTX does not take: {shown}{more}",
        where=where,
        next_step=step,
        details={"unsupported": rows},
    )
