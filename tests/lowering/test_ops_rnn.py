"""Recurrent layers against ONNX Runtime; against onnx.reference where it has no kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checking import check_op, make_model, run_xla

from graphopt.errors import UnsupportedError

RANDOM = np.random.default_rng(0)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STATES = {"RNN": 1, "GRU": 1, "LSTM": 2}
TIME, BATCH, INPUT, HIDDEN = 5, 3, 4, 6


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32) * np.float32(0.7)


def operands(op: str, directions: int, *, lengths: bool = False, initial: bool = False) -> dict[str, Any]:
    gates = GATES[op] * HIDDEN
    inputs: dict[str, Any] = {
        "x": normal(TIME, BATCH, INPUT),
        "w": normal(directions, gates, INPUT),
        "r": normal(directions, gates, HIDDEN),
        "b": normal(directions, 2 * gates),
        "lens": np.array([5, 2, 3], np.int32) if lengths else None,
        "h0": normal(directions, BATCH, HIDDEN) if initial else None,
    }
    if op == "LSTM":
        inputs["c0"] = normal(directions, BATCH, HIDDEN) if initial else None
    return inputs


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [False, True])
def test_directions_and_lengths(op: str, direction: str, lengths: bool) -> None:
    directions = 2 if direction == "bidirectional" else 1
    inputs = operands(op, directions, lengths=lengths, initial=True)
    attributes = {"direction": direction, "hidden_size": HIDDEN}
    check_op(op, inputs, outputs=1 + STATES[op], **attributes, **CLOSE)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_without_bias_state_and_all_outputs(op: str) -> None:
    inputs = operands(op, 1) | {"b": None}
    check_op(op, inputs, outputs=["", "last"], hidden_size=HIDDEN, **CLOSE)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_batch_first_layout_only_moves_axes(op: str) -> None:
    # ONNX Runtime refuses layout 1; the time-major result is checked above.
    inputs = operands(op, 2, lengths=True, initial=True)
    attributes = {"direction": "bidirectional", "hidden_size": HIDDEN}
    outputs = 1 + STATES[op]
    expected = check_op(op, inputs, outputs=outputs, **attributes, **CLOSE)
    moved = inputs | {"x": np.swapaxes(inputs["x"], 0, 1)}
    moved |= {k: np.swapaxes(inputs[k], 0, 1) for k in ("h0", "c0") if k in inputs}
    model, feeds = make_model(op, moved, outputs, layout=1, **attributes)
    found = run_xla(model, feeds)
    np.testing.assert_allclose(found["y0"], expected["y0"].transpose(2, 0, 1, 3), rtol=1e-6)
    for state in list(expected)[1:]:
        np.testing.assert_allclose(found[state], np.swapaxes(expected[state], 0, 1), rtol=1e-6)


@pytest.mark.parametrize("input_forget", [0, 1])
@pytest.mark.parametrize("peepholes", [False, True])
def test_lstm_peepholes_and_coupled_gates(input_forget: int, peepholes: bool) -> None:
    inputs = operands("LSTM", 1, initial=True) | {"p": normal(1, 3 * HIDDEN) if peepholes else None}
    check_op("LSTM", inputs, outputs=3, hidden_size=HIDDEN, input_forget=input_forget, **CLOSE)


@pytest.mark.parametrize("linear_before_reset", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_gru_reset_before_or_after(linear_before_reset: int, bias: bool) -> None:
    inputs = operands("GRU", 2, initial=True)
    if not bias:
        inputs["b"] = None
    attributes = {"direction": "bidirectional", "hidden_size": HIDDEN}
    check_op("GRU", inputs, outputs=2, linear_before_reset=linear_before_reset, **attributes, **CLOSE)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_clip(op: str) -> None:
    check_op(op, operands(op, 1, initial=True), outputs=2, hidden_size=HIDDEN, clip=0.4, **CLOSE)


@pytest.mark.parametrize(
    ("name", "alpha", "beta"),
    [
        ("Relu", None, None),
        ("Tanh", None, None),
        ("Sigmoid", None, None),
        ("Softsign", None, None),
        ("Softplus", None, None),
        ("Affine", 0.5, 0.1),
        ("LeakyRelu", 0.2, None),
        ("LeakyRelu", None, None),
        ("ThresholdedRelu", 0.3, None),
        ("ScaledTanh", 0.7, 0.6),
        ("HardSigmoid", 0.3, 0.4),
        ("HardSigmoid", None, None),
        ("Elu", 0.6, None),
    ],
)
def test_activations(name: str, alpha: float | None, beta: float | None) -> None:
    attributes: dict[str, Any] = {"activations": [name], "hidden_size": HIDDEN}
    attributes |= {} if alpha is None else {"activation_alpha": [alpha]}
    attributes |= {} if beta is None else {"activation_beta": [beta]}
    check_op("RNN", operands("RNN", 1), outputs=2, **attributes, **CLOSE)


def test_parameters_go_to_the_activations_that_take_them() -> None:
    attributes: dict[str, Any] = {
        "activations": ["HardSigmoid", "Tanh", "LeakyRelu"],
        "activation_alpha": [0.3, 0.2],
        "activation_beta": [0.4],
        "hidden_size": HIDDEN,
    }
    check_op("LSTM", operands("LSTM", 1), outputs=3, **attributes, **CLOSE)


def test_empty_batch_and_narrow_types() -> None:
    inputs = operands("GRU", 1)
    wide = check_op("GRU", inputs, outputs=2, hidden_size=HIDDEN, **CLOSE)
    half = {k: None if v is None else v.astype(np.float16) for k, v in inputs.items()}
    model, feeds = make_model("GRU", half, 2, hidden_size=HIDDEN)  # ONNX Runtime has no such kernel
    found = run_xla(model, feeds)
    assert found["y0"].dtype == np.float16
    np.testing.assert_allclose(found["y0"].astype(np.float32), wide["y0"], atol=4e-3)
    model, feeds = make_model("GRU", inputs | {"x": inputs["x"][:, :0]}, 2, hidden_size=HIDDEN)
    assert run_xla(model, feeds)["y0"].shape == (TIME, 1, 0, HIDDEN)


def test_an_unknown_activation_is_refused() -> None:
    model, feeds = make_model("RNN", operands("RNN", 1), 2, activations=["Gauss"], hidden_size=HIDDEN)
    with pytest.raises(UnsupportedError, match=r"GO202.*Gauss"):
        run_xla(model, feeds)
