"""The matmul precision that was asked for is the one that every contraction of the program carries."""

from __future__ import annotations

import re
from typing import Any

import pytest

import graphopt
from graphopt.ir import Model
from graphopt.ir.io import load
from graphopt.lowering.xla.aot import tpu_compiler_installed
from graphopt.lowering.xla.export import export_model

HEADER = '<ir_version: 10, opset_import: ["" : 23]> '
MODELS = {
    "MatMul": "g (float[4, 8] x, float[8, 5] w) => (float[4, 5] y) { y = MatMul(x, w) }",
    "MatMul batched": "g (float[2, 4, 8] x, float[2, 8, 5] w) => (float[2, 4, 5] y) { y = MatMul(x, w) }",
    "Gemm": "g (float[8, 4] x, float[8, 5] w) => (float[4, 5] y) { y = Gemm<transA = 1>(x, w) }",
    "Conv": "g (float[1, 4, 8, 8] x, float[6, 2, 3, 3] w) => (float[1, 6, 6, 6] y) { y = Conv<group = 2>(x, w) }",
    "ConvTranspose": "g (float[1, 4, 5] x, float[4, 3, 3] w) => (float[1, 3, 7] y) { y = ConvTranspose(x, w) }",
    "Einsum": 'g (float[4, 8] x, float[8, 5] w) => (float[4, 5] y) { y = Einsum<equation = "ab,bc->ac">(x, w) }',
    "LSTM": "g (float[3, 2, 4] x, float[1, 20, 4] w, float[1, 20, 5] r) => (float[3, 1, 2, 5] y)"
    " { y = LSTM<hidden_size = 5>(x, w, r) }",
    "GRU": "g (float[3, 2, 4] x, float[1, 15, 4] w, float[1, 15, 5] r) => (float[3, 1, 2, 5] y)"
    " { y = GRU<hidden_size = 5>(x, w, r) }",
    "RNN": "g (float[3, 2, 4] x, float[1, 5, 4] w, float[1, 5, 5] r) => (float[3, 1, 2, 5] y)"
    " { y = RNN<hidden_size = 5>(x, w, r) }",
    "Attention": "g (float[1, 2, 6, 8] q, float[1, 2, 6, 8] k, float[1, 2, 6, 8] v) => (float[1, 2, 6, 8] y)"
    " { y = Attention(q, k, v) }",
}
NAMES = {None: "HIGHEST", "fp32": "HIGHEST", "tf32": "HIGH", "bf16": "DEFAULT", "fp16": "DEFAULT"}


def contraction_precisions(stablehlo: str) -> list[str]:
    """The precision of every contraction in a StableHLO text; DEFAULT where none is written."""
    lines = [x for x in stablehlo.splitlines() if re.search(r"stablehlo\.(dot_general|dot|convolution)\b", x)]
    found = []
    for line in lines:
        words = re.findall(r"\b(HIGHEST|HIGH|DEFAULT)\b", line)
        found.append("/".join(sorted(set(words))) or "DEFAULT")
    return found


@pytest.mark.parametrize("precision", [None, "fp32", "tf32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_every_contraction_carries_it(name: str, precision: str | None) -> None:
    model: Model = load(HEADER + MODELS[name])
    exported, _ = export_model(model, precision=precision)
    found = contraction_precisions(exported.stablehlo)
    assert found, "the model contracts nothing"
    assert set(found) == {NAMES[precision]}


@pytest.mark.tpu_compiler
@pytest.mark.skipif(
    not tpu_compiler_installed(), reason="libtpu is not installed: pip install 'graphopt[tpu]'"
)
def test_the_compiled_module_carries_it_and_says_so() -> None:
    """What arrives in the TPU's own module, and what the report states of it."""
    text = HEADER + "g (float[N, 197] x, float[197, 21] w) => (float[N, 21] y) { y = MatMul(x, w) }"

    def compiled(precision: str | None) -> tuple[str, dict[str, Any]]:
        made = graphopt.compile(text, target="tpu:v5e", dims={"N": 5}, precision=precision)
        assert made.cost is not None
        return made.files["tpu.hlo.txt"].decode(), made.cost

    hlo, cost = compiled(None)
    assert "operand_precision={highest,highest}" in hlo
    assert cost["precision"].startswith("HIGHEST")
    assert cost["matrix_flops"] == 2 * 5 * 197 * 21
    assert any("6 passes" in line for line in cost["advice"])
    assert any("N 5 pads to 8" in line for line in cost["advice"])
    assert any("size 197 pads to 256" in line for line in cost["advice"])
    narrow_hlo, narrow = compiled("bf16")
    assert "highest" not in narrow_hlo
    assert narrow["precision"].startswith("DEFAULT")
    assert not any("passes" in line for line in narrow["advice"])
