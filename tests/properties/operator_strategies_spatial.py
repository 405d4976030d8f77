"""Cases of the operators on images: convolution, pooling, resizing, sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from operator_cases import OpCase
from operator_strategies_movement import Draw, case, ints
from operator_values import axes_of, dims, finite, numbers, some

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


def window(
    draw: Draw,
    spatial: Sequence[int],
    *,
    dilated: bool = True,
    auto_pads: Sequence[str] = AUTO_PADS,
    least_pad: int = 0,
) -> tuple[list[int], dict[str, Any]]:
    """A kernel that fits `spatial`, and some of strides, dilations and padding."""
    rank = len(spatial)
    kernel = [draw(st.integers(1, min(3, size))) for size in spatial]
    dilations = [draw(st.integers(1, 2)) for _ in spatial] if dilated else [1] * rank
    attributes: dict[str, Any] = some(draw, strides=[draw(st.integers(1, 3)) for _ in spatial])
    auto_pad = draw(st.sampled_from(auto_pads))
    if auto_pad.startswith("SAME"):
        dilations = [1] * rank  # ONNX Runtime takes no others
    pads = [0] * (2 * rank)
    if auto_pad == "NOTSET" and draw(st.booleans()):
        # A window that holds padding alone has no mean and no maximum.
        pads = [draw(st.integers(least_pad, max(k - 1, 0))) for k in (*kernel, *kernel)]
        attributes["pads"] = pads
    for size, k, d, a, b in zip(spatial, kernel, dilations, pads[:rank], pads[rank:], strict=True):
        assume((k - 1) * d + 1 <= size + a + b)
    if any(d > 1 for d in dilations) or (dilated and draw(st.booleans())):
        attributes["dilations"] = dilations
    if auto_pad != "NOTSET":
        attributes["auto_pad"] = auto_pad
    return kernel, attributes


def image(draw: Draw, channels: int, most: int = 3, least: int = 1) -> tuple[int, ...]:
    """[N, C, *D] with one to `most` spatial axes."""
    spatial = draw(st.lists(dims(1, 6), min_size=least, max_size=most))
    return (draw(dims(1, 2)), channels, *spatial)


@case("Conv")
def conv(draw: Draw) -> OpCase:
    group, deep, out = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    shape = image(draw, group * deep)
    kernel, attributes = window(draw, shape[2:])
    w = finite(draw, (group * out, deep, *kernel))
    b = finite(draw, (group * out,)) if draw(st.booleans()) else None
    attributes |= some(draw, kernel_shape=kernel)
    return OpCase(
        "Conv", {"x": finite(draw, shape), "w": w, "b": b}, {"group": group, **attributes}, scaled=True
    )


@case("ConvTranspose")
def conv_transpose(draw: Draw) -> OpCase:
    group, deep, out = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    shape = image(draw, group * deep, 2)
    rank = len(shape) - 2
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True)]
    attributes: dict[str, Any] = {
        "group": group,
        "strides": strides,
        "dilations": dilations,
        "output_padding": extra,
    }
    full = [
        s * (n - 1) + e + (k - 1) * d + 1
        for n, s, e, k, d in zip(shape[2:], strides, extra, kernel, dilations, strict=True)
    ]
    form = draw(st.sampled_from(("plain", "pads", "auto", "shape")))
    if form == "pads":
        pads = [draw(st.integers(0, max((n - 1) // 2, 0))) for n in full] * 2
        attributes["pads"] = pads
    elif form == "auto":
        attributes["auto_pad"] = draw(st.sampled_from(("SAME_UPPER", "SAME_LOWER", "VALID")))
        if attributes["auto_pad"] != "VALID":  # a full result smaller than asked pads with nothing known
            assume(all(n >= size * s for n, size, s in zip(full, shape[2:], strides, strict=True)))
    elif form == "shape":
        attributes["output_shape"] = [draw(st.integers(max(1, n - 2), n)) for n in full]
        attributes |= some(draw, auto_pad=draw(st.sampled_from(("SAME_UPPER", "SAME_LOWER"))))
    w = finite(draw, (group * deep, out, *kernel))
    b = finite(draw, (group * out,)) if draw(st.booleans()) else None
    return OpCase("ConvTranspose", {"x": finite(draw, shape), "w": w, "b": b}, attributes, scaled=True)


@case("ConvInteger")
def conv_integer(draw: Draw) -> OpCase:
    shape = image(draw, 2, 2, 2)
    kernel, attributes = window(draw, shape[2:])
    x, w = numbers(draw, shape, np.uint8), numbers(draw, (3, 2, *kernel), np.uint8)
    zeros = [numbers(draw, (), np.uint8) if draw(st.booleans()) else None for _ in range(2)]
    return OpCase("ConvInteger", {"x": x, "w": w, "xz": zeros[0], "wz": zeros[1]}, attributes)


@case("QLinearConv")
def qlinear_conv(draw: Draw) -> OpCase:
    shape = image(draw, 2, 2, 2)
    kernel, attributes = window(draw, shape[2:])
    scales = {
        n: np.abs(finite(draw, s, scale=0.1)) + np.float32(0.013)
        for n, s in (("xs", ()), ("ws", (3,)), ("ys", ()))
    }
    b = numbers(draw, (3,), np.int32, edges=False) if draw(st.booleans()) else None
    inputs = {
        "x": numbers(draw, shape, np.uint8), "xs": scales["xs"], "xz": np.array(120, np.uint8), "w": numbers(draw, (3, 2, *kernel), np.int8),
        "ws": scales["ws"], "wz": np.zeros(3, np.int8), "ys": scales["ys"], "yz": np.array(100, np.uint8), "b": b,
    }  # fmt: skip
    return OpCase("QLinearConv", inputs, attributes, constant=tuple(k for k in inputs if k != "x"), steps=1)


def pool(op_type: str, *, opset: int = 22, kinds: tuple[Any, ...] = (np.float32,), **options: Any) -> None:
    def draw_case(draw: Draw) -> OpCase:
        shape = image(draw, draw(dims(1, 2)))
        kernel, attributes = window(draw, shape[2:])
        if attributes.get("auto_pad", "").startswith("SAME"):
            # What is skipped by strides beyond the window would be negative padding, on which the standard is silent.
            assume(
                all(s <= k for s, k in zip(attributes.get("strides", [1] * len(kernel)), kernel, strict=True))
            )
        attributes |= some(
            draw,
            ceil_mode=draw(st.integers(0, 1)),
            **{k: draw(st.sampled_from(v)) for k, v in options.items()},
        )
        if "auto_pad" in attributes:
            # Rounding changes nothing there: ceil((n - e + 1) / s) = floor((n - e) / s) + 1. The runtime adds a window.
            attributes.pop("ceil_mode", None)
        x = numbers(draw, shape, draw(st.sampled_from(kinds)), edges=op_type == "MaxPool")
        x = np.where(np.isnan(x), np.ones_like(x), x) if x.dtype.kind == "f" else x
        outputs = 2 if op_type == "MaxPool" and draw(st.booleans()) else 1
        return OpCase(op_type, {"x": x}, {"kernel_shape": kernel, **attributes}, outputs, opset, scaled=True)

    case(op_type)(draw_case)


pool("MaxPool", kinds=(np.float32, np.float64, np.int8, np.uint8), storage_order=(0, 1))
pool("AveragePool", count_include_pad=(0, 1))
pool("LpPool", p=(1, 2, 3))


def global_pool(op_type: str) -> None:
    def draw_case(draw: Draw) -> OpCase:
        given = some(draw, p=draw(st.integers(1, 3))) if op_type == "GlobalLpPool" else {}
        return OpCase(op_type, {"x": finite(draw, image(draw, 2))}, given, scaled=True)

    case(op_type)(draw_case)


for name in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
    global_pool(name)


@case("MaxUnpool")
def max_unpool(draw: Draw) -> OpCase:
    n, c, h, w = 1, draw(dims(1, 2)), draw(dims(1, 3)), draw(dims(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(2)]
    strides = [draw(st.integers(1, 3)) for _ in range(2)]
    full = [(size - 1) * s + k for size, s, k in zip((h, w), strides, kernel, strict=True)]
    total = n * c * full[0] * full[1]
    assume(total >= n * c * h * w)
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    places = generator.permutation(total)[: n * c * h * w].reshape((n, c, h, w))
    x = finite(draw, (n, c, h, w))
    return OpCase("MaxUnpool", {"x": x, "i": places}, {"kernel_shape": kernel, "strides": strides})


MODES = ("nearest", "linear", "cubic")
PLACES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)


@case("Resize")
def resize(draw: Draw) -> OpCase:
    rank = draw(st.integers(1, 4))
    mode = draw(st.sampled_from(MODES))
    axes = axes_of(draw, rank, 1) if draw(st.booleans()) else list(range(rank))
    if mode == "cubic":  # ONNX Runtime takes it on the last two of four axes
        rank, axes = 4, [2, 3] if draw(st.booleans()) else [-2, -1]
    shape = tuple(draw(dims(1, 5)) for _ in range(rank))
    place = draw(st.sampled_from(PLACES))
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": place}
    if axes != list(range(rank)):
        attributes["axes"] = axes
    if mode == "nearest":
        rounding = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        attributes |= some(draw, nearest_mode=draw(st.sampled_from(rounding)))
    elif place != "tf_crop_and_resize":
        attributes |= some(draw, antialias=draw(st.integers(0, 1)))
    if mode == "cubic":
        attributes |= some(
            draw, cubic_coeff_a=draw(st.sampled_from((-0.5, -0.75))), exclude_outside=draw(st.integers(0, 1))
        )
    if (
        place == "tf_crop_and_resize"
    ):  # the reference forgets to leave out what is outside, the runtime to extrapolate
        attributes.pop("exclude_outside", None)
        if (
            "axes" in attributes
        ):  # the runtime crops nothing at scale 1, and the reference takes no negative axes
            attributes["axes"] = axes = [a % rank for a in axes]
    inputs: dict[str, Any] = {"x": finite(draw, shape), "roi": None, "scales": None, "sizes": None}
    if place == "tf_crop_and_resize":
        low = [draw(st.sampled_from((0.0, 0.1, 0.3, -0.2))) for _ in axes]
        high = [draw(st.sampled_from((1.0, 0.8, 0.6, 1.2))) for _ in axes]
        inputs["roi"] = np.array([*low, *high], np.float32)
        attributes |= some(draw, extrapolation_value=2.5)
    if draw(st.booleans()):
        inputs["sizes"] = ints(*[draw(st.integers(1, 8)) for _ in axes])
        policies = ("stretch", "not_larger", "not_smaller")
        attributes |= some(draw, keep_aspect_ratio_policy=draw(st.sampled_from(policies)))
        if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            # The reference takes no negative axes, and the runtime forgets these of the policy.
            attributes |= {"axes": [a % rank for a in axes]}
    else:
        inputs["scales"] = np.array(
            [draw(st.sampled_from((0.5, 1.0, 2.0, 0.6, 1.7, 3.0))) for _ in axes], np.float32
        )
        sizes = [int(shape[a] * float(s)) for a, s in zip(axes, inputs["scales"], strict=True)]
        assume(all(sizes))
    return OpCase("Resize", inputs, attributes, opset=19, constant=("roi", "scales", "sizes"), scaled=True)


@case("GridSample")
def grid_sample(draw: Draw) -> OpCase:
    rank = draw(st.sampled_from((2, 2, 3)))
    modes = ("linear", "nearest", "cubic") if rank == 2 else ("linear", "nearest")
    sizes = tuple(draw(dims(1, 5)) for _ in range(rank))
    out = tuple(draw(dims(1, 3)) for _ in range(rank))
    generator = np.random.default_rng(draw(st.integers(0, 2**20)))
    grid = generator.uniform(-1.6, 1.6, (2, *out, rank)).astype(np.float32)
    paddings = ("zeros", "border", "reflection")
    attributes = {
        "mode": draw(st.sampled_from(modes)),
        "padding_mode": draw(st.sampled_from(paddings)),
        "align_corners": draw(st.integers(0, 1)),
    }
    return OpCase(
        "GridSample", {"x": finite(draw, (2, 2, *sizes)), "grid": grid}, attributes, opset=22, scaled=True
    )


@case("AffineGrid")
def affine_grid(draw: Draw) -> OpCase:
    rank = draw(st.integers(2, 3))
    size = ints(2, 1, *[draw(dims(1, 4)) for _ in range(rank)])
    theta = finite(draw, (2, rank, rank + 1))
    return OpCase(
        "AffineGrid", {"t": theta, "size": size}, some(draw, align_corners=1), constant=("size",), scaled=True
    )


@case("RoiAlign")
def roi_align(draw: Draw) -> OpCase:
    x = finite(draw, (2, 2, draw(dims(2, 6)), draw(dims(2, 6))))
    count = draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**20)))
    corners = generator.uniform(-1, 6, (count, 2))
    rois = np.concatenate((corners, corners + generator.uniform(0.1, 5, (count, 2))), 1).astype(np.float32)
    attributes = {"output_height": draw(dims(1, 3)), "output_width": draw(dims(1, 3))}
    attributes |= some(
        draw, mode=draw(st.sampled_from(("avg", "max"))), sampling_ratio=draw(st.integers(0, 3)), spatial_scale=draw(st.sampled_from((0.5, 1.0))),
        coordinate_transformation_mode=draw(st.sampled_from(("half_pixel", "output_half_pixel"))),
    )  # fmt: skip
    inputs = {"x": x, "rois": rois, "batch": generator.integers(0, 2, count)}
    return OpCase(
        "RoiAlign",
        inputs,
        attributes,
        opset=22,
        constant=("rois",) if draw(st.booleans()) else (),
        scaled=True,
    )


@case("Col2Im")
def col2im(draw: Draw) -> OpCase:
    sizes = [draw(dims(2, 5)) for _ in range(draw(st.integers(1, 3)))]
    kernel, attributes = window(draw, sizes, auto_pads=("NOTSET",))
    rank = len(sizes)
    pads, strides = attributes.get("pads", [0] * 2 * rank), attributes.get("strides", [1] * rank)
    dilations = attributes.get("dilations", [1] * rank)
    counts = [
        (n + pads[i] + pads[i + rank] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i, n in enumerate(sizes)
    ]
    x = finite(draw, (2, 2 * int(np.prod(kernel)), int(np.prod(counts))))
    return OpCase(
        "Col2Im",
        {"x": x, "size": ints(*sizes), "block": ints(*kernel)},
        attributes,
        constant=("size", "block"),
        scaled=True,
    )


@case("DeformConv")
def deform_conv(draw: Draw) -> OpCase:
    group = draw(st.integers(1, 2))
    shape = (1, 2 * group, draw(dims(3, 5)), draw(dims(3, 5)))
    kernel, attributes = window(draw, shape[2:], auto_pads=("NOTSET",))
    pads, strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
    dilations = attributes.get("dilations", [1, 1])
    out = [
        (shape[2 + i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(2)
    ]
    taps = kernel[0] * kernel[1]
    mask = np.abs(finite(draw, (1, taps, *out))) if draw(st.booleans()) else None
    inputs = {
        "x": finite(draw, shape),
        "w": finite(draw, (group, 2, *kernel)),
        "offset": finite(draw, (1, 2 * taps, *out)),
        "b": None,
        "mask": mask,
    }
    return OpCase("DeformConv", inputs, {"group": group, **attributes}, opset=22, scaled=True)
