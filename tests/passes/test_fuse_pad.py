"""fuse-pad against ONNX Runtime: what counts as padding, and what cannot."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.fuse_pad import FusePad

PADS = np.array([0, 0, 1, 0, 0, 0, 2, 1], np.int64)


def source(consumer: str, fill: str = "", axes: str = "", outputs: str = "float[1, 2, P, Q] y") -> str:
    inputs = "float[1, 2, 6, 5] x, int64[K] pads, int64[A] axes, float fill, float[2, 2, 3, 3] w"
    return f"""g ({inputs}) => ({outputs}) {{
        p = Pad(x, pads{fill or (", " if axes else "")}{axes})
        {consumer}
    }}"""


def weights(pads: np.ndarray = PADS, fill: float = 0.0) -> dict[str, np.ndarray]:
    return arrays(w=(2, 2, 3, 3)) | {
        "pads": pads,
        "axes": np.array([-1, 2], np.int64),
        "fill": np.float32(fill),
    }


@pytest.mark.parametrize(
    "consumer",
    [
        "Conv(p, w)",
        "Conv <pads = [1, 0, 0, 1], strides = [2, 1]> (p, w)",
        'Conv <auto_pad = "VALID", dilations = [2, 1]> (p, w)',
    ],
)
@pytest.mark.parametrize("fill", ["", ", fill"])
def test_conv(consumer: str, fill: str) -> None:
    check_rewrite(FusePad(), source(f"y = {consumer}", fill), "Conv", weights=weights())


def test_axes_in_any_order() -> None:
    check_rewrite(
        FusePad(),
        source("y = Conv(p, w)", ", fill", ", axes"),
        "Conv",
        weights=weights(np.array([1, 2, 0, 3], np.int64)),
    )


@pytest.mark.parametrize(
    "attributes", ["", ", count_include_pad = 1", ", count_include_pad = 1, pads = [1, 0, 0, 1]"]
)
def test_average_pool_counts_the_zeros(attributes: str) -> None:
    check_rewrite(
        FusePad(),
        source(f"y = AveragePool <kernel_shape = [3, 3], strides = [1, 2]{attributes}> (p)"),
        "AveragePool",
        weights=weights(np.array([0, 0, 1, 0, 0, 0, 2, 1], np.int64)),
    )


def test_max_pool_of_minus_infinity() -> None:
    check_rewrite(
        FusePad(),
        source("y = MaxPool <kernel_shape = [3, 2], strides = [2, 1]> (p)", ", fill"),
        "MaxPool",
        weights=weights(fill=-np.inf),
    )


def test_two_users_of_one_pad_in_a_branch() -> None:
    check_rewrite(
        FusePad(),
        """g (float[1, 2, 6, 5] x, bool c, int64[8] pads, float[2, 2, 3, 3] w) => (float[1, 2, P, Q] r) {
            r = If (c) <
                then_branch = t () => (float[1, 2, P, Q] y) {
                    p = Pad(x, pads) a = Conv(p, w) b = Conv(p, w) y = Add(a, b)
                },
                else_branch = e () => (float[1, 2, P, Q] z) { q = Pad(x, pads) z = Conv(q, w) }
            >
        }""",
        "If Conv Conv Add Conv",
        weights={k: v for k, v in weights().items() if k in ("pads", "w")},
    )


POOL = "kernel_shape = [3, 3]"
NEAR_MISSES = {
    "zeros before MaxPool": (f"y = MaxPool <{POOL}> (p)", "", 0.0, PADS, "can be the maximum"),
    "lowest before MaxPool": (f"y = MaxPool <{POOL}> (p)", ", fill", -3.4e38, PADS, "can be the maximum"),
    "ones before Conv": ("y = Conv(p, w)", ", fill", 1.0, PADS, "does not pad with zeros"),
    "ones before AveragePool": (f"y = AveragePool <{POOL}> (p)", ", fill", 1.0, PADS, "not pad with zeros"),
    "own padding not counted": (
        f"y = AveragePool <{POOL}, pads = [1, 1, 1, 1]> (p)",
        "",
        0.0,
        PADS,
        "does not count",
    ),
    "ceil_mode": (f"y = AveragePool <{POOL}, ceil_mode = 1> (p)", "", 0.0, PADS, "ceil_mode"),
    "SAME": ('y = Conv <auto_pad = "SAME_UPPER"> (p, w)', "", 0.0, PADS, "follows from the size"),
    "crops": ("y = Conv(p, w)", "", 0.0, np.array([0, 0, -1, 0, 0, 0, 0, 0]), "crops"),
    "pads the batch": (
        "y = Conv(p, w)",
        "",
        0.0,
        np.array([1, 0, 0, 0, 0, 0, 0, 0]),
        "batch or the channels",
    ),
    "wider than the window": (
        f"y = AveragePool <{POOL}> (p)",
        "",
        0.0,
        np.array([0, 0, 3, 0, 0, 0, 0, 0]),
        "as large as the window",
    ),
    "no pad": ("y = Conv(x, w) z = Relu(p)", "", 0.0, PADS, "no Pad"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    consumer, fill, number, pads, reason = NEAR_MISSES[case]
    check_declines(FusePad(), source(consumer, fill), reason, weights=weights(pads, number))


def test_indices_and_modes_and_unknown_amounts() -> None:
    indices = source(
        f"y, i = MaxPool <{POOL}> (p)", ", fill", outputs="float[1, 2, P, Q] y, int64[1, 2, P, Q] i"
    )
    check_declines(FusePad(), indices, "indices of the maxima", weights=weights(fill=-np.inf))
    reflected = source("y = Conv(p, w)").replace("Pad(", 'Pad <mode = "reflect"> (')
    check_declines(FusePad(), reflected, "not pad with a constant", weights=weights())
    fed = {k: v for k, v in weights().items() if k != "pads"}
    check_declines(FusePad(), source("y = Conv(p, w)").replace("[K]", "[8]"), "not constant", weights=fed)
