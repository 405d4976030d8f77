"""Write a failure as a folder that stands on its own: model, inputs, and the command that shows it."""

from __future__ import annotations

import platform
import shlex
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir.passes

from graphopt.errors import OutputError
from graphopt.ir.io import save
from graphopt.ir.text import listing
from graphopt.transform import Pass, Pipeline
from graphopt.verification.reduce import Reduction

MODEL, FEEDS, EXPECTED, ACTUAL = "model.onnx", "feeds.npz", "expected.npz", "actual.npz"
MAX_LISTING_LINES = 60


def write_reproducer(
    folder: str | Path,
    reduction: Reduction,
    *,
    precision: str | None = None,
    runtime_optimized: bool = False,
) -> Path:
    """Write the model, the feeds, the command, a README and, for a mismatch, the results of both sides.

    Returns:
        The folder, which is made if it is not there.

    Raises:
        OutputError: GO111.
    """
    target = Path(folder)
    failure = reduction.failure
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in (EXPECTED, ACTUAL):  # of a failure that was written here before
            (target / name).unlink(missing_ok=True)
        save(reduction.model, target / MODEL)
        write_npz(target / FEEDS, reduction.feeds)
        if failure is not None and failure.expected is not None and failure.actual is not None:
            write_npz(target / EXPECTED, failure.expected)
            write_npz(target / ACTUAL, failure.actual)
        line = "" if reduction.pipeline is None else command(reduction.pipeline, precision, runtime_optimized)
        (target / "command.txt").write_text(line + "\n", encoding="utf-8")
        (target / "README.md").write_text(
            _readme(reduction, line), encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:
        raise OutputError(
            "GO111", f"the reproducer cannot be written: {error.strerror}", where=str(target)
        ) from error
    return target


def command(pipeline: Pipeline, precision: str | None = None, runtime_optimized: bool = False) -> str:
    """The command that, run in the folder, fails (exit code 4) for as long as the pipeline is wrong."""
    if all(_is_registered(pass_) for pass_ in pipeline):
        extra = f" --precision {precision}" if precision else ""
        extra += " --runtime-optimized" if runtime_optimized else ""
        return f"graphopt bisect {MODEL} --pipeline {shlex.quote(str(pipeline))} --data {FEEDS}{extra}"
    imports = sorted({f"from {type(p).__module__} import {type(p).__name__}" for p in pipeline})
    passes = ", ".join(repr(pass_) for pass_ in pipeline)
    code = "; ".join(
        [
            "import sys, graphopt",
            *imports,
            f"sys.exit(0 if graphopt.bisect({MODEL!r}, pipeline=graphopt.Pipeline([{passes}]), "
            f"data={FEEDS!r}, runtime_optimized={runtime_optimized}).ok else 4)",
        ]
    )
    return f"python -c {shlex.quote(code)}"


def _is_registered(pass_: onnx_ir.passes.PassBase) -> bool:
    return isinstance(pass_, Pass) and type(pass_).__module__.startswith("graphopt.passes.")


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name so that numpy reads them; those of sequences as ``name.0``, ``name.1``."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in arrays.items():
            parts = value if isinstance(value, list) else [value]
            keys = [f"{name}.{i}" for i in range(len(parts))] if isinstance(value, list) else [name]
            for key, item in zip(keys, parts, strict=True):
                array = np.asarray(item)
                if array.dtype == object:
                    array = array.astype(str)
                with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)


def _readme(reduction: Reduction, line: str) -> str:
    failure, blame = reduction.failure, reduction.blame
    parts = ["# A model that graphopt breaks", ""]
    if failure is not None:
        parts += [f"{failure.kind}: {failure.message}", ""]
    if blame is not None:
        at = f", {blame.op_type} {blame.node!r}" if blame.node else ""
        rule = f", rule `{blame.rule}`" if blame.rule else ""
        parts += [f"Blamed: pass `{blame.pass_name}`{rule}{at}.", ""]
    if line:
        parts += ["Run in this folder; the exit code is 4 as long as it fails, 0 once it is repaired:", ""]
        parts += ["```", line, "```", ""]
    lines = listing(reduction.model).splitlines()
    parts += [f"The model ({reduction.nodes} nodes, reduced from {reduction.nodes_before}):", "", "```"]
    parts += [text[:200] for text in lines[:MAX_LISTING_LINES]]
    parts += ["…"] if len(lines) > MAX_LISTING_LINES else []
    parts += ["```", ""]
    parts += [f"Feeds are in {FEEDS}" + _results_told(reduction) + ".", ""]
    parts.append(_versions())
    return "\n".join(parts) + "\n"


def _results_told(reduction: Reduction) -> str:
    if reduction.failure is None or reduction.failure.expected is None:
        return ""
    return f", the right results in {EXPECTED}, those after the pass in {ACTUAL}"


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in ("graphopt", "onnx", "onnx_ir", "onnxruntime", "onnxruntime-gpu", "numpy"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return "Found with " + ", ".join(found) + "."
