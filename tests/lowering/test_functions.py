"""Operators that lose their lowering are emitted from the function that their schema defines them as."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checking import check_op, make_model, model_from, run_onnxruntime, run_xla

from graphopt.lowering.registry import Registry
from graphopt.lowering.xla.support import unsupported_nodes

X = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Takes the lowerings of the named operators away."""

    def take(*ops: str) -> None:
        real = Registry.find

        def find(self: Registry, domain: str, op_type: str, opset: int) -> Any:
            return None if op_type in ops else real(self, domain, op_type, opset)

        monkeypatch.setattr(Registry, "find", find)

    return take


@pytest.mark.parametrize(
    ("op", "inputs", "opset", "attributes"),
    [
        ("Mish", {"x": X}, 18, {}),
        ("HardSwish", {"x": X}, 18, {}),
        ("Gelu", {"x": X}, 20, {"approximate": "tanh"}),
        ("LeakyRelu", {"x": X}, 18, {"alpha": 0.3}),
        ("ThresholdedRelu", {"x": X}, 18, {}),
        ("Softmax", {"x": X}, 18, {"axis": 1}),
        ("LayerNormalization", {"x": X, "scale": X[0, 0], "bias": X[0, 1]}, 18, {}),
        ("GroupNormalization", {"x": X, "scale": X[0, :, 0], "bias": X[0, :, 1]}, 21, {"num_groups": 2}),
        ("ReduceL2", {"x": X, "axes": np.array([1], np.int64)}, 18, {"constant": ["axes"]}),
        ("Clip", {"x": X, "min": np.array(-0.5, np.float32), "max": None}, 18, {}),
        ("Range", {n: np.array(v, np.int64) for n, v in zip("abc", (1, 9, 3), strict=True)}, 18, {}),
    ],
)
def test_bodies(
    without: Any, op: str, inputs: dict[str, Any], opset: int, attributes: dict[str, Any]
) -> None:
    without(op)
    check_op(op, inputs, opset=opset, **attributes)


def test_outputs_that_are_left_out(without: Any) -> None:
    without("LayerNormalization")
    check_op("LayerNormalization", {"x": X, "scale": X[0, 0]}, ["y0", "", "y2"], atol=1e-5)


def test_what_a_body_needs_to_know_is_asked_of_the_model(without: Any) -> None:
    """The trip count of the loop in Range comes from an input of the model, through another operator."""
    without("Range")
    model = model_from("""g (int64 n) => (int64[m] y) {
        one = Constant <value = int64 {1}> ()
        zero = Constant <value = int64 {0}> ()
        more = Add (n, one)
        y = Range (zero, more, one)
    }""")
    feeds = {"n": np.array(4)}
    np.testing.assert_array_equal(run_xla(model, feeds)["y"], run_onnxruntime(model, feeds)["y"])


def test_the_cost_counts_as_the_node_s(without: Any) -> None:
    """Every operation of a body is in the scope of the node that it stands for, and in no other."""
    import jax

    from graphopt.lowering.xla.emit import SCOPE
    from graphopt.lowering.xla.program import build_program, settings

    without("Mish")
    model = model_from("g (float[3] x) => (float[3] y) { a = Neg (x)  y = Mish (a) }")
    program = build_program(model, {"x": (3,)})
    with settings():
        lowered = jax.jit(program.function).lower(program.weight_structs(), program.inputs)
        text = lowered.as_text(dialect="hlo", debug_info=True)
    assert {int(n) for n in SCOPE.findall(text)} == {0, 1}


def test_it_counts_as_supported(without: Any) -> None:
    without("Mish", "Erf")
    model, _ = make_model("Mish", {"x": X})
    assert not unsupported_nodes(model)
    model, _ = make_model("Erf", {"x": X})
    assert [row.op_type for row in unsupported_nodes(model)] == ["Erf"]
