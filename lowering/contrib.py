"""The operators that ONNX Runtime adds to the standard: their inputs and attributes, from its own schemas.

``contrib_schemas.tsv`` is written by ``python docs/generate_contrib_schemas.py`` from the installed ONNX
Runtime, so that lowerings are checked against it without importing it.
"""

from __future__ import annotations

import csv
import dataclasses
from functools import cache
from importlib import resources


@dataclasses.dataclass(frozen=True)
class ContribSchema:
    """The form of one operator.

    Attributes:
        inputs: the names of the formal inputs, in order.
        variadic: whether the last of them stands for any number.
        attributes: the attribute names.
    """

    inputs: tuple[str, ...]
    variadic: bool
    attributes: frozenset[str]


@cache
def contrib_schemas() -> dict[tuple[str, str], ContribSchema]:
    """The schemas by (domain, operator); all of them are of version 1."""
    text = (resources.files(__package__) / "contrib_schemas.tsv").read_text(encoding="utf-8")
    table = {}
    for row in csv.DictReader(text.splitlines(), delimiter="\t"):
        inputs = [name for name in row["inputs"].split(",") if name]
        attributes = [name for name in row["attributes"].split(",") if name]
        table[row["domain"], row["op"]] = ContribSchema(
            tuple(name.rstrip("*") for name in inputs),
            bool(inputs) and inputs[-1].endswith("*"),
            frozenset(attributes),
        )
    return table
