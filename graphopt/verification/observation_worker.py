"""The child process of :mod:`graphopt.verification.observation`.

``python -m graphopt.verification.observation_worker FOLDER``

Reads ``request.json``, ``model.onnx`` and ``feeds_0.npz`` … in FOLDER, writes ``answer.json``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.verification.array_files import read_arrays
from graphopt.verification.evaluators import EvaluationFailed, open_evaluator
from graphopt.verification.reference_worker import limit_memory

SIZE = "graphopt/size/"
Found = dict[str, dict[str, Any]]


def range_of(array: np.ndarray) -> dict[str, Any] | None:
    """Range of the finite numbers of `array` as a ValueRange's fields, or None without finite ones."""
    flat = np.asarray(array).reshape(-1)
    finite = flat if np.all(np.isfinite(flat)) else flat[np.isfinite(flat)]
    if finite.size == 0:
        return None
    magnitude = np.abs(finite)
    nonzero = magnitude[magnitude > 0]
    return {
        "low": float(finite.min()),
        "high": float(finite.max()),
        "smallest": float(nonzero.min()) if nonzero.size else math.inf,
        "nonfinite": finite.size != flat.size,
    }


def merge(found: Found, name: str, seen: dict[str, Any] | None) -> None:
    """Widen what was found of `name` by what was seen of it in one more run."""
    if seen is None:
        return
    old = found.setdefault(name, seen)
    found[name] = {
        "low": min(old["low"], seen["low"]),
        "high": max(old["high"], seen["high"]),
        "smallest": min(old["smallest"], seen["smallest"]),
        "nonfinite": old["nonfinite"] or seen["nonfinite"],
    }


def observe(folder: Path, request: dict[str, Any]) -> Found:
    """The ranges of the values asked for, over all feeds."""
    feeds_list = [read_arrays(folder / f"feeds_{i}.npz") for i in range(int(request["runs"]))]
    proto = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    inputs = {v.name for v in proto.graph.input}
    found: Found = {}
    for feeds in feeds_list:
        for name in set(request["names"]) & inputs & set(feeds):
            merge(found, name, range_of(feeds[name]))
    names = [name for name in request["names"] if name not in inputs]
    items = _sizes(folder, proto, names, feeds_list)
    for chunk in _chunks(names, items, int(request["chunk_bytes"])):
        run = _evaluator(folder, proto, chunk)
        for feeds in feeds_list:
            for name, array in run(feeds).items():
                merge(found, name, range_of(array))
    return found


def _sizes(
    folder: Path, proto: onnx.ModelProto, names: Sequence[str], feeds_list: Sequence[dict[str, Any]]
) -> dict[str, int]:
    """The largest element count of each value: one run with a Size behind each of them."""
    if not names:
        return {}
    sized = onnx.ModelProto()
    sized.CopyFrom(proto)
    outputs = [SIZE + name for name in names]
    sized.graph.node.extend(
        onnx.helper.make_node("Size", [n], [o]) for n, o in zip(names, outputs, strict=True)
    )
    run = _evaluator(folder, sized, outputs, onnx.TensorProto.INT64)
    sizes = dict.fromkeys(names, 0)
    for feeds in feeds_list:
        for name, count in run(feeds).items():
            key = name.removeprefix(SIZE)
            sizes[key] = max(sizes[key], int(count))
    return sizes


def _chunks(names: Sequence[str], items: dict[str, int], limit_bytes: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    used = 0
    for name in names:
        size = 4 * items[name]
        if chunk and used + size > limit_bytes:
            yield chunk
            chunk, used = [], 0
        chunk.append(name)
        used += size
    if chunk:
        yield chunk


def _evaluator(
    folder: Path, proto: onnx.ModelProto, names: Sequence[str], dtype: int = onnx.TensorProto.FLOAT
) -> Any:
    """A function from feeds to the values `names`; the model is written beside its weights."""
    part = onnx.ModelProto()
    part.CopyFrom(proto)
    del part.graph.output[:]
    part.graph.output.extend(onnx.helper.make_tensor_value_info(name, dtype, None) for name in names)
    path = folder / "part.onnx"
    onnx.save(part, str(path))
    return open_evaluator(str(path))


def main(folder: Path) -> None:
    """Serve one request."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    limit_memory(int(request["memory_bytes"]))
    try:
        answer: dict[str, Any] = {"ranges": observe(folder, request)}
    except EvaluationFailed as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": "out of memory"}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
