"""Fused products and convolutions of ONNX Runtime against its own kernels."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checking import check_op, make_model, run_xla

from graphopt.errors import UnsupportedError

RANDOM = np.random.default_rng(0)
DOMAIN = {"domain": "com.microsoft"}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)


CONV_ACTIVATIONS = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": (0.3,),
    "Clip": (-0.5, 0.7),
    "HardSigmoid": (0.3, 0.6),
    "HardSwish": (),
}


@pytest.mark.parametrize(("activation", "parameters"), CONV_ACTIVATIONS.items())
@pytest.mark.parametrize("residual", [False, True])
def test_fused_conv(activation: str, parameters: tuple[float, ...], residual: bool) -> None:
    inputs = {"x": normal(2, 4, 6, 5), "w": normal(6, 2, 3, 3), "b": normal(6), "z": None}
    if residual:
        inputs["z"] = normal(2, 6, 3, 3)
    given = {"activation_params": list(parameters)} if parameters else {}
    check_op(
        "FusedConv",
        inputs,
        **DOMAIN,
        **CLOSE,
        activation=activation,
        group=2,
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        **given,
    )


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_fused_conv_without_activation_pads_as_conv_does(auto_pad: str) -> None:
    inputs = {"x": normal(1, 2, 6, 5), "w": normal(3, 2, 2, 3)}
    # ONNX Runtime takes dilations with VALID only.
    dilations = [1, 2] if auto_pad == "VALID" else [1, 1]
    check_op(
        "FusedConv", inputs, **DOMAIN, **CLOSE, auto_pad=auto_pad, dilations=dilations, kernel_shape=[2, 3]
    )


def test_an_unknown_activation_is_refused() -> None:
    inputs = {"x": normal(1, 2, 6, 5), "w": normal(3, 2, 2, 3)}
    with pytest.raises(UnsupportedError, match="activation"):
        run_xla(*make_model("FusedConv", inputs, **DOMAIN, activation="Cosh"))
    with pytest.raises(UnsupportedError, match="activation_params"):
        run_xla(*make_model("FusedConv", inputs, **DOMAIN, activation="Clip", activation_params=[1.0]))


@pytest.mark.parametrize("bias", [False, True])
def test_nhwc_convolutions_are_convolutions_with_channels_last(bias: bool) -> None:
    x, w, b, z = normal(2, 6, 5, 4), normal(6, 2, 3, 3), normal(6), normal(2, 3, 5, 6)
    window = {"group": 2, "strides": [2, 1], "pads": [1, 1, 1, 1]}
    plain = {"x": np.moveaxis(x, -1, 1), "w": w, "b": b if bias else None}
    conv = run_xla(*make_model("Conv", plain, **window))["y0"]
    nhwc = {**plain, "x": x}
    np.testing.assert_array_equal(
        run_xla(*make_model("NhwcConv", nhwc, **DOMAIN, **window))["y0"], np.moveaxis(conv, 1, -1)
    )
    fused = run_xla(*make_model("NhwcFusedConv", {**nhwc, "z": z}, **DOMAIN, **window, activation="Relu"))[
        "y0"
    ]
    np.testing.assert_allclose(fused, np.maximum(np.moveaxis(conv, 1, -1) + z, 0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "attributes", [{}, {"strides": [2, 2], "output_padding": [1, 0]}, {"dilations": [2, 1]}]
)
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 0, 1]])
def test_conv_transpose_with_dynamic_pads(attributes: dict[str, Any], pads: list[int]) -> None:
    inputs = {
        "x": normal(1, 4, 4, 3),
        "w": normal(4, 3, 3, 2),
        "pads": np.array(pads, np.int64),
        "b": normal(6),
    }
    found = check_op("ConvTransposeWithDynamicPads", inputs, **DOMAIN, **CLOSE, group=2, **attributes)
    if not any(pads):  # the kernel wants them, though they are optional
        none = run_xla(
            *make_model(
                "ConvTransposeWithDynamicPads", {**inputs, "pads": None}, **DOMAIN, group=2, **attributes
            )
        )
        np.testing.assert_array_equal(none["y0"], found["y0"])


@pytest.mark.parametrize("turn_a", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("turn_b", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_fused_matmul(turn_a: tuple[int, int], turn_b: tuple[int, int]) -> None:
    a, b = normal(2, 3, 4, 5), normal(2, 3, 5, 6)

    def stored(x: np.ndarray, transposed: int, batch_last: int) -> np.ndarray:
        x = np.swapaxes(x, -1, -2) if transposed else x
        return np.ascontiguousarray(np.moveaxis(x, -2, 0) if batch_last else x)

    attributes = {
        "transA": turn_a[0],
        "transBatchA": turn_a[1],
        "transB": turn_b[0],
        "transBatchB": turn_b[1],
    }
    inputs = {"a": stored(a, *turn_a), "b": stored(b, *turn_b)}
    found = check_op("FusedMatMul", inputs, **DOMAIN, **CLOSE, alpha=0.25, **attributes)["y0"]
    np.testing.assert_allclose(found, 0.25 * (a @ b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "shapes", [((5,), (5, 3)), ((4, 5), (5,)), ((5,), (5,)), ((3, 4, 5), (5, 2)), ((1, 4, 5), (3, 5, 2))]
)
@pytest.mark.parametrize("op_type", ["FusedMatMul", "TransposeMatMul"])
def test_fused_matmul_broadcasts(shapes: tuple[tuple[int, ...], ...], op_type: str) -> None:
    check_op(op_type, {"a": normal(*shapes[0]), "b": normal(*shapes[1])}, **DOMAIN, **CLOSE)


def test_fused_matmul_sums_narrow_floats_in_float32() -> None:
    a, b = normal(4, 300, dtype=ml_dtypes.bfloat16), normal(300, 2, dtype=ml_dtypes.bfloat16)
    found = run_xla(*make_model("FusedMatMul", {"a": a, "b": b}, **DOMAIN, alpha=0.3))["y0"]
    wanted = (np.float32(0.3) * (a.astype(np.float32) @ b.astype(np.float32))).astype(ml_dtypes.bfloat16)
    np.testing.assert_allclose(found.astype(np.float32), wanted.astype(np.float32), rtol=1e-2)


@pytest.mark.parametrize(
    "activation", ["Relu", "Tanh", "HardSigmoid", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign"]
)
def test_fused_matmul_activation_is_the_activation_of_the_product(activation: str) -> None:
    a, b = normal(3, 4), normal(4, 5)
    given = {"activation_alpha": 0.3} if activation in ("HardSigmoid", "LeakyRelu", "Elu") else {}
    found = run_xla(
        *make_model("FusedMatMulActivation", {"a": a, "b": b}, **DOMAIN, activation=activation, **given)
    )
    alpha = {"alpha": 0.3} if given else {}
    wanted = run_xla(
        *make_model(activation, {"x": run_xla(*make_model("MatMul", {"a": a, "b": b}))["y0"]}, **alpha)
    )
    np.testing.assert_allclose(found["y0"], wanted["y0"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("Relu", {}), ("Tanh", {}), ("Sigmoid", {}), ("Softplus", {}), ("Softsign", {}),
        ("LeakyRelu", {"activation_alpha": 0.3}), ("Elu", {"activation_alpha": 0.7}),
        ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}),
        ("Selu", {"activation_alpha": 0.7, "activation_gamma": 1.3}), ("ThresholdedRelu", {"activation_alpha": 0.7}),
    ],
)  # fmt: skip
def test_fused_gemm(activation: str, parameters: dict[str, float]) -> None:
    inputs = {"a": normal(4, 3), "b": normal(5, 4), "c": normal(5)}
    attributes = {"alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1, "activation": activation, **parameters}
    check_op("FusedGemm", inputs, **DOMAIN, **CLOSE, **attributes)


def test_gemm_fast_gelu_is_fast_gelu_of_the_product() -> None:
    x, w, bias = normal(2, 3, 4), normal(4, 5), normal(5)
    found = run_xla(*make_model("GemmFastGelu", {"x": x, "w": w, "bias": bias}, **DOMAIN))["y0"]
    wanted = run_xla(*make_model("Gelu", {"x": x @ w + bias}, opset=20, approximate="tanh"))["y0"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
