"""Resampling against ONNX Runtime; against onnx.reference where it has no kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir
import pytest
from checking import check_op, make_model, run_xla

from graphopt.errors import UnsupportedError

RANDOM = np.random.default_rng(0)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
TRANSFORMS = [
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
]


def normal(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)  # type: ignore[call-overload]


def resize(
    x: np.ndarray,
    *,
    scales: list[float] | None = None,
    sizes: list[int] | None = None,
    roi: list[float] | None = None,
    opset: int = 19,
    **attributes: Any,
) -> None:
    inputs = {
        "x": x,
        "roi": None if roi is None else np.array(roi, np.float32),
        "scales": None if scales is None else np.array(scales, np.float32),
        "sizes": None if sizes is None else np.array(sizes, np.int64),
    }
    if sizes is None:
        del inputs["sizes"]
    constant = tuple(k for k, v in inputs.items() if v is not None and k != "x")
    check_op("Resize", inputs, opset=opset, constant=constant, **attributes, **CLOSE)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("nearest_mode", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest(transform: str, nearest_mode: str) -> None:
    attributes = {"coordinate_transformation_mode": transform, "nearest_mode": nearest_mode}
    resize(normal(1, 2, 6, 4), scales=[1, 1, 1.7, 0.6], **attributes)
    resize(normal(1, 2, 9, 4), sizes=[1, 2, 4, 12], **attributes)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_linear_and_cubic(transform: str, mode: str) -> None:
    attributes = {"coordinate_transformation_mode": transform, "mode": mode}
    resize(normal(1, 2, 5, 4), scales=[1, 1, 2.5, 0.6], **attributes)
    resize(normal(1, 2, 5, 4), sizes=[1, 2, 3, 1], **attributes)


def test_sizes_of_one() -> None:
    for transform in ("pytorch_half_pixel", "align_corners", "half_pixel"):
        attributes = {"coordinate_transformation_mode": transform, "mode": "linear"}
        resize(normal(1, 1, 5, 4), sizes=[1, 1, 1, 1], **attributes)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crop(mode: str) -> None:
    resize(
        normal(1, 1, 6, 5),
        sizes=[1, 1, 4, 7],
        roi=[0, 0, 0.2, -0.3, 1, 1, 1.4, 0.8],
        mode=mode,
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=10.0,
    )


@pytest.mark.parametrize("exclude_outside", [0, 1])
@pytest.mark.parametrize("cubic_coeff_a", [-0.5, -0.75])
def test_cubic_kernels(exclude_outside: int, cubic_coeff_a: float) -> None:
    attributes = {"exclude_outside": exclude_outside, "cubic_coeff_a": cubic_coeff_a, "mode": "cubic"}
    resize(normal(1, 1, 6, 5), scales=[1, 1, 0.7, 1.8], **attributes)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias(mode: str) -> None:
    # ONNX Runtime leaves outside cells out, as exclude_outside says for both here.
    resize(normal(1, 1, 9, 8), sizes=[1, 1, 4, 3], mode=mode, antialias=1, exclude_outside=1)
    resize(normal(1, 1, 4, 4), sizes=[1, 1, 9, 7], mode=mode, antialias=1, exclude_outside=1)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_aspect_ratio_and_axes(policy: str) -> None:
    attributes = {"axes": [3, 2], "keep_aspect_ratio_policy": policy}
    resize(normal(1, 1, 6, 4), sizes=[7, 5], **attributes)
    resize(normal(1, 1, 6, 4), sizes=[9, 8], mode="linear", **attributes)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_integers(dtype: type) -> None:
    x = RANDOM.integers(0, 100, (1, 1, 4, 5)).astype(dtype)
    resize(x, sizes=[1, 1, 7, 3])
    resize(x, sizes=[1, 1, 8, 5], mode="linear", coordinate_transformation_mode="asymmetric")


def test_one_and_three_spatial_axes_and_halves() -> None:
    resize(normal(1, 2, 7), scales=[1, 1, 1.7], mode="linear")
    resize(normal(1, 1, 3, 4, 5), scales=[1, 1, 2, 2, 2])
    resize(normal(1, 1, 3, 4, 5), sizes=[1, 1, 5, 3, 7], mode="linear")
    inputs = {"x": normal(1, 1, 4, 4, dtype=np.float16), "roi": None, "s": np.array([1, 1, 2, 2], np.float32)}
    check_op("Resize", inputs, constant=("s",), mode="linear", reference="onnx", rtol=2e-3, atol=2e-3)


def test_a_symbolic_axis_is_repeated() -> None:
    import jax
    from checking import model_from
    from jax import export

    from graphopt.lowering.xla.program import build_program, settings

    model = model_from("""g (float[1, 2, H, 4] x) => (float[1, 2, K, 8] y)
        <float[4] s = {1.0, 1.0, 2.0, 2.0}> { y = Resize <mode = "nearest"> (x, , s) }""")
    height = export.symbolic_shape("H")[0]
    program = build_program(model, {"x": (1, 2, height, 4)})
    with settings():
        exported = export.export(jax.jit(program.function))(program.weight_structs(), program.inputs)
        x = normal(1, 2, 3, 4)
        found = np.asarray(exported.call(program.weight_arrays(), {"x": x})["y"])
    np.testing.assert_array_equal(found, x.repeat(2, 2).repeat(2, 3))


def test_neither_scales_nor_sizes_is_refused() -> None:
    empty = np.zeros(0, np.float32)
    inputs = {"x": normal(1, 1, 4, 4), "roi": None, "s": empty}
    model, feeds = make_model("Resize", inputs, constant=("s",))
    with pytest.raises(UnsupportedError, match="GO202"):
        run_xla(model, feeds)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("s", np.array([1, 1, np.inf, 1], np.float32)),
        ("s", np.array([1, 1, -1, 1], np.float32)),
        ("s", np.array([1, 1, 1e30, 1], np.float32)),
        ("z", np.array([1, 1, 2**50, 4], np.int64)),
        ("z", np.array([1, 1, -4, 4], np.int64)),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(name: str, value: np.ndarray) -> None:
    from graphopt.lowering.xla.emit import Emitter
    from graphopt.lowering.xla.program import settings

    scales = name == "s"
    inputs = {"x": normal(1, 1, 4, 4), "roi": None, "s": value if scales else None}
    if not scales:
        inputs["z"] = value
    # A valid model first: shape inference would refuse these numbers before the lowering sees them.
    fine = {**inputs, name: np.array([1, 1, 2, 2], value.dtype)}
    model, feeds = make_model("Resize", fine, constant=(name,))
    model.graph.initializers[name].const_value = onnx_ir.tensor(value, name=name)
    env = {v: feeds[v.name or ""] for v in model.graph.inputs}
    with settings(), pytest.raises(UnsupportedError, match="GO202"):
        Emitter(model, {}).run(model.graph, env)


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_grid_sample(mode: str, padding_mode: str, align_corners: int) -> None:
    grid = RANDOM.uniform(-1.6, 1.6, (2, 4, 3, 2)).astype(np.float32)
    attributes = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    check_op("GridSample", {"x": normal(2, 3, 5, 6), "grid": grid}, opset=20, **attributes, **CLOSE)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_grid_sample_of_volumes_and_older_names(mode: str) -> None:
    grid = RANDOM.uniform(-1.3, 1.3, (1, 2, 3, 4, 3)).astype(np.float32)
    check_op("GridSample", {"x": normal(1, 2, 4, 3, 5), "grid": grid}, opset=20, mode=mode, **CLOSE)
    flat = RANDOM.uniform(-1, 1, (1, 3, 4, 2)).astype(np.float32)
    check_op("GridSample", {"x": normal(1, 2, 4, 5), "grid": flat}, mode="bicubic", **CLOSE)


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("size", [[2, 3, 4, 5], [2, 3, 2, 4, 3], [2, 3, 1, 1]])
def test_affine_grid(align_corners: int, size: list[int]) -> None:
    rank = len(size) - 2
    inputs = {"theta": normal(2, rank, rank + 1), "size": np.array(size, np.int64)}
    # With one cell and aligned corners ONNX Runtime stands at 1, the reference at -1.
    reference = "onnx" if align_corners and size[-1] == 1 else "onnxruntime"
    attributes = {"align_corners": align_corners, "reference": reference}
    check_op("AffineGrid", inputs, opset=20, constant=("size",), **attributes, **CLOSE)
