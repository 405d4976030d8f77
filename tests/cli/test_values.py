"""Option values: what they mean, and the output helpers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.cli import values
from graphopt.cli.doctor import satisfies
from graphopt.cli.feeds import write_npz
from graphopt.cli.output import clean, duration, plain, short, size
from graphopt.errors import UsageError
from graphopt.target import Target


def test_shapes() -> None:
    assert values.shapes(["x:1x3x224x224", "y:1,3,224"]) == {"x": [1, 3, 224, 224], "y": [1, 3, 224]}
    assert values.shapes(["x:Nx3xHxW"]) == {"x": ["N", 3, "H", "W"]}
    assert values.shapes(["serving:input:0:2x3"]) == {"serving:input:0": [2, 3]}
    assert values.shapes(["x:max_len,3"]) == {"x": ["max_len", 3]}
    assert values.shapes(["x:batchx3"]) == {"x": ["batch", 3]}
    assert values.shapes(["scalar:"]) == {"scalar": []}


@pytest.mark.parametrize("text", ["x", ":1x2", "x:0x2", "x:-1x2", "x:1xx2", "x:1.5", "x:١", "x:1 2"])
def test_wrong_shapes(text: str) -> None:
    with pytest.raises(UsageError, match="GO701"):
        values.shapes([text])


def test_dims() -> None:
    assert values.dims(["N=8", "M=1:8:32", "a=b=4"]) == {"N": 8, "M": (1, 8, 32), "a=b": 4}


@pytest.mark.parametrize("text", ["N", "=8", "N=", "N=0", "N=x", "N=1:2", "N=8:4:1", "N=1,8", "N=²"])
def test_wrong_dims(text: str) -> None:
    with pytest.raises(UsageError, match="GO701"):
        values.dims([text])


def test_constants(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.arange(3))
    found = values.constants(["sr=16000", "f=-1.5e3", "on=true", "m=[[1,2],[3,4]]", f"w=@{tmp_path}/w.npy"])
    assert found.pop("w").tolist() == [0, 1, 2]
    assert found == {"sr": 16000, "f": -1500.0, "on": True, "m": [[1, 2], [3, 4]]}


@pytest.mark.parametrize(
    "text", ["sr", "sr=", "sr=abc", 'sr="text"', "sr=null", "sr={}", "sr=[1,null]", "sr=@x"]
)
def test_wrong_constants(text: str) -> None:
    with pytest.raises(UsageError, match="GO701"):
        values.constants([text])


def test_deep_constants_are_refused() -> None:
    with pytest.raises(UsageError, match="GO701"):
        values.constants(["x=" + "[" * 100_000])


@pytest.mark.parametrize(
    ("source", "target", "folder"),
    [
        ("a/mnist.onnx", "tpu:v5p:4x4x4", "mnist.tpu-v5p-4x4x4"),
        ("-rf <x>.onnx", "cpu", "rf-x.cpu"),
        ("...onnx", "cpu", "model.cpu"),
        ("../..", "cpu", "model.cpu"),
    ],
)
def test_default_folders_are_harmless(source: str, target: str, folder: str) -> None:
    assert values.default_folder(source, Target.parse(target)) == Path(folder)


def test_control_characters_are_shown_not_sent() -> None:
    assert clean("a\x1b[31mb\x07\u202ec\r") == "a\\x1b[31mb\\x07\\u202ec\\r"
    assert clean("größe →\nnext\tcell") == "größe →\nnext\tcell"


def test_json_has_no_numbers_that_are_none() -> None:
    made = plain({"a": float("nan"), "b": [float("-inf")], "c": np.float32(1.5), "d": np.arange(2), 3: (1,)})
    assert made == {"a": "nan", "b": ["-inf"], "c": 1.5, "d": [0, 1], "3": [1]}


def test_quantities() -> None:
    assert [size(n) for n in (0, 1023, 1024, 3 << 29, None)] == ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "?"]
    assert [short(n) for n in (0, 999, 12_345, 7.5e9, None)] == ["0", "999", "12.3 k", "7.5 G", "?"]
    assert [duration(s) for s in (2.5, 0.0123, 4.2e-6, 0)] == ["2.5 s", "12.3 ms", "4.2 us", "0 ns"]


def test_version_ranges() -> None:
    assert satisfies("1.19.0", ">=1.19,<2")
    assert satisfies("2.10", ">=2.9")
    assert satisfies("1.23rc1", "")
    assert not satisfies("2.0", "<2,>=1.1")
    assert not satisfies("1.1.9", ">=1.2")


def test_npz_files_hold_every_kind_of_output(tmp_path: Path) -> None:
    import ml_dtypes

    narrow = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    arrays = {
        "file": np.arange(3),
        "a/b": np.array(["x", "yz"], object),
        "narrow": narrow,
        "list": [np.ones(1)],
    }
    notes = write_npz(tmp_path / "out.npz", arrays)
    assert len(notes) == 1
    assert "bfloat16" in notes[0]
    with np.load(tmp_path / "out.npz", allow_pickle=False) as found:
        assert sorted(found.files) == ["a/b", "file", "list.0", "narrow"]
        assert found["file"].tolist() == [0, 1, 2]
        assert found["a/b"].tolist() == ["x", "yz"]
        assert found["narrow"].tolist() == [1.5, -2.0]
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]


@pytest.mark.parametrize(("error", "hinted"), [(1e-7, True), (1e-4, False)])
def test_rounding_is_told_from_errors(error: float, hinted: bool) -> None:
    from graphopt.cli.verify import _is_rounding
    from graphopt.verification import Tolerance, VerifyReport, compare

    expected = {"p": np.full(4, 1e-4, np.float32), "same": np.ones(2, np.float32)}
    actual = {"p": expected["p"] + np.float32(error), "same": expected["same"]}
    run = compare(expected, actual, Tolerance(0.0, 0.0))
    report = VerifyReport([run], ["seed 0"], "ONNX Runtime", None, "tolerance")
    assert not report.ok
    assert _is_rounding(report) is hinted
