"""How the kernels of a compiled model are shown: how many of which kind, and the nodes each computes."""

from __future__ import annotations

from collections import Counter
from typing import Any

from graphopt.cli.output import Output

LISTED = 12
NODES = 3
WIDTH = 48


def kernel_facts(kernels: list[dict[str, Any]]) -> list[tuple[str, object]]:
    """How many kernels there are, by kind, as a named line."""
    if not kernels:
        return []
    kinds = Counter(row["kind"] for row in kernels)
    served = {name for row in kernels for name in row["nodes"]}
    counted = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    return [("kernels", f"{len(kernels)} for {len(served)} nodes: {counted}")]


def show_kernels(output: Output, kernels: list[dict[str, Any]]) -> None:
    """The kernels that compute most nodes, with the nodes of the model as it was given."""
    if not kernels:
        return
    largest = sorted(kernels, key=lambda row: -len(row["nodes"]))[:LISTED]
    output.table(
        ["kernel", "kind", ">nodes", "stands for"],
        [(_short(row["name"]), row["kind"], len(row["nodes"]), _listed(row["origins"])) for row in largest],
        title=f"{len(largest)} of {len(kernels)} kernels, those that compute most nodes (--json lists all)",
    )


def _short(name: str) -> str:
    return name if len(name) <= WIDTH else name[: WIDTH // 2] + "…" + name[1 - WIDTH // 2 :]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:NODES])
    return f"{shown} and {len(names) - NODES} more" if len(names) > NODES else shown
