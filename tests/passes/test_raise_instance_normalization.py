"""raise-instance-normalization against ONNX Runtime: planes of known and unknown size, and near misses."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.raise_instance_normalization import RaiseInstanceNormalization

PARTS = """m = ReduceMean(x, axes) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, axes) e = Add(v, eps)
           s = Sqrt(e) n = Div(d, s)"""
LAYER = "n = LayerNormalization <axis = 2> (x, ones)"


def source(body: str, x: str = "float[N, 4, H, W] x", g: str = "4, 1, 1", more: str = "") -> str:
    weights = f"float eps, int64[2] axes, float[3, 5] ones, float[{g}] g"
    return f"g ({x}, {weights}) => ({x.replace(' x', ' y')}{more}) {{ {body} }}"


def weights(g: tuple[int, ...] = (4, 1, 1), **more: np.ndarray) -> dict[str, np.ndarray]:
    numbers = {"eps": np.float32(1e-3), "axes": np.array([2, 3]), "ones": np.ones((3, 5), np.float32)}
    return numbers | arrays(g=g) | more


@pytest.mark.parametrize("tail", ["y = Relu(n)", "y = Mul(n, g)"])
def test_planes_of_unknown_size(tail: str) -> None:
    after = f"InstanceNormalization {tail.split('= ')[1][:4].rstrip('(')}"
    check_rewrite(
        RaiseInstanceNormalization(),
        source(f"{PARTS} {tail}"),
        after,
        weights=weights(),
        dims={"H": 3, "W": 5},
    )


@pytest.mark.parametrize("g", ["4, 1, 1", "1, 4, 1, 1", "1, 1, 1"])
def test_scale_of_channels(g: str) -> None:
    shape = tuple(int(d) for d in g.split(","))
    check_rewrite(
        RaiseInstanceNormalization(),
        source(f"{LAYER} y = Mul(n, g)", "float[N, 4, 3, 5] x", g),
        "InstanceNormalization",
        weights=weights(shape),
    )


def test_unknown_channels() -> None:
    text = source(f"{PARTS} y = Relu(n)", "float[N, C, H, W] x")
    check_declines(RaiseInstanceNormalization(), text, "number of channels", weights=weights())


def test_other_axes() -> None:
    text = source(f"{PARTS} y = Relu(n)")
    numbers = weights(axes=np.array([1, 3]))
    check_declines(RaiseInstanceNormalization(), text, "all axes but those", weights=numbers)


def test_float64_has_no_kernel() -> None:
    text = source(f"{PARTS} y = Relu(n)").replace("float", "double")
    numbers = {k: v if k == "axes" else v.astype(np.float64) for k, v in weights().items()}
    check_declines(RaiseInstanceNormalization(), text, "for float32", weights=numbers)


@pytest.mark.parametrize(
    ("body", "g", "reason"),
    [
        (f"{LAYER} y = Mul(n, g)", (3, 1), "one constant per channel"),
        ("n = LayerNormalization <axis = 2> (x, ones, ones) y = Mul(n, g)", (4, 1, 1), "other parameters"),
        ("n = LayerNormalization <axis = 3> (x, line) y = Mul(n, g)", (4, 1, 1), "all axes but those"),
        (f"{LAYER} y = Mul(n, x)", (4, 1, 1), "no single constant"),
    ],
)
def test_scales_that_stay(body: str, g: tuple[int, ...], reason: str) -> None:
    sizes = ", ".join(str(d) for d in g)
    text = source(body, "float[N, 4, 3, 5] x", sizes).replace("float eps", "float eps, float[5] line")
    numbers = weights(g, line=np.ones(5, np.float32))
    check_declines(RaiseInstanceNormalization(), text, reason, weights=numbers)


def test_normalized_value_is_an_output() -> None:
    text = source(f"{LAYER} y = Mul(n, g)", "float[N, 4, 3, 5] x", more=", float[N, 4, 3, 5] n")
    check_declines(RaiseInstanceNormalization(), text, "used elsewhere", weights=weights())
