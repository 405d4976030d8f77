"""fold-constants on every single-node case of the ONNX backend suite, all inputs constants."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.ir.evaluate import evaluable_ops
from graphopt.ir.ingest import normalize
from graphopt.ir.query import constant_tensor, is_op
from graphopt.passes.fold_constants import FoldConstants

# What the suite expects to be folded at the least; a fall means that something is no longer evaluated.
FOLDED_AT_LEAST = 800

# The suite's own expectation is written with four digits.
ROUNDED = frozenset({"test_averagepool_2d_ceil_last_window_starts_on_pad"})


def cases() -> Iterator[tuple[str, onnx.ModelProto, list[Any], list[Any]]]:
    """Name, model with its inputs made constants, and expected outputs."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the suite divides by zero on purpose
        found = collect_testcases(None)
    for case in found:
        if (
            case.model is None
            or case.name in ROUNDED
            or not {n.op_type for n in case.model.graph.node} <= evaluable_ops()
        ):
            continue
        inputs, outputs = case.data_sets[0]
        if all(isinstance(array, np.ndarray) for array in (*inputs, *outputs)):
            yield case.name, case.model, inputs, outputs


def with_constants(model: onnx.ModelProto, inputs: list[np.ndarray]) -> onnx.ModelProto:
    """`model` with its inputs as initializers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = [value.name for value in copy.graph.input]
    del copy.graph.input[:]
    copy.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in zip(names, inputs, strict=True)
    )
    return copy


def difference(found: np.ndarray, expected: np.ndarray) -> str | None:
    """What is different beyond rounding, or None."""
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return f"{found.dtype}{found.shape} instead of {expected.dtype}{expected.shape}"
    if found.dtype.kind in "iub":
        return None if np.array_equal(found, expected) else "other integers"
    tolerance = 1e-5 if found.dtype.itemsize > 2 else 2e-3
    wide = found.astype(np.float64), expected.astype(np.float64)
    close = np.allclose(*wide, rtol=tolerance, atol=tolerance, equal_nan=True)
    return None if close else f"{wide[0].reshape(-1)[:4]} instead of {wide[1].reshape(-1)[:4]}"


@pytest.mark.slow
def test_folded_results_are_those_of_the_suite() -> None:
    folded, wrong = 0, []
    for name, proto, inputs, outputs in cases():
        try:
            model = normalize(onnx_ir.from_proto(with_constants(proto, inputs)))
        except GraphoptError:
            continue  # forms that ingest refuses have tests of their own
        FoldConstants().run(model)
        for value, expected in zip(model.graph.outputs, outputs, strict=False):
            carrier = value.producer()
            tensor = constant_tensor(carrier.inputs[0]) if carrier and is_op(carrier, "Identity") else None
            if tensor is None:
                continue
            folded += 1
            fault = difference(tensor.numpy(), np.asarray(expected))
            if fault is not None:
                wrong.append(f"{name}: {fault}")
    assert not wrong
    assert folded >= FOLDED_AT_LEAST
