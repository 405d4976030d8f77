"""raise-hard-swish against ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from rewriting import check_declines, check_rewrite

from graphopt.passes.raise_hard_swish import RaiseHardSwish

NUMBERS = {
    "zero": 0.0,
    "one": 1.0,
    "three": 3.0,
    "six": 6.0,
    "sixth": 1 / 6,
    "half": 0.5,
    "fifth": 0.2,
    "five": 5.0,
}
GATE = "a = Add(x, three) c = Clip(a, zero, six)"


def source(body: str, outputs: str = "", kind: str = "float") -> str:
    names = ", ".join(f"{kind} {n}" for n in NUMBERS)
    return f"g ({kind}[N, 9] x, {names}) => ({kind}[N, 9] y{outputs}) {{ {body} }}"


def weights(dtype: type = np.float32) -> dict[str, np.ndarray]:
    return {k: np.asarray(v, dtype) for k, v in NUMBERS.items()}


def feeds(dtype: type = np.float32) -> dict[str, np.ndarray]:
    return {"x": np.linspace(-5, 5, 27).reshape(3, 9).astype(dtype)}


@pytest.mark.parametrize(
    "body",
    [
        f"{GATE} p = Mul(x, c) y = Div(p, six)",
        f"{GATE} p = Mul(c, x) y = Mul(sixth, p)",
        f"{GATE} d = Div(c, six) y = Mul(x, d)",
        f"{GATE} d = Mul(c, sixth) y = Mul(d, x)",
        f"{GATE} d = Div(x, six) y = Mul(d, c)",
        "h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul(x, h)",
    ],
)
@pytest.mark.parametrize("kind", ["float", "float16"])
def test_hard_swish(body: str, kind: str) -> None:
    dtype = np.float32 if kind == "float" else np.float16
    check_rewrite(
        RaiseHardSwish(),
        source(body, kind=kind),
        "HardSwish",
        weights=weights(dtype),
        feeds=feeds(dtype),
        rtol=None if kind == "float" else 2e-3,
    )


@pytest.mark.parametrize(
    "body",
    [
        f"{GATE} y = Div(c, six)",
        f"{GATE} y = Mul(sixth, c)",
        "m = Mul(x, fifth) a = Add(m, half) y = Clip(a, zero, one)",
        "m = Div(x, five) a = Add(half, m) y = Clip(a, zero, one)",
    ],
)
def test_hard_sigmoid(body: str) -> None:
    check_rewrite(RaiseHardSwish(), source(body), "HardSigmoid", weights=weights(), feeds=feeds())


def test_inside_a_branch() -> None:
    names = ", ".join(f"float {n}" for n in NUMBERS)
    text = f"""g (float[9] x, bool p, {names}) => (float[9] r) {{
        r = If (p) <then_branch = t () => (float[9] y) {{ {GATE} m = Mul(x, c) y = Div(m, six) }},
                    else_branch = e () => (float[9] z) {{ z = Relu(x) }}>
    }}"""
    check_rewrite(RaiseHardSwish(), text, "If HardSwish Relu", weights=weights())


NEAR_MISSES = {
    "clips elsewhere": (
        "a = Add(x, three) c = Clip(a, zero, five) p = Mul(x, c) y = Div(p, six)",
        "",
        "gate is not",
    ),
    "other shift": (
        "a = Add(x, five) c = Clip(a, zero, six) p = Mul(x, c) y = Div(p, six)",
        "",
        "gate is not",
    ),
    "clips below one": ("a = Add(x, three) c = Clip(a, one, six) y = Div(c, six)", "", "does not clip at 0"),
    "no upper end": ("a = Add(x, three) c = Clip(a, zero) p = Mul(x, c) y = Div(p, six)", "", "no clip"),
    "other divisor": (f"{GATE} y = Div(c, five)", "", "end at 1"),
    "gate of another": (f"w = Relu(x) {GATE} p = Mul(w, c) y = Div(p, six)", "", "of another value"),
    "gate is an output": (f"{GATE} p = Mul(x, c) y = Div(p, six)", ", float[N, 9] c", "no clip"),
    "sum is an output": (f"{GATE} y = Div(c, six)", ", float[N, 9] a", "used elsewhere"),
    "other HardSigmoid": ("h = HardSigmoid(x) y = Mul(x, h)", "", "gate is not"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, outputs, reason = NEAR_MISSES[case]
    check_declines(RaiseHardSwish(), source(body, outputs), reason, weights=weights())


@pytest.mark.parametrize(("kind", "dtype"), [("double", np.float64), ("bfloat16", ml_dtypes.bfloat16)])
def test_types_without_kernels_or_of_newer_opsets_stay(kind: str, dtype: type) -> None:
    body = f"{GATE} p = Mul(x, c) y = Div(p, six)"
    check_declines(RaiseHardSwish(), source(body, kind=kind), "type", weights=weights(dtype))
    body = f"{GATE} y = Div(c, six)"
    check_declines(RaiseHardSwish(), source(body, kind=kind), "type", weights=weights(dtype))
