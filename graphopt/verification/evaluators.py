"""Evaluate a model as it is written: by ONNX Runtime without optimisations, else by onnx.reference.

Runs in a child process as a rule (see :mod:`graphopt.verification.reference`), and imports nothing of
graphopt, so that the child starts quickly.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

OPAQUE_TYPES = {
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), 16),
    "float8e4m3fn": (np.dtype(ml_dtypes.float8_e4m3fn), 17),
    "float8e4m3fnuz": (np.dtype(ml_dtypes.float8_e4m3fnuz), 18),
    "float8e5m2": (np.dtype(ml_dtypes.float8_e5m2), 19),
    "float8e5m2fnuz": (np.dtype(ml_dtypes.float8_e5m2fnuz), 20),
}
"""ONNX Runtime's types without a numpy form there: numpy dtype and ONNX number."""

_NOT_OFFERED = re.compile(
    r"NOT_IMPLEMENTED|opset \d+ is under development|ir[_ ]version|not a registered function/op|"
    r"Could not find an implementation|current official support|No Op registered|"
    r"is not currently registered or supported|"  # an element type, in a build without it
    r"StringNormalizer::Locale",  # the machine has no such locale
    re.IGNORECASE,
)
"""What ONNX Runtime says about models that are newer or other than what it was built for."""


MAX_MESSAGE = 400


class EvaluationFailed(Exception):
    """The model cannot be evaluated; the message is one line."""


def evaluate_all(
    model: str, feeds_list: Sequence[Mapping[str, Any]], *, optimized: bool = False
) -> tuple[list[dict[str, Any]], str, str | None]:
    """The outputs of the model file for each of `feeds_list`, the evaluator's name, and why it is that one.

    Args:
        optimized: let ONNX Runtime optimise the model as it does by default.

    Raises:
        EvaluationFailed: no evaluator can run it.
    """
    import onnxruntime

    try:
        session = _session(model, optimized)
        return [_run(session, feeds) for feeds in feeds_list], f"ONNX Runtime {onnxruntime.__version__}", None
    except _runtime_errors() as error:
        reason = _first_line(error)
        if not _NOT_OFFERED.search(str(error)):
            raise EvaluationFailed(f"ONNX Runtime: {reason}") from error
    results = _evaluate_by_reference(model, feeds_list, reason)
    import onnx

    return results, f"onnx.reference {onnx.__version__}", f"ONNX Runtime does not run it: {reason}"


def open_evaluator(model: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function from feeds to the outputs of the model file, by the evaluator that takes the model.

    Raises:
        EvaluationFailed: from here or from the function: no evaluator can run it.
    """
    try:
        session = _session(model, optimized=False)
    except _runtime_errors() as error:
        reason = _first_line(error)
        if not _NOT_OFFERED.search(str(error)):
            raise EvaluationFailed(f"ONNX Runtime: {reason}") from error
        return lambda feeds: _evaluate_by_reference(model, [feeds], reason)[0]

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return _run(session, feeds)
        except _runtime_errors() as error:
            raise EvaluationFailed(f"ONNX Runtime: {_first_line(error)}") from error

    return run


def _session(model: str, optimized: bool) -> Any:
    """A session on the model file; an IR version above ONNX Runtime's is lowered to the newest it takes.

    The IR version tells the file format apart, not what the operators compute, and a newer exporter
    stamps a newer one on models that use nothing new.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4

    def open_session(source: str | bytes) -> Any:
        return onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )

    try:
        return open_session(model)
    except _runtime_errors() as error:
        newest = re.search(r"max supported IR version: (\d+)", str(error))
        if newest is None:
            raise
    import onnx

    proto = onnx.load(model, load_external_data=False)
    proto.ir_version = int(newest[1])
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.path.dirname(model)
    )
    return open_session(proto.SerializeToString())


def _runtime_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception)]
    return (*own, RuntimeError, ValueError)


def _run(session: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    names = [output.name for output in session.get_outputs()]
    takes = {node.name for node in (*session.get_inputs(), *session.get_overridable_initializers())}
    used = {name: _as_fed(value) for name, value in feeds.items() if name in takes}
    types = [node.type for node in (*session.get_inputs(), *session.get_outputs())]
    if any(type_[len("tensor(") : -1] in OPAQUE_TYPES for type_ in types):
        values = {name: _to_value(array) for name, array in used.items()}
        results = [_from_value(value) for value in session.run_with_ort_values(names, values)]
    else:
        results = session.run(names, used)
    return dict(zip(names, results, strict=True))


def _as_fed(value: Any) -> Any:
    """An array; a sequence as a list of arrays, an absent optional as None."""
    if value is None or isinstance(value, (list, tuple)):
        return None if value is None else [_as_fed(item) for item in value]
    return np.asarray(value)


def _to_value(array: np.ndarray) -> Any:
    from onnxruntime import OrtValue

    for dtype, number in OPAQUE_TYPES.values():
        if array.dtype == dtype:
            bits = np.array(array, order="C", copy=None).view(f"u{dtype.itemsize}")
            return OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)
    return OrtValue.ortvalue_from_numpy(np.array(array, order="C", copy=None))


def _from_value(value: Any) -> Any:
    opaque = OPAQUE_TYPES.get(value.data_type()[len("tensor(") : -1])
    if opaque is None:
        return value.numpy()
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64)) * opaque[0].itemsize
    if count == 0:
        return np.empty(shape, opaque[0])
    return np.frombuffer(ctypes.string_at(value.data_ptr(), count), opaque[0]).reshape(shape).copy()


def _evaluate_by_reference(
    model: str, feeds_list: Sequence[Mapping[str, Any]], why: str
) -> list[dict[str, Any]]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(onnx.load(model))
        names = list(evaluator.output_names)
        takes = set(evaluator.input_names)
        return [
            dict(zip(names, evaluator.run(names, {k: v for k, v in f.items() if k in takes}), strict=True))
            for f in feeds_list
        ]
    # onnx.reference is Python code that meets any model: what it raises is not part of its interface.
    except Exception as error:
        raise EvaluationFailed(f"ONNX Runtime: {why}; onnx.reference: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """What went wrong, without the places in ONNX Runtime's own source and in the file system."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    text = re.sub(r"Load model from .*? failed:\s*", "", text)
    text = re.sub(r"/\S+\.(cc|h|cpp):\d+ (?:.*\) )?", "", text)
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "…"
