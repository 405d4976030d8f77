"""What the installed ONNX Runtime says about itself, by functions that it does not document.

The one place where they are called. Each answer is None, or empty, where this ONNX Runtime has no such
function.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

Formals = tuple[tuple[str, str], ...]
KernelRow = tuple[str, str, int, int | None, dict[str, frozenset[str]]]
CONTRIB_DOMAIN = "com.microsoft"
_OPEN = (1 << 31) - 1


def _state() -> Any:
    from onnxruntime.capi import onnxruntime_pybind11_state

    return onnxruntime_pybind11_state


@cache
def contrib_formals() -> dict[str, tuple[Formals, Formals]]:
    """(type parameter, name) of the inputs and outputs of ONNX Runtime's own operators, by name."""
    state = _state()
    if not hasattr(state, "get_all_operator_schema"):
        return {}
    return {
        schema.name: (
            tuple((f.typeStr, f.name) for f in schema.inputs),
            tuple((f.typeStr, f.name) for f in schema.outputs),
        )
        for schema in state.get_all_operator_schema()
        if schema.domain == CONTRIB_DOMAIN
    }


@cache
def cpu_kernels() -> tuple[KernelRow, ...] | None:
    """The kernels of the CPU provider: domain, operator, first and last since-version, types.

    Not those of other providers: asking for them ends the process where their libraries are missing.
    """
    state = _state()
    if not hasattr(state, "get_registered_ep_kernel_defs"):
        return None
    rows = []
    for kernel in state.get_registered_ep_kernel_defs("CPUExecutionProvider"):
        first, last = kernel.version_range
        types = {name: frozenset(map(_type_name, found)) for name, found in kernel.type_constraints.items()}
        rows.append((kernel.domain, kernel.op_name, first, None if last == _OPEN else last, types))
    return tuple(rows)


def _type_name(text: str) -> str:
    """``tensor(float)`` as ``float``, ``seq(tensor(float))`` as ``seq:float``; others as they are."""
    match = re.fullmatch(r"(?:optional\()?(seq\()?tensor\((\w+)\)+", text)
    return text if match is None else ("seq:" if match[1] else "") + match[2]
