"""raise-batched-matmul."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.raise_batched_matmul import RaiseBatchedMatmul

FLAT = "r = Reshape(x, rows)"
BACK = "y = Reshape(g, batch)"


def source(body: str, outputs: str = "float[A, B, C] y") -> str:
    return f"""g (float[N, 3, 4] x, float[4, 5] w, float[5, 4] v, float[5] b, float[1, 5] c, float[6, 1] d, float[4, 5] u,
        int64[2] rows, int64[3] batch, int64[3] other) => ({outputs}) {{ {body} }}"""


def weights() -> dict[str, np.ndarray]:
    found = arrays(w=(4, 5), v=(5, 4), b=(5,), c=(1, 5), d=(6, 1))
    integers = {"rows": [-1, 4], "batch": [-1, 3, 5], "other": [3, -1, 5]}
    return found | {k: np.array(v, np.int64) for k, v in integers.items()}


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (f"{FLAT} g = Gemm(r, w, b) {BACK}", "MatMul Add"),
        (f"{FLAT} g = Gemm(r, w) {BACK}", "MatMul"),
        (f"r = Flatten<axis = 2>(x) g = Gemm(r, w, c) {BACK}", "MatMul Add"),
        (f"{FLAT} g = Gemm<transB = 1>(r, v, b) {BACK}", "Transpose MatMul Add"),
        (f"{FLAT} g = Gemm(r, w, b) s = Shape<end = 2>(x) l = Shape(b) t = Concat<axis = 0>(s, l) y = Reshape(g, t)",
         "Shape Shape Concat MatMul Add"),
    ],
)  # fmt: skip
def test_rewrites(body: str, after: str) -> None:
    if "Concat" in body:
        after = "MatMul Add"
    check_rewrite(RaiseBatchedMatmul(), source(body), after, weights=weights(), dims={"N": 2})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{FLAT} g = Gemm<alpha = 0.5>(r, w, b) {BACK}", "scales"),
        (f"{FLAT} g = Gemm(r, w, d) {BACK}", "same for all rows"),
        (f"{FLAT} g = Gemm(r, u, b) {BACK}", "no constant"),
        (f"{FLAT} g = Gemm(r, w, b) y = Reshape(g, other)", "provably the batch"),
        (f"{FLAT} e = Exp(r) g = Gemm(e, w, b) {BACK}", "not reshaped"),
        (f"{FLAT} g = Gemm(r, w, b) {BACK} z = Exp(g)", "for it alone"),
        (f"{FLAT} g = Gemm<transB = 1>(r, v, b) {BACK} z = Neg(v)", "used elsewhere"),
    ],
)
def test_near_misses(body: str, reason: str) -> None:
    outputs = "float[A, B, C] y" + (", float[D, E] z" if "z = " in body else "")
    check_declines(RaiseBatchedMatmul(), source(body, outputs), reason, weights=weights())
