"""split-projections: products in the place of copies, where the copies are large."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.split_projections import SplitProjections

WIDE = "float[2, 512, 8] x, float[8, 1536] w, float[1536] b, int64[3] s"


def source(body: str, outputs: str = "float[2, 512, A] p, float[2, 512, B] q, float[2, 512, C] r") -> str:
    return f"g ({WIDE}) => ({outputs}) {{ {body} }}"


def weights(sizes: tuple[int, ...] = (512, 256, 768)) -> dict[str, np.ndarray]:
    return arrays(w=(8, 1536), b=(1536,)) | {"s": np.array(sizes, np.int64)}


def test_each_part_is_a_product() -> None:
    text = source("""m = MatMul(x, w) t = Add(b, m) d, e, f = Split<axis = -1>(t, s)
                     p = Relu(d) q = Relu(e) r = Relu(f)""")
    after = "MatMul Add MatMul Add MatMul Add Relu Relu Relu"
    check_rewrite(SplitProjections(), text, after, weights=weights())


def test_equal_parts_without_bias() -> None:
    text = source("""m = MatMul(x, w) d, e, f = Split<axis = 2, num_outputs = 3>(m)
                     p = Relu(d) q = Relu(e) r = Relu(f)""")
    check_rewrite(SplitProjections(), text, "MatMul MatMul MatMul Relu Relu Relu", weights=weights())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("m = MatMul(x, w) d, e, f = Split<axis = 1, num_outputs = 3>(m) p = Relu(d) q = Relu(e) r = Relu(f)",
         "it does not split the columns"),
        ("m = Relu(x) d, e, f = Split<axis = 2, num_outputs = 3>(m) p = Relu(d) q = Relu(e) r = Relu(f)",
         "the copies cost less than the kernels"),
        ("m = MatMul(x, w) d, e, f = Split<axis = 2>(m, s) p = Relu(d) q = Relu(e) g = Relu(f) "
         "h = ReduceSum(m) r = Add(g, h)", "the product is used as a whole, too"),
    ],
)  # fmt: skip
def test_near_misses(body: str, reason: str) -> None:
    check_declines(SplitProjections(), source(body), reason, weights=weights())
