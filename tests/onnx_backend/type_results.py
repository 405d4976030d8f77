"""What came of each version and element type of each operator: `types.json`, which docs/operators.md shows."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "types.json"
DIFFERENCES = Path(__file__).parent / "type_differences.toml"


class Cell(NamedTuple):
    """A type variable of an operator's version with an element type."""

    op_type: str
    version: int
    variable: str
    dtype: str


Table = dict[str, dict[str, dict[str, dict[str, list[str]]]]]
"""By operator, version, type variable and what came of it: the element types."""


@cache
def known_cells() -> dict[Cell, str]:
    """What `types.json` says of each cell."""
    table: Table = json.loads(RESULTS.read_text(encoding="utf-8"))["operators"] if RESULTS.is_file() else {}
    return {
        Cell(op_type, int(version), variable, dtype): kind
        for op_type, versions in table.items()
        for version, variables in versions.items()
        for variable, kinds in variables.items()
        for kind, dtypes in kinds.items()
        for dtype in dtypes
    }


@cache
def differences() -> dict[str, str]:
    """The reason for each pattern of `type_differences.toml`."""
    groups = tomllib.loads(DIFFERENCES.read_text(encoding="utf-8"))["group"]
    return {pattern: group["reason"] for group in groups for pattern in group["cases"]}


def may_differ(cell: Cell) -> str | None:
    """Why the cell may differ from the oracles, or None."""
    text = f"{cell.op_type} {cell.variable} {cell.dtype}"
    return next((why for pattern, why in differences().items() if fnmatchcase(text, pattern)), None)


def write_cells(found: Iterable[tuple[str, int, str, str, str]]) -> None:
    """Write what was found of some cells, and what was known of the others."""
    cells = known_cells() | {Cell(*row[:4]): row[4] for row in found}
    table: Table = {}
    for cell, kind in sorted(cells.items()):
        variables = table.setdefault(cell.op_type, {}).setdefault(str(cell.version), {})
        variables.setdefault(cell.variable, {}).setdefault(kind, []).append(cell.dtype)
    import onnx

    document = {"onnx": onnx.__version__, "operators": table}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
