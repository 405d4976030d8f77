"""What a lossy change does to a model: its size, its latency and its answers, measured."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.errors import AccuracyError
from graphopt.ir import Model
from graphopt.ir.save import save
from graphopt.verification.array_files import write_arrays
from graphopt.verification.reference import TIMEOUT_S, physical_memory, run_worker


def measure_change(
    before: Model, after: Model, feeds_list: Sequence[Mapping[str, Any]], *, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """How `after` differs from `before` under ONNX Runtime with all its optimisations, on the CPU.

    Returns:
        ``bytes_before``, ``bytes_after``: what the models take on disk. ``latency_ratio``: CPU time of
        one thread, after to before, the runs in turns (the median). ``outputs``: for each output
        ``max_abs_error``, ``error`` (that, as a share of the output's largest magnitude; the share of
        unequal elements where it is no float), ``cosine``, ``top1_agreement`` (None where the last axis
        is no choice among several) and ``nonfinite`` (numbers finite before and not after).

    Raises:
        ModelError: GO604, one of the models cannot be run on these feeds.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-change-") as name:
        folder = Path(name)
        sizes = []
        for model, part in ((before, "before"), (after, "after")):
            (folder / part).mkdir()
            save(model, folder / part / "model.onnx", external_data=True)
            sizes.append(sum(file.stat().st_size for file in (folder / part).iterdir()))
        for index, feeds in enumerate(feeds_list):
            write_arrays(folder / f"feeds_{index}.npz", feeds)
        request = {"runs": len(feeds_list), "memory_bytes": physical_memory()}
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        answer = run_worker("graphopt.verification.change_worker", folder, timeout_s)
    return {"bytes_before": sizes[0], "bytes_after": sizes[1], "runs": len(feeds_list), **answer}


def refuse_beyond(change: Mapping[str, Any], max_error: float | None) -> None:
    """Raise AccuracyError (GO401) for an output that is off by more than `max_error`, or newly not finite."""
    for output in change["outputs"]:
        where = f"output {output['name']!r}"
        if output["nonfinite"]:
            raise AccuracyError(
                "GO401", "numbers became NaN or infinite", where=where, found=output["nonfinite"]
            )
        if max_error is not None and not output["error"] <= max_error:
            raise AccuracyError(
                "GO401",
                "the results are further off than allowed",
                where=where,
                found=f"{output['error']:.3g} of the output's largest magnitude",
                expected=f"at most {max_error:g}",
                next_step="Use more bits or less --sparsity, or allow more.",
                details=dict(change),
            )
