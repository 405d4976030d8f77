"""Ask ONNX Runtime itself where it puts each node, in a child process, where the device is there."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.runtime.ort_child import ask

TIMEOUT_S = 900.0
TENSORRT = "TensorrtExecutionProvider"
_COPIES = ("MemcpyFromHost", "MemcpyToHost")


def assignment(model: bytes, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Where ONNX Runtime puts the nodes of `model` under `plan`, asked in this process.

    Returns:
        ``nodes``: the provider of each node by its name, as they are when providers choose (what is folded
        or fused before that is not there); ``copies``: the copies between host and device that it inserted
        (None where it cannot write the model that it runs, with TensorRT's engines); ``engines``: of
        TensorRT; ``fallbacks``: providers that did not start.

    Raises:
        ModelError: GO604, ONNX Runtime refuses the model.
    """
    from graphopt.runtime.ort import OrtSession

    tensorrt = any(entry[0] == TENSORRT for entry in plan["providers"])
    with tempfile.TemporaryDirectory(prefix="graphopt-assignment-") as scratch:
        written = Path(scratch) / "optimized.onnx"
        session = OrtSession(
            model, plan, record_assignment=True, optimized_model=None if tensorrt else written
        )
        copies = _count_copies(written) if written.is_file() else None
    groups = session.assigned_groups()
    return {
        "nodes": {name: provider for provider, names in groups for name in names},
        "copies": copies,
        "engines": sum(provider == TENSORRT for provider, _ in groups),
        "fallbacks": session.fallbacks,
    }


def _count_copies(path: Path) -> int:
    import onnx

    def count(graph: onnx.GraphProto) -> int:
        total = 0
        for node in graph.node:
            total += node.op_type in _COPIES
            total += sum(count(a.g) for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)
        return total

    return count(onnx.load(path, load_external_data=False).graph)


def observe(
    model: bytes, plan: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S
) -> tuple[dict[str, Any] | None, str | None]:
    """:func:`assignment` in a child process; (None, why) if that does not work out."""
    status, found = ask("graphopt.runtime.ort_assignment", model, plan, timeout_s=timeout_s)
    if status is None:
        return None, f"ONNX Runtime did not load the model in {timeout_s:.0f} s"
    if status != 0 or found is None:
        return None, f"ONNX Runtime ended its process with {status} while it loaded the model"
    return (None, str(found["error"])) if "error" in found else (found, None)


def main(folder: Path) -> None:
    """Answer for the model and the plan in `folder`."""
    from graphopt.errors import GraphoptError

    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    try:
        answer = assignment((folder / "model.onnx").read_bytes(), plan)
    except GraphoptError as error:
        answer = {"error": str(error)}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
