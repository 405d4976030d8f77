"""Matrix products against ONNX Runtime; against onnx.reference where it has no kernel."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from checking import check_op

RANDOM = np.random.default_rng(0)


def normal(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)  # type: ignore[call-overload]


def integers(low: int, high: int, *shape: int, dtype: object = np.int8) -> np.ndarray:
    return RANDOM.integers(low, high, shape).astype(dtype)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 5), (5, 2)),
        ((5,), (5,)),
        ((5,), (5, 2)),
        ((3, 5), (5,)),
        ((2, 3, 5), (5,)),
        ((5,), (2, 5, 3)),
        ((2, 1, 3, 5), (4, 5, 2)),
        ((0, 5), (5, 2)),
        ((3, 0), (0, 2)),
    ],
)
def test_matmul_takes_every_rank(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check_op("MatMul", {"a": normal(*a), "b": normal(*b)}, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64, np.uint32])
def test_matmul_of_other_types(dtype: type) -> None:
    a, b = integers(0, 9, 3, 4, dtype=dtype), integers(0, 9, 4, 5, dtype=dtype)
    check_op("MatMul", {"a": a, "b": b}, rtol=1e-12)


def test_half_precision_products_accumulate_in_float32() -> None:
    # 4096 halves of 1/4096: a sum in float16 would stop growing long before it is complete.
    ones = np.full((1, 4096), 1.0, np.float16)
    small = np.full((4096, 1), 1.0 / 4096, np.float16)
    found = check_op("MatMul", {"a": ones, "b": small})
    assert found["y0"][0, 0] == 1.0


def test_bfloat16_matmul() -> None:
    a, b = normal(3, 64, dtype=ml_dtypes.bfloat16), normal(64, 5, dtype=ml_dtypes.bfloat16)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    found = check_op("MatMul", {"a": a, "b": b}, reference="onnx", rtol=3e-2, atol=3e-2)
    # Rounded once: no further from the exact product than half a unit in the last place.
    np.testing.assert_allclose(found["y0"].astype(np.float64), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    ("trans_a", "trans_b", "c"),
    [(0, 0, None), (0, 1, ()), (1, 0, (1,)), (1, 1, (4,)), (0, 0, (3, 1)), (0, 1, (3, 4))],
)
def test_gemm(trans_a: int, trans_b: int, c: tuple[int, ...] | None) -> None:
    inputs = {
        "a": normal(5, 3) if trans_a else normal(3, 5),
        "b": normal(4, 5) if trans_b else normal(5, 4),
        "c": None if c is None else normal(*c),
    }
    check_op("Gemm", inputs, transA=trans_a, transB=trans_b, alpha=0.5, beta=1.5, rtol=1e-4, atol=1e-5)


def test_gemm_of_integers_and_halves() -> None:
    a, b, c = (integers(0, 9, *s, dtype=np.int32) for s in ((2, 3), (3, 4), (4,)))
    check_op("Gemm", {"a": a, "b": b, "c": c}, reference="onnx")  # ONNX Runtime has float kernels only
    x, y = normal(2, 3, dtype=np.float16), normal(3, 4, dtype=np.float16)
    check_op("Gemm", {"a": x, "b": y}, alpha=2.0, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("ij, jk", [(2, 3), (3, 4)]),
        ("bij,bkj->bik", [(2, 3, 4), (2, 5, 4)]),
        ("ij->ji", [(2, 3)]),
        ("ij->i", [(2, 3)]),
        ("ii->i", [(3, 3)]),
        ("i,i", [(4,), (4,)]),
        ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)]),
        ("i,j,k->kji", [(2,), (3,), (4,)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 2)]),
        ("ba,cb", [(2, 3), (4, 2)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    inputs = {f"x{i}": normal(*s) for i, s in enumerate(shapes)}
    check_op("Einsum", inputs, equation=equation, rtol=1e-4, atol=1e-5)


def test_einsum_broadcasts_an_ellipsis_of_another_rank() -> None:
    # ONNX Runtime's shape inference refuses this.
    inputs = {"a": normal(2, 3, 4), "b": normal(4, 5)}
    check_op("Einsum", inputs, equation="...ij,...jk->...ik", reference="onnx", rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("equation", ["ij,jk->ik", "ij,kj->i", "ij,jk,kl->il"])
def test_einsum_of_bfloat16_rounds_once(equation: str) -> None:
    inputs = {f"x{i}": normal(4, 4, dtype=ml_dtypes.bfloat16) for i in range(equation.count(",") + 1)}
    exact = np.einsum(equation, *(x.astype(np.float64) for x in inputs.values()))
    found = check_op(
        "Einsum", inputs, opset=28, reference="onnx", equation=equation, rtol=0.2, atol=0.2
    )  # onnx.reference rounds after each product
    np.testing.assert_allclose(found["y0"].astype(np.float64), exact, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_matmul_integer(dtype: type) -> None:
    a, b = integers(0, 120, 3, 4, dtype=np.uint8), integers(0, 120, 4, 5, dtype=dtype)
    check_op("MatMulInteger", {"a": a, "b": b})
    zeros = {"az": np.uint8(7), "bz": dtype(5)}
    check_op("MatMulInteger", {"a": a, "b": b, **zeros})
    columns = {"az": np.uint8(7), "bz": integers(0, 9, 5, dtype=dtype)}
    check_op("MatMulInteger", {"a": a, "b": b, **columns}, constant=("b", "bz"))


def test_matmul_integer_with_a_zero_point_for_each_row() -> None:
    # ONNX Runtime takes one zero point for a only, and so does onnx.reference: compute it here.
    a, b = integers(0, 120, 3, 4, dtype=np.uint8), integers(0, 120, 4, 5, dtype=np.uint8)
    rows = np.array([1, 2, 3], np.uint8)
    from checking import make_model, run_xla

    model, feeds = make_model("MatMulInteger", {"a": a, "b": b, "az": rows})
    expected = (a.astype(np.int32) - rows[:, None]) @ b.astype(np.int32)
    np.testing.assert_array_equal(run_xla(model, feeds)["y0"], expected)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_qlinear_matmul(dtype: type, per_column: bool) -> None:
    info = np.iinfo(dtype)
    columns = 5 if per_column else 1
    inputs = {
        "a": integers(info.min, info.max, 2, 3, 4, dtype=dtype),
        "as": np.array(0.02, np.float32),
        "az": np.array(3, dtype),
        "b": integers(info.min, info.max, 4, 5, dtype=dtype),
        "bs": (0.01 + 0.01 * np.arange(columns, dtype=np.float32)).reshape((5,) if per_column else ()),
        "bz": np.arange(columns).astype(dtype).reshape((5,) if per_column else ()),
        "ys": np.array(0.5, np.float32),
        "yz": np.array(10, dtype),
    }
    constant = tuple(k for k in inputs if k != "a")
    check_op("QLinearMatMul", inputs, constant=constant)


def test_det() -> None:
    check_op("Det", {"x": normal(2, 4, 4)}, rtol=1e-4)
    check_op("Det", {"x": normal(3, 3)}, opset=22, reference="onnx", rtol=1e-4)
