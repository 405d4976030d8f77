"""The child process of :mod:`graphopt.verification.change`.

``python -m graphopt.verification.change_worker FOLDER``

Reads ``request.json``, ``before/model.onnx``, ``after/model.onnx`` and ``feeds_0.npz`` … in FOLDER,
writes ``answer.json``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.verification.array_files import read_arrays
from graphopt.verification.reference_worker import limit_memory

MEASURE_S, LEAST_ROUNDS, MOST_ROUNDS = 3.0, 5, 200
MAX_CHOICES = 1 << 20


def open_session(path: Path) -> Any:
    """A session on one thread with all of ONNX Runtime's optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of `session`, by name."""
    takes = {node.name for node in (*session.get_inputs(), *session.get_overridable_initializers())}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {k: v for k, v in feeds.items() if k in takes}), strict=True))


def latency_ratio(before: Any, after: Any, feeds: Mapping[str, Any]) -> float | None:
    """CPU time of `after` to `before`, the median over rounds in which both take their turn."""
    ratios: list[float] = []
    begun = time.perf_counter()
    while len(ratios) < LEAST_ROUNDS or (
        len(ratios) < MOST_ROUNDS and time.perf_counter() - begun < MEASURE_S
    ):
        spent = []
        turns = (before, after) if len(ratios) % 2 else (after, before)
        for session in turns:
            started = time.thread_time()
            run(session, feeds)
            spent.append(time.thread_time() - started)
        base, other = spent if len(ratios) % 2 else reversed(spent)
        ratios.append(other / base if base > 0 else float("nan"))
    median = float(np.nanmedian(ratios))
    return median if np.isfinite(median) else None


def difference(name: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """How one output differs over all feeds; pairs of (before, after)."""
    old = np.concatenate([np.asarray(a).reshape(-1) for a, _ in pairs])
    new = np.concatenate([np.asarray(b).reshape(-1) for _, b in pairs])
    row: dict[str, Any] = {
        "name": name,
        "max_abs_error": None,
        "cosine": None,
        "top1_agreement": None,
        "nonfinite": 0,
    }
    if old.dtype.kind != "f":
        return {**row, "error": float(np.mean(old != new)) if old.size else 0.0}
    old, new = old.astype(np.float64), new.astype(np.float64)
    row["nonfinite"] = int(np.sum(np.isfinite(old) & ~np.isfinite(new)))
    both = np.isfinite(old) & np.isfinite(new)
    old, new = old[both], new[both]
    worst = float(np.max(np.abs(new - old))) if old.size else 0.0
    largest = float(np.max(np.abs(old))) if old.size else 0.0
    row["max_abs_error"] = worst
    row["error"] = worst / largest if largest else float(worst > 0)
    length = float(np.linalg.norm(old) * np.linalg.norm(new))
    row["cosine"] = float(old @ new) / length if length else None
    row["top1_agreement"] = _top1(pairs)
    return row


def _top1(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    shape = pairs[0][0].shape
    if len(shape) < 2 or not 2 <= shape[-1] <= MAX_CHOICES or any(a.size == 0 for a, _ in pairs):
        return None
    agrees = [np.argmax(a, axis=-1) == np.argmax(b, axis=-1) for a, b in pairs]
    return float(np.mean(np.concatenate([a.reshape(-1) for a in agrees])))


def main(folder: Path) -> None:
    """Serve one request."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    limit_memory(int(request["memory_bytes"]))
    try:
        feeds_list = [read_arrays(folder / f"feeds_{i}.npz") for i in range(int(request["runs"]))]
        before, after = (open_session(folder / part / "model.onnx") for part in ("before", "after"))
        results = [(run(before, feeds), run(after, feeds)) for feeds in feeds_list]
        names = [o.name for o in before.get_outputs() if o.type.startswith("tensor(")]
        answer: dict[str, Any] = {
            "outputs": [difference(n, [(a[n], b[n]) for a, b in results]) for n in names],
            "latency_ratio": latency_ratio(before, after, feeds_list[0]),
        }
    # Whatever the runtime raises is the answer: these are its own classes, which differ by version.
    except Exception as error:
        answer = {
            "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:400]
        }
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
