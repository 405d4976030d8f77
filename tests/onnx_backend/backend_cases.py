"""The cases of the ONNX project's own backend suite, each as a model with feeds and expected outputs."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted", "real")


@dataclasses.dataclass(frozen=True)
class Case:
    """One case: `kind` is the suite's folder, `name` is its own name for it."""

    kind: str
    name: str
    test: TestCase

    @property
    def model(self) -> onnx.ModelProto:
        """The model to run."""
        return onnx.load(self._path) if self.test.model is None else self.test.model

    @property
    def _path(self) -> Path:
        if self.test.url is not None:  # "light" models: the graph of a well-known network, no weights file
            return Path(onnx.__file__).parent.parent / self.test.url
        return Path(self.test.model_dir) / "model.onnx"

    def data_sets(self, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
        """Pairs of inputs and expected outputs, in the order of the graph's."""
        if self.test.data_sets is not None:
            for inputs, outputs in self.test.data_sets:
                yield [_plain(x) for x in inputs], [_plain(x) for x in outputs]
        elif self.test.url is not None:
            yield (
                _dummy_feeds(model),
                _read(sorted(self._path.parent.glob(f"{self._path.stem}_output_*.pb")), model),
            )
        else:
            for folder in sorted(self._path.parent.glob("test_data_set*")):
                inputs = _numbered(folder, "input")
                yield _read(inputs, model, model.graph.input), _read(_numbered(folder, "output"), model)


def all_cases() -> list[Case]:
    """Every case that is on disk, unique by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # the suite computes overflows on purpose
        cases = [Case(kind, test.name, test) for kind in KINDS for test in load_model_tests(kind=kind)]
    return sorted(cases, key=lambda case: (KINDS.index(case.kind), case.name))


def assert_similar(found: Any, expected: Any, rtol: float, atol: float) -> None:
    """The suite's own comparison: type, shape and numbers, sequences item by item."""
    if isinstance(expected, (list, tuple)):
        assert isinstance(found, (list, tuple)), type(found)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_similar(one, other, rtol, atol)
        return
    assert found.shape == expected.shape
    strings = expected.dtype.kind in "OUS"
    assert (strings and found.dtype.kind in "OUS") or found.dtype == expected.dtype
    if strings:
        assert found.tolist() == expected.tolist()
        return
    if found.dtype.name == "bfloat16":
        rtol = max(rtol, 2**-6)  # two units in the last place, as in the suite's own runner
    if found.dtype.isbuiltin != 1:  # numpy cannot compare the types of ml_dtypes by tolerance
        found, expected = found.astype(np.float32), expected.astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def _plain(item: Any) -> Any:
    """Numbers out of what data sets hold: arrays, scalars, lists and TensorProtos."""
    if isinstance(item, onnx.TensorProto):
        return numpy_helper.to_array(item)
    if isinstance(item, (list, tuple)):
        return [_plain(x) for x in item]
    return None if item is None else np.asarray(item)


def _numbered(folder: Path, stem: str) -> list[Path]:
    return sorted(folder.glob(f"{stem}_*.pb"), key=lambda path: int(path.stem.rsplit("_", 1)[1]))


def _read(paths: list[Path], model: onnx.ModelProto, values: Any = None) -> list[Any]:
    declared = model.graph.output if values is None else values
    return [_read_one(path, value.type) for path, value in zip(paths, declared, strict=False)]


def _read_one(path: Path, declared: onnx.TypeProto) -> Any:
    data = path.read_bytes()
    kind = declared.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def _dummy_feeds(model: onnx.ModelProto) -> list[np.ndarray]:
    """What the expected outputs of the light models were computed on: the suite's own dummy data."""
    from onnx.backend.test.runner import Runner

    held = {initializer.name for initializer in model.graph.initializer}
    return [
        Runner.generate_dummy_data(value, seed=0, name=value.name, random=False)
        for value in model.graph.input
        if value.name not in held
    ]
