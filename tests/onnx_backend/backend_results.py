"""How many cases of the backend suite pass for each operator: a file that docs/operators.md is made of."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import onnx
from onnx_backend.backend_cases import all_cases

RESULTS = Path(__file__).parent / "results.json"


def write_results(passed: set[str], ran: set[str], path: Path = RESULTS) -> None:
    """Write, for each default-domain operator, how many of the cases with it pass out of how many.

    A run of some cases only renews what is known of these. A case that never ran has not passed.

    Args:
        passed, ran: test ids, ``node-test_abs``.
    """
    known = json.loads(path.read_text(encoding="utf-8"))["not_passing"] if path.is_file() else None
    cases: Counter[str] = Counter()
    good: Counter[str] = Counter()
    not_passing = []
    every = {f"{case.kind}-{case.name}": case for case in all_cases()}
    for name, case in every.items():
        ops = _operators(case.model.graph)
        cases.update(ops)
        if name in passed or (name not in ran and known is not None and name not in known):
            good.update(ops)
        else:
            not_passing.append(name)
    found = {
        "onnx": onnx.__version__,
        "passed": len(every) - len(not_passing),
        "cases": len(every),
        "operators": {op: {"passed": good[op], "cases": count} for op, count in sorted(cases.items())},
        "not_passing": sorted(not_passing),
    }
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _operators(graph: onnx.GraphProto) -> set[str]:
    found = set()
    for node in graph.node:
        if node.domain in ("", "ai.onnx"):
            found.add(node.op_type)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found |= _operators(inner)
    return found
