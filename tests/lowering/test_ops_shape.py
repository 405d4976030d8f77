"""Shape operators, indexing, scattering, creation and casts at the edges."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from checking import check_op, make_model, model_from, run_xla
from onnx import TensorProto

from graphopt.errors import LoweringError

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
INT_MAX, INT_MIN = 2**63 - 1, -(2**63)


def ints(*values: int, dtype: type = np.int64) -> np.ndarray:
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [3], None, None),
        ([-2], [INT_MAX], [2], [1]),
        ([0, -1], [100, -100], [2, 1], [3, -2]),
        ([INT_MAX], [INT_MIN], [-1], [-1]),
        ([3], [0], [2], [-1]),
        ([3], [1], [2], None),
        ([-100], [2], [2], None),
        ([2], [2], [2], [-1]),
        ([0], [3], [2], [2]),
    ],
)
def test_slice(starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None) -> None:
    operands = {"x": X, "starts": ints(*starts), "ends": ints(*ends)}
    operands["axes"] = None if axes is None else ints(*axes)
    operands["steps"] = None if steps is None else ints(*steps)
    check_op("Slice", operands)


def test_slice_of_nothing_and_int32_bounds() -> None:
    empty = np.zeros((0, 3), np.float32)
    check_op("Slice", {"x": empty, "s": ints(0), "e": ints(5), "a": ints(0), "t": ints(-1)})
    check_op("Slice", {"x": X, "s": ints(1, dtype=np.int32), "e": ints(2, dtype=np.int32)})


def test_slice_refuses_a_step_of_zero() -> None:
    # Declared without a size, so that no shape inference sees it first.
    model, feeds = make_model("Slice", {"x": X, "s": ints(0), "e": ints(1), "a": ints(0), "t": ints(0)})
    with pytest.raises(LoweringError, match="step is zero"):
        run_xla(model, feeds)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(mode: str) -> None:
    opset = 19
    check_op("Pad", {"x": X, "pads": ints(0, 1, 2, 1, 0, 3)}, opset=opset, mode=mode)
    check_op(
        "Pad", {"x": X, "pads": ints(0, 2, 1, 0), "v": None, "axes": ints(-1, 1)}, opset=opset, mode=mode
    )
    if mode != "wrap":
        check_op("Pad", {"x": X, "pads": ints(0, -1, 2, 0, 0, -1)}, opset=opset, mode=mode)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.float64])
def test_pad_with_a_value(dtype: type) -> None:
    check_op("Pad", {"x": np.ones((2, 2), dtype), "pads": ints(1, 0, 0, 1), "v": np.array(1, dtype)})


def test_pad_of_an_empty_tensor() -> None:
    check_op("Pad", {"x": np.zeros((0, 2), np.float32), "pads": ints(1, 0, 1, 0)})


def test_split() -> None:
    check_op("Split", {"x": X, "split": ints(1, 0, 3)}, 3, axis=-1)
    # 4 into 3 parts: 2, 2 and 0; ONNX Runtime refuses an empty part.
    check_op("Split", {"x": X}, 3, axis=2, num_outputs=3, reference="onnx")
    check_op("Split", {"x": np.arange(7)}, 3, num_outputs=3)
    check_op("Split", {"x": X}, 1, axis=0, num_outputs=1)


def test_reshape_and_flatten() -> None:
    check_op("Reshape", {"x": X, "shape": ints(0, -1)})
    check_op("Reshape", {"x": np.zeros((0, 3), np.float32), "shape": ints(3, 0)}, allowzero=1)
    check_op("Reshape", {"x": np.ones((1, 1), np.float32), "shape": np.zeros(0, np.int64)})
    for axis in (0, 1, 3, -1):
        check_op("Flatten", {"x": X}, axis=axis)
    check_op("Flatten", {"x": np.float32(1).reshape(())}, axis=0)


def test_squeeze_unsqueeze_transpose() -> None:
    x = X.reshape(1, 2, 3, 1, 4)
    check_op("Squeeze", {"x": x})
    for axes in (ints(0), ints(-2, 0)):
        check_op("Squeeze", {"x": x, "axes": axes})
    check_op("Unsqueeze", {"x": X, "axes": ints(-1, 0, 2)})
    check_op("Transpose", {"x": X})
    check_op("Transpose", {"x": X}, perm=[2, 0, 1])


def test_expand_tile_concat() -> None:
    check_op("Expand", {"x": X[:, :1], "shape": ints(3, 1)})
    check_op("Expand", {"x": np.float32(2).reshape(()), "shape": ints(0, 2)})
    check_op("Tile", {"x": X, "repeats": ints(1, 2, 0)})
    check_op("Concat", {"a": X, "b": X[:, :0], "c": X[:, 1:]}, axis=-2)
    check_op("Concat", {"a": np.array([True])}, axis=0)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back(mode: str) -> None:
    x = np.arange(2 * 8 * 2 * 3, dtype=np.float32).reshape(2, 8, 2, 3)
    y = check_op("DepthToSpace", {"x": x}, blocksize=2, mode=mode)["y0"]
    model, feeds = make_model("SpaceToDepth", {"x": y}, opset=28, blocksize=2, mode=mode)
    np.testing.assert_array_equal(run_xla(model, feeds)["y0"], x)
    check_op("SpaceToDepth", {"x": y}, blocksize=2)


def test_center_crop_pad() -> None:
    for shape in ((3, 5, 2), (5, 2, 4), (1, 4, 7)):
        check_op("CenterCropPad", {"x": X, "shape": ints(*shape)}, reference="onnx")
    check_op("CenterCropPad", {"x": X, "shape": ints(7, 1)}, reference="onnx", axes=[-1, 0])


@pytest.mark.parametrize("upper", [0, 1])
def test_trilu(upper: int) -> None:
    for k in (None, np.array(0, np.int64), np.array(-2, np.int64), np.array(9, np.int64)):
        check_op("Trilu", {"x": X, "k": k}, upper=upper)
    check_op("Trilu", {"x": np.ones((3, 3), bool)}, upper=upper)


def test_col2im_is_the_sum_of_overlapping_blocks() -> None:
    x = np.random.default_rng(0).standard_normal((2, 2 * 6, 6)).astype(np.float32)
    check_op("Col2Im", {"x": x, "image": ints(3, 5), "block": ints(2, 3)}, reference="onnx")
    x = np.random.default_rng(0).standard_normal((1, 2 * 4, 9)).astype(np.float32)
    operands = {"x": x, "image": ints(5, 5), "block": ints(2, 2)}
    check_op("Col2Im", operands, reference="onnx", strides=[2, 2], pads=[1, 1, 0, 0])
    check_op("Col2Im", operands, reference="onnx", dilations=[2, 2])


def test_gather_counts_negative_indices_from_the_end() -> None:
    for axis in (0, 1, -1):
        check_op("Gather", {"x": X, "i": ints(0, -1, 1)}, axis=axis)
    check_op("Gather", {"x": X, "i": np.array(-1, np.int32)}, axis=1)
    check_op("Gather", {"x": X, "i": np.zeros((0, 2), np.int64)}, axis=1)
    check_op("Gather", {"x": np.array([True, False]), "i": np.array([[1], [0]])})


def test_gather_clamps_what_is_out_of_range() -> None:
    model, feeds = make_model("Gather", {"x": np.arange(3.0), "i": ints(7, -9)})
    np.testing.assert_array_equal(run_xla(model, feeds)["y0"], [2.0, 0.0])


def test_gather_elements_and_nd() -> None:
    indices = np.array([[[0, -1], [2, 1]]])
    check_op("GatherElements", {"x": X, "i": indices}, axis=1)
    check_op("GatherElements", {"x": X, "i": indices.astype(np.int32)}, axis=-1)
    check_op("GatherND", {"x": X, "i": np.array([[0, -1], [1, 0]])})
    check_op("GatherND", {"x": X, "i": np.array([[[-1, 3]], [[0, 0]]])}, batch_dims=1)
    check_op("GatherND", {"x": X, "i": np.array([[[1], [0], [-1]], [[0], [2], [3]]])}, batch_dims=2)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter(reduction: str) -> None:
    updates = np.array([[1.5, -2, 30]], np.float32)
    data = np.arange(12, dtype=np.float32).reshape(3, 4)
    repeated = np.array([[0, -1, 0]]) if reduction != "none" else np.array([[0, -1, 1]])
    check_op("ScatterElements", {"x": data, "i": repeated, "u": updates}, axis=1, reduction=reduction)
    places = np.array([[0], [-1], [0]]) if reduction != "none" else np.array([[0], [-1], [1]])
    operands = {"x": data, "i": places, "u": data[[2, 1, 0]] - 5}
    check_op("ScatterND", operands, reduction=reduction)
    check_op(
        "ScatterND",
        {k: v if k == "i" else v.astype(np.int64) for k, v in operands.items()},
        reduction=reduction,
    )


def test_scatter_drops_what_is_out_of_range() -> None:
    operands = {"x": np.zeros(3, np.float32), "i": np.array([5, -7, 1]), "u": np.ones(3, np.float32)}
    found = run_xla(*make_model("ScatterElements", operands))["y0"]
    np.testing.assert_array_equal(found, [0, 1, 0])


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(mode: str) -> None:
    cache, update = np.zeros((2, 3, 4, 2), np.float32), np.ones((2, 3, 2, 2), np.float32)
    where = ints(2, 3) if mode == "circular" else ints(2, 0)
    operands = {"c": cache, "u": update, "w": where}
    check_op("TensorScatter", operands, opset=24, reference="onnx", mode=mode)


def test_reverse_sequence() -> None:
    lengths = ints(1, 3, 2)
    check_op("ReverseSequence", {"x": X.transpose(2, 1, 0), "n": lengths})
    check_op("ReverseSequence", {"x": X.transpose(1, 2, 0), "n": lengths}, batch_axis=0, time_axis=1)


def test_one_hot() -> None:
    values = np.array([-1, 5], np.float32)
    for axis in (-1, 0, 1):
        check_op("OneHot", {"i": np.array([[0, -1], [7, -9]]), "d": ints(3), "v": values}, axis=axis)
    check_op("OneHot", {"i": np.array([0.0, 2.0], np.float32), "d": np.array(3.0, np.float32), "v": values})


def test_creation() -> None:
    for start, limit, delta in ((5, 0, -2), (0, -1, 1)):
        for dtype in (np.int32, np.float32):
            check_op(
                "Range", {n: np.array(v, dtype) for n, v in zip("sld", (start, limit, delta), strict=True)}
            )
    check_op("Range", {n: np.array(v, np.int64) for n, v in zip("sld", (0, 20000, 1), strict=True)})
    check_op("Range", {n: np.array(v, np.float32) for n, v in zip("sld", (9, -20000, -0.5), strict=True)})
    for k in (-1, 0, 2):
        check_op("EyeLike", {"x": X[0]}, k=k, dtype=TensorProto.INT64)
    check_op("NonZero", {"x": X - 3})
    check_op("Compress", {"x": X, "c": np.array([True, False, True])}, axis=2)
    check_op("Compress", {"x": X, "c": np.array([False, True])})
    check_op("Unique", {"x": np.array([2.0, 1.0, 1.0, 3.0], np.float32)}, 4, sorted=0)
    check_op("Unique", {"x": np.array([[1, 0], [1, 0], [0, 3]], np.int64)}, 4, axis=0)


def test_dropout_passes_through() -> None:
    """Training is in test_ops_random.py."""
    found = check_op("Dropout", {"x": X}, 2, reference="onnx")
    assert found["y1"].all()


NUMBERS = np.array([-2.7, -1.0, -0.0, 0.0, 0.4, 1.5, 100.9], np.float32)


@pytest.mark.parametrize("source", [np.float32, np.float16, np.float64, np.int32, np.bool_, np.int8])
@pytest.mark.parametrize("target", ["BOOL", "INT8", "INT64", "FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"])
def test_cast(source: type, target: str) -> None:
    check_op("Cast", {"x": NUMBERS.astype(source)}, to=TensorProto.DataType.Value(target), reference="onnx")


def test_cast_of_integers_keeps_the_low_bits_and_nan_is_true() -> None:
    check_op("Cast", {"x": np.array([200, 256, -129, 2**40 + 3])}, to=TensorProto.INT8)
    check_op("Cast", {"x": np.array([-1, 2**33])}, to=TensorProto.UINT32)
    check_op("Cast", {"x": np.array([np.nan, np.inf, 0.0])}, to=TensorProto.BOOL)


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("target", ["FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"])
def test_cast_to_float8(target: str, saturate: int) -> None:
    limits = [448.0, 464.0, 466.0, 57344.0, 61440.0, 1e6, 0.0017, 2.0**-9, 0.30]
    x = np.array([np.nan, np.inf, -np.inf, 0.0, *limits, *(-v for v in limits)], np.float32)
    to = TensorProto.DataType.Value(target)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        with np.errstate(over="ignore"):
            narrow = x.astype(dtype)
        check_op("Cast", {"x": narrow}, opset=19, to=to, saturate=saturate, reference="onnx")


@pytest.mark.parametrize("round_mode", ["up", "down", "nearest"])
def test_cast_to_powers_of_two(round_mode: str) -> None:
    x = np.array([1.0, 1.2, 1.5, 1.75, 2.0**-126, 2.0**-127, 1e-30, 3e38, np.nan], np.float32)
    to = TensorProto.FLOAT8E8M0
    check_op("Cast", {"x": x}, opset=24, to=to, round_mode=round_mode, reference="onnx")
    check_op("Cast", {"x": x}, opset=24, to=to, round_mode=round_mode, saturate=0, reference="onnx")


def test_cast_like_and_bit_cast() -> None:
    check_op("CastLike", {"x": NUMBERS, "t": np.zeros(1, np.int32)})
    found = run_xla(*make_model("BitCast", {"x": NUMBERS}, opset=26, to=TensorProto.INT32))["y0"]
    np.testing.assert_array_equal(found, NUMBERS.view(np.int32))
    model, feeds = make_model("BitCast", {"x": np.array([1, 0], np.uint8)}, opset=26, to=TensorProto.BOOL)
    np.testing.assert_array_equal(run_xla(model, feeds)["y0"], [True, False])


@pytest.mark.parametrize(
    ("start", "end", "step", "expected"),
    [
        (0, INT_MAX, 1, "float32[N]"),
        (1, -1, 1, "float32[max(N - 2, 0)]"),
        (-1, INT_MIN, -1, "float32[N]"),
        (0, INT_MAX, 2, "float32[- floordiv(- N, 2)]"),
    ],
)
def test_slice_of_a_symbolic_axis(start: int, end: int, step: int, expected: str) -> None:
    import jax
    from jax import export

    from graphopt.lowering.xla.program import build_program, settings, symbolic_shapes

    model = model_from(f"""g (float[N] x) => (float[M] y) {{
        s = Constant <value = int64[1] {{{start}}}> ()
        e = Constant <value = int64[1] {{{end}}}> ()
        a = Constant <value = int64[1] {{0}}> ()
        t = Constant <value = int64[1] {{{step}}}> ()
        y = Slice(x, s, e, a, t)
    }}""")
    program = build_program(model, symbolic_shapes(model, {}))
    with settings():
        exported = export.export(jax.jit(program.function))(program.weight_structs(), program.inputs)
    assert [str(aval) for aval in exported.out_avals] == [expected]


def test_an_operator_that_needs_a_dimension_says_so() -> None:
    import jax
    from jax import export

    from graphopt.lowering.xla.program import build_program, settings, symbolic_shapes

    model = model_from("""g (float[N] x) => (float[3] y, int64[3] i) {
        k = Constant <value = int64[1] {3}> ()
        y, i = TopK(x, k)
    }""")
    program = build_program(model, symbolic_shapes(model, {}))
    with settings(), pytest.raises(LoweringError, match="GO204"):
        export.export(jax.jit(program.function))(program.weight_structs(), program.inputs)
