"""Whether XLA gives what an oracle gives for a model of one operator."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx_backend.backend_cases import assert_similar
from onnx_backend.type_cases import TypeCase

import graphopt
from graphopt.errors import GraphoptError
from graphopt.verification.evaluators import EvaluationFailed, evaluate_all

XLA, HOST, UNSUPPORTED, UNCHECKED, DIFFERS = "xla", "host", "unsupported", "unchecked", "differs"

RANDOM = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)
"""Operators that draw (Dropout in training) numbers of their own: only type and shape can be compared."""

ROUNDING = {"float64": 1e-7, "float32": 1e-3, "float16": 1e-2, "bfloat16": 4e-2} | {
    "complex64": 1e-3,
    "complex128": 1e-6,
}
"""Relative and absolute tolerance; the types below 16 bits must be equal, or next to each other."""


@dataclasses.dataclass(frozen=True)
class TypeVerdict:
    """What came of a case: one of the five words, and why it is not ``xla``."""

    kind: str
    why: str = ""


def judge_types(case: TypeCase) -> TypeVerdict:
    """Compile the case for ``xla-cpu`` through the public API, run it, and compare it with both oracles.

    ``unchecked``: no oracle takes it, so that nobody says what is right.
    """
    wanted = {ask.__name__: _ask(ask, case) for ask in (onnxruntime, reference)}
    answers = {name: answer for name, answer in wanted.items() if not isinstance(answer, str)}
    try:
        executable = graphopt.compile(case.model, target="xla-cpu", level=0)
        found = executable.run(case.feeds)
    except GraphoptError as error:
        why = str(error).splitlines()[0]
        return TypeVerdict(UNSUPPORTED if answers else UNCHECKED, why)
    if not answers:
        return TypeVerdict(UNCHECKED, "; ".join(map(str, wanted.values())))
    results = [found[row["name"]] for row in executable.outputs]
    differences = {name: _difference(case, results, answer) for name, answer in answers.items()}
    if all(differences.values()):
        return TypeVerdict(DIFFERS, "; ".join(f"{name}: {text}" for name, text in differences.items()))
    if executable.placement:
        return TypeVerdict(HOST, str(executable.placement[0].get("reason", "")))
    return TypeVerdict(XLA)


def onnxruntime(case: TypeCase) -> dict[str, Any]:
    """The outputs by ONNX Runtime without optimisations."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/case.onnx"
        onnx.save(case.model, path)
        (found,), engine, note = evaluate_all(path, [case.feeds])
    if not engine.startswith("ONNX Runtime"):
        raise EvaluationFailed(note)
    return found


def reference(case: TypeCase) -> dict[str, Any]:
    """The outputs by onnx.reference."""
    names = [v.name for v in case.model.graph.output]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        results = ReferenceEvaluator(case.model).run(names, dict(case.feeds))
    return dict(zip(names, results, strict=True))


def _ask(oracle: Callable[[TypeCase], dict[str, Any]], case: TypeCase) -> list[Any] | str:
    """The outputs by an oracle; a text if it takes no such case, or breaks the operator's own type rule."""
    try:
        found = oracle(case)
    except Exception as error:  # oracles raise what they like on what they do not take
        return f"{oracle.__name__}: {type(error).__name__}: {str(error)[:160]}"
    for value in case.model.graph.output:
        number = value.type.tensor_type.elem_type
        result = found[value.name]
        if not isinstance(result, np.ndarray | np.generic) or not number:
            continue
        declared = onnx.helper.tensor_dtype_to_np_dtype(number)
        if declared != result.dtype and declared.kind not in "OUS":
            return f"{oracle.__name__} gives {result.dtype} where the operator gives {declared}"
    return [found[value.name] for value in case.model.graph.output]


def _difference(case: TypeCase, found: list[Any], wanted: list[Any]) -> str | None:
    for one, other in zip(found, wanted, strict=True):
        tolerance = 0.0
        if isinstance(other, np.ndarray | np.generic):
            other = np.asarray(other)
            tolerance = ROUNDING.get(other.dtype.name, 0.13 if other.dtype.name.startswith("float") else 0.0)
            if case.op_type in RANDOM and isinstance(one, np.ndarray):
                one, other = np.zeros_like(one), np.zeros_like(other)
        try:
            assert_similar(one, other, tolerance, tolerance)
        except (AssertionError, AttributeError, TypeError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return " ".join(lines[:8])[:300] or f"{_kind(one)}, wanted {_kind(other)}"
    return None


def _kind(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
