"""One operator with operands and attributes, what its two oracles say of it, and whether XLA agrees.

The oracles are onnx.reference and ONNX Runtime without optimisations. Where they agree XLA must agree. Where
they do not, PREFERRED says which one follows the standard's text, and why; where it says nothing, XLA must agree
with one of them.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir
from checking import make_model, run_onnxruntime, run_xla
from onnx.reference import ReferenceEvaluator

from graphopt.errors import GraphoptError, LoweringError, UnsupportedError
from graphopt.ir import Model
from graphopt.lowering.xla.emit import StaticOperandRequired

REFERENCE, RUNTIME = "onnx.reference", "ONNX Runtime"

RELATIVE = {"float64": 1e-9, "float32": 2e-4, "float16": 4e-3, "bfloat16": 2e-2}
SMALLEST = {"float64": 1e-300, "float32": 1e-36, "float16": 1e-6, "bfloat16": 1e-36}


@dataclasses.dataclass(frozen=True)
class OpCase:
    """A node and its feeds.

    Attributes:
        inputs: in order, by any name; None is absent.
        constant: the inputs that are initializers, where they are given.
        scaled: compare with the largest finite result in mind, as is due to sums; else each element by itself.
        tolerance: by what the relative tolerance of the type is multiplied.
        absolute: the absolute tolerance, where results may cancel.
        steps: by how much rounded integers may differ.
        outputs: how many, or their names with "" for an absent one.
    """

    op_type: str
    inputs: dict[str, np.ndarray | None]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    outputs: int | Sequence[str] = 1
    opset: int = 21
    constant: tuple[str, ...] = ()
    scaled: bool = False
    tolerance: float = 1.0
    absolute: float = 0.0
    steps: int = 0

    def __repr__(self) -> str:
        operands = ", ".join(
            f"{k}={'none' if v is None else f'{v.dtype}{list(v.shape)}' + (f' {v.tolist()}' if v.size <= 12 else '')}"
            for k, v in self.inputs.items()
        )
        attributes = dict(self.attributes.items())
        return f"{self.op_type}-{self.opset}({operands}; {attributes}; outputs={self.outputs})"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of one case: `kind` is agrees, one (of two oracles), refused, no oracle, or wrong."""

    kind: str
    message: str = ""


def judge(case: OpCase, preferred: str | None = None) -> Verdict:
    """Run `case` by XLA and by the oracles."""
    constant = [name for name in case.constant if case.inputs.get(name) is not None]
    model, feeds = make_model(
        case.op_type, case.inputs, case.outputs, opset=case.opset, constant=constant, **case.attributes
    )
    wanted = {name: _run_oracle(name, model, feeds) for name in (REFERENCE, RUNTIME)}
    answers = {name: found for name, found in wanted.items() if not isinstance(found, str)}
    try:
        found = run_xla(model, feeds)
    except (UnsupportedError, StaticOperandRequired) as error:
        return Verdict("refused", str(error))
    except LoweringError as error:
        if not answers:
            return Verdict("no oracle", str(wanted))
        return Verdict("wrong", f"{case}\nXLA: {error}\nboth oracles take it: {len(answers) == 2}")
    except GraphoptError as error:
        return Verdict("refused", str(error))
    if not answers:
        return Verdict("no oracle", str(wanted))
    reports = {name: _difference(case, found, answer) for name, answer in answers.items()}
    if not any(reports.values()):
        return Verdict("agrees")
    if preferred in reports:
        if reports[preferred] is None:
            return Verdict("agrees")
    elif len(reports) == 2 and None in reports.values():
        (wrong,) = (f"{name}: {text}" for name, text in reports.items() if text)
        return Verdict("one", f"{case}\n{wrong}")
    return Verdict(
        "wrong",
        "\n".join([str(case), *(f"{n}: {t}" for n, t in reports.items()), f"failed: {_errors(wanted)}"]),
    )


def _errors(wanted: dict[str, Any]) -> dict[str, str]:
    return {name: answer for name, answer in wanted.items() if isinstance(answer, str)}


def _run_oracle(name: str, model: Model, feeds: dict[str, np.ndarray]) -> dict[str, Any] | str:
    """The outputs, or why there are none."""
    try:
        if name == RUNTIME:
            return run_onnxruntime(model, feeds)
        names = [v.name or "" for v in model.graph.outputs]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(onnx_ir.to_proto(model)).run(names, dict(feeds))
        return dict(zip(names, (np.asarray(r) for r in results), strict=True))
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"


def _difference(case: OpCase, found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """How the outputs differ, or None."""
    for name, expected in wanted.items():
        actual = np.asarray(found[name])
        if actual.dtype != expected.dtype or actual.shape != expected.shape:
            return (
                f"{name}: {actual.dtype}{list(actual.shape)}, wanted {expected.dtype}{list(expected.shape)}"
            )
        bad = ~_close(case, actual, expected)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(np.atleast_1d(bad))[0])
            return f"{name}{list(at)}: {np.atleast_1d(actual)[at]!r}, wanted {np.atleast_1d(expected)[at]!r} ({bad.sum()} of {bad.size})"
    return None


def _close(case: OpCase, actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    if expected.dtype.kind in "biu" or (expected.dtype.name not in RELATIVE and expected.dtype.kind != "c"):
        if expected.dtype.kind == "V" or expected.dtype.isbuiltin != 1:  # the types of ml_dtypes
            actual, expected = actual.astype(np.float32), expected.astype(np.float32)
        if case.steps:
            return np.abs(actual.astype(np.int64) - expected.astype(np.int64)) <= case.steps
        return (actual == expected) | ((actual != actual) & (expected != expected))  # noqa: PLR0124
    key = "float32" if expected.dtype.kind == "c" else expected.dtype.name
    relative, absolute = case.tolerance * RELATIVE[key], max(SMALLEST[key], case.absolute)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    actual, expected = actual.astype(wide), expected.astype(wide)
    finite = np.abs(expected[np.isfinite(expected)])
    if case.scaled and finite.size:
        absolute = max(absolute, relative * float(finite.max()))
    with np.errstate(all="ignore"):
        near = np.abs(actual - expected) <= absolute + relative * np.abs(expected)
        return near | (actual == expected) | (np.isnan(actual) & np.isnan(expected))
