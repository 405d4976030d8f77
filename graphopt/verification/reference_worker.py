"""The child process of :mod:`graphopt.verification.reference`.

``python -m graphopt.verification.reference_worker FOLDER``

Reads ``request.json`` and ``feeds_0.npz`` … in FOLDER, writes ``outputs_0.npz`` … and ``answer.json``.

``python -m graphopt.verification.reference_worker --serve``

Does that for each folder that a line on stdin names, and answers with a line on stdout.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from graphopt.verification.array_files import read_arrays, write_arrays
from graphopt.verification.evaluators import EvaluationFailed, evaluate_all


def limit_memory(limit_bytes: int) -> None:
    """Bound the address space, and write no core file, where the system can."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(folder: Path) -> None:
    """Serve one request."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    limit_memory(int(request["memory_bytes"]))
    feeds_list = [read_arrays(folder / f"feeds_{i}.npz") for i in range(int(request["runs"]))]
    try:
        results, engine, note = evaluate_all(
            str(request["model"]), feeds_list, optimized=bool(request.get("optimized"))
        )
    except EvaluationFailed as error:
        answer: dict[str, str | None] = {"error": str(error)}
    except MemoryError:
        answer = {"error": "out of memory"}
    else:
        for index, outputs in enumerate(results):
            write_arrays(folder / f"outputs_{index}.npz", outputs)
        answer = {"engine": engine, "note": note}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def serve() -> None:
    """Serve one request after the other, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What a library prints must not be taken for an answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        main(Path(line.rstrip("\n")))
        answers.write("done\n")
        answers.flush()


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve()
    else:
        main(Path(sys.argv[1]))
