"""The table of ONNX Runtime's operators says what the installed one says, and registrations are held to it."""

from __future__ import annotations

from typing import Any

import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from graphopt.errors import InvariantError
from graphopt.lowering.contrib import contrib_schemas
from graphopt.lowering.registry import Registry
from graphopt.lowering.xla.ops import load_all

DOMAIN = "com.microsoft"


def test_lowered_operators_have_the_installed_schemas() -> None:
    installed = {(s.domain, s.name): s for s in get_all_operator_schema()}
    lowered = [
        (d, n) for d, n, _ in load_all().entries() if (d, n) in contrib_schemas() and (d, n) in installed
    ]
    assert len(lowered) > 50
    for key in lowered:
        recorded, schema = contrib_schemas()[key], installed[key]
        assert recorded.inputs == tuple(i.name for i in schema.inputs), key
        assert recorded.attributes == set(schema.attributes), key


def test_registrations_are_checked() -> None:
    lowers = Registry("test").lowers

    def missing(x: Any) -> None: ...
    def extra(x: Any, *, alpha: float = 1.0, beta: float = 1.0) -> None: ...
    def renamed(a: Any, *, alpha: float = 1.0) -> None: ...
    def right(x: Any, *, alpha: float = 1.0) -> None: ...

    for function, message in ((missing, "alpha"), (extra, "beta"), (renamed, "operand")):
        with pytest.raises(InvariantError, match=message):
            lowers("QuickGelu", since=(1,), domain=DOMAIN)(function)
    with pytest.raises(InvariantError, match="no QuickerGelu"):
        lowers("QuickerGelu", since=(1,), domain=DOMAIN)(right)
    lowers("QuickGelu", since=(1,), domain=DOMAIN)(right)
