"""Run a model on calibration feeds and see the ranges of the values inside it.

The run is in a child process, like every run of a model that is not trusted, and without ONNX Runtime's
optimisations, so that every value exists. Weights are written once and shared by all runs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.ir import Model
from graphopt.ir.save import save
from graphopt.transform import Observer, Ranges, ValueRange
from graphopt.verification.array_files import write_arrays
from graphopt.verification.reference import TIMEOUT_S, physical_memory, run_worker

CHUNK_BYTES = 256 << 20
"""The most bytes of values that are held at once; one value alone may be larger."""


def observe_ranges(
    model: Model,
    names: Collection[str],
    feeds_list: Sequence[Mapping[str, Any]],
    *,
    timeout_s: float = TIMEOUT_S,
    chunk_bytes: int = CHUNK_BYTES,
) -> Ranges:
    """The range of each of the values `names` of the main graph of `model` over all feeds.

    Values without numbers (empty ones, sequences) are left out.

    Args:
        timeout_s: time for the child, model loading included.
        chunk_bytes: values are looked at a part at a time, of about this size.

    Raises:
        ModelError: GO604, the model cannot be run on these feeds.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-observation-") as name:
        folder = Path(name)
        save(model, folder / "model.onnx", external_data=True)
        for index, feeds in enumerate(feeds_list):
            write_arrays(folder / f"feeds_{index}.npz", feeds)
        request = {
            "names": sorted(names),
            "runs": len(feeds_list),
            "chunk_bytes": chunk_bytes,
            "memory_bytes": physical_memory(),
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        answer = run_worker("graphopt.verification.observation_worker", folder, timeout_s)
    return {name: ValueRange(**found) for name, found in answer["ranges"].items()}


def observer(feeds_list: Sequence[Mapping[str, Any]]) -> Observer:
    """What a pipeline observes a model with: its inputs among these feeds.

    Feeds of inputs that the model does not have (any more) are ignored.
    """

    def observe(model: Model, names: Collection[str]) -> Ranges:
        return observe_ranges(model, names, feeds_list)

    return observe
