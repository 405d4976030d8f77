"""select-rms-parts: spellings, what ONNX Runtime makes of the result, and near misses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from rewriting import check_declines, check_rewrite

from graphopt.passes.select_rms_parts import SelectRmsParts

NUMBERS = {
    "axes": np.array([-1]),
    "first": np.array([0]),
    "eps": np.float32(1e-5),
    "one": np.float32(1),
    "w": np.linspace(0.5, 2, 8, dtype=np.float32),
}
START = "q = Mul(x, x) m = ReduceMean(q, axes) a = Add(m, eps) s = Sqrt(a)"
FORMS = [
    f"{START} r = Reciprocal(s) n = Mul(x, r) y = Mul(n, w)",
    f"{START} r = Div(one, s) n = Mul(x, r) y = Mul(w, n)",
    f"{START} n = Div(x, s) y = Mul(n, w)",
    f"{START} r = Reciprocal(s) v = Mul(r, w) y = Mul(x, v)",
]


def source(body: str, more: str = "", kind: str = "float") -> str:
    names = "int64[1] axes, int64[1] first, float eps, float one, float[8] w"
    text = f"g (float[2, 3, 8] x, float[2, 3, 8] u, {names}) => (float[2, 3, 8] y{more}) {{ {body} }}"
    return text.replace("float", kind)


@pytest.mark.parametrize("body", FORMS)
def test_spellings(body: str, tmp_path: Path) -> None:
    model, _ = check_rewrite(
        SelectRmsParts(), source(body), "Pow ReduceMean Add Sqrt Div Mul", weights=NUMBERS
    )
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        onnx_ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    assert [n.op_type for n in onnx_ir.load(tmp_path / "optimized.onnx").graph] == [
        "SimplifiedLayerNormalization"
    ]


NEAR_MISSES = {
    "no scale": (f"{START} y = Div(x, s)", "", "with a scale only"),
    "another value": (f"{START} n = Div(u, s) y = Mul(n, w)", "", "not what is squared"),
    "product of two": (FORMS[2].replace("Mul(x, x)", "Mul(x, u)"), "", "not what is squared"),
    "first axis": (FORMS[2].replace("axes)", "first)"), "", "last axis"),
    "no root": (FORMS[2].replace("Sqrt(a)", "Exp(a)"), "", "no root"),
    "mean is an output": (FORMS[2], ", float[2, 3, 1] m", "of its own"),
    "sum is an output": (FORMS[2], ", float[2, 3, 1] a", "used elsewhere"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, more, reason = NEAR_MISSES[case]
    check_declines(SelectRmsParts(), source(body, more), reason, weights=NUMBERS)


def test_float64_stays() -> None:
    numbers = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in NUMBERS.items()}
    check_declines(SelectRmsParts(), source(FORMS[2], kind="double"), "not of float32", weights=numbers)
