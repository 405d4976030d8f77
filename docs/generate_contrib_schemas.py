"""Write lowering/contrib_schemas.tsv from the schemas of the installed ONNX Runtime.

Columns: domain (empty = ai.onnx), op, inputs in order (``*`` marks a variadic one), attributes. Operators of
the default domain are listed where the onnx package does not know them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx.defs

TABLE = Path(__file__).resolve().parents[1] / "lowering" / "contrib_schemas.tsv"
STANDARD_ADDITIONS = ("SimplifiedLayerNormalization",)
"""The operators of the default domain that ONNX Runtime's optimisers write and the standard lacks."""


def table() -> str:
    """The file's text."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    rows = ["domain\top\tinputs\tattributes"]
    schemas = [s for s in get_all_operator_schema() if s.domain == "com.microsoft" or _is_addition(s)]
    for schema in sorted(schemas, key=lambda s: (s.domain, s.name)):
        inputs = [f"{i.name}{'*' if _is_variadic(i) else ''}" for i in schema.inputs]
        attributes = ",".join(sorted(schema.attributes))
        rows.append("\t".join((schema.domain, schema.name, ",".join(inputs), attributes)))
    return "\n".join(rows) + "\n"


def _is_addition(schema: Any) -> bool:
    return schema.domain == "" and schema.name in STANDARD_ADDITIONS and not onnx.defs.has(schema.name)


def _is_variadic(parameter: Any) -> bool:
    return str(parameter.option).endswith("Variadic")


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
