"""Every element type of the schemas, operator by operator, on small inputs.

The oracle is onnx.reference for the type at hand; where it has no arithmetic for a type, or rounds every step
to it, the same in a wider one, rounded once at the end.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.defs
import onnx_ir
import pytest
from checking import check_op, make_model, run_xla
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graphopt.errors import UnsupportedError
from graphopt.ir.ingest import normalize

pytestmark = pytest.mark.slow

OPSET = onnx.defs.onnx_opset_version()
NAMES = {
    "float": np.float32,
    "double": np.float64,
    "string": None,
    "float6e2m3": None,  # XLA:CPU aborts on them, so that they are refused
    "float6e3m2": None,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8e8m0": ml_dtypes.float8_e8m0fnu,
    "float4e2m1": ml_dtypes.float4_e2m1fn,
}


def dtype_of(text: str) -> np.dtype | None:
    """The numpy type of ``tensor(float16)``; None for strings and what is no tensor."""
    if not text.startswith("tensor("):
        return None
    name = text[7:-1]
    found = NAMES[name] if name in NAMES else getattr(np, name, None) or getattr(ml_dtypes, name)
    return None if found is None else np.dtype(found)


def is_float(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or (dtype.kind == "V" and not dtype.name.startswith(("int", "uint")))


def numbers(dtype: np.dtype, *shape: int, low: float = -2, high: float = 3, seed: int = 0) -> np.ndarray:
    """Halves of [low, high] where the type has them, else whole numbers, all of them exact in it."""
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape))
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.name == "float8_e8m0fnu":
        return (2.0 ** rng.integers(0, 2, shape)).astype(dtype)
    signed = not dtype.name.startswith("uint")
    if dtype.name in ("int2", "uint2"):
        low, high = (-2, 1) if signed else (0, 3)
    low = low if signed else max(low, 0)
    values = rng.integers(int(low * 2), int(high * 2) + 1, count) / 2
    if not is_float(dtype) and dtype.kind != "c":
        values = np.floor(values)
    return values.astype(dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Op:
    """An operator with inputs; "T" stands for numbers of the type under test.

    Attributes:
        inputs: shapes of inputs of the type, or arrays that are what they are.
        constant: the names of those that are initializers.
        low, high: the range of the numbers.
        exact: whether the result is moved, not computed.
        type: the type parameter under test.
    """

    name: str
    inputs: tuple[Any, ...] = ((2, 3),)
    outputs: int = 1
    attributes: tuple[tuple[str, Any], ...] = ()
    low: float = -2
    high: float = 3
    exact: bool = False
    type: str = ""

    def __str__(self) -> str:
        return self.name + "".join(f"-{k}={v}" for k, v in self.attributes if not hasattr(v, "ByteSize"))


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


ONE, POSITIVE = {"low": -1, "high": 1}, {"low": 1, "high": 3}
MOVED = {"exact": True}
UNARY = """
    Abs Atan Asinh Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu
    LogSoftmax Mish Neg Not Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Swish Tan Tanh
    ThresholdedRelu BitwiseNot Hardmax
""".split()
BINARY = """
    Add Sub Mul Max Min And Or Xor Equal Greater Less GreaterOrEqual LessOrEqual BitwiseAnd BitwiseOr BitwiseXor
    PRelu Mean Sum
""".split()
OPS = [
    *(Op(name) for name in UNARY),
    *(Op(name, **ONE) for name in ("Acos", "Asin")),
    *(Op(name, **POSITIVE) for name in ("Acosh", "Log", "Reciprocal", "Sqrt")),
    Op("Atanh", low=-0.5, high=0.5),
    *(Op(name, ((2, 3), (2, 3))) for name in BINARY),
    Op("Div", ((2, 3), (2, 3)), **POSITIVE),
    Op("Pow", ((2, 3), (2, 3)), low=0, high=2),
    Op("Mod", ((2, 3), (2, 3)), **POSITIVE, attributes=(("fmod", 1),)),
    Op("BitShift", ((2, 3), (2, 3)), attributes=(("direction", "LEFT"),)),
    Op("Clip", ((2, 3), ())),
    Op("Where", (np.array([[True, False, True]]), (2, 3), (2, 3)), type="T", **MOVED),
    Op("Reshape", ((2, 3), i64(3, -1)), **MOVED),
    Op("Transpose", **MOVED),
    Op("Squeeze", ((1, 3), i64(0)), **MOVED),
    Op("Unsqueeze", ((2, 3), i64(1)), **MOVED),
    Op("Flatten", ((2, 3, 2),), **MOVED),
    Op("Concat", ((2, 3), (1, 3)), attributes=(("axis", 0),), **MOVED),
    Op("Split", ((4, 3),), outputs=2, attributes=(("num_outputs", 2),), **MOVED),
    Op("Slice", ((4, 3), i64(3), i64(0), i64(0), i64(-2)), **MOVED),
    *(
        Op("Pad", ((2, 3), i64(0, 1, 1, 0)), attributes=(("mode", mode),), **MOVED)
        for mode in ("constant", "edge", "reflect", "wrap")
    ),
    Op("Pad", ((2, 3), i64(0, 1, 1, 0), ()), **MOVED),
    Op("Tile", ((2, 3), i64(2, 1)), **MOVED),
    Op("Expand", ((1, 3), i64(2, 1)), **MOVED),
    Op("Gather", ((4, 3), i64(2, -1, 0)), **MOVED),
    Op("GatherElements", ((2, 3), i64(1, 0, -1).reshape(1, 3)), **MOVED),
    Op("GatherND", ((2, 3), i64(1, 2).reshape(1, 2)), **MOVED),
    Op("ScatterElements", ((2, 3), i64(1, 0, 1).reshape(1, 3), (1, 3)), **MOVED),
    *(
        Op("ScatterElements", ((2, 3), i64(1, 0, 1).reshape(1, 3), (1, 3)), attributes=(("reduction", how),))
        for how in ("add", "mul", "max", "min")
    ),
    Op("ScatterND", ((2, 3), i64(1).reshape(1, 1), (1, 3)), **MOVED),
    *(
        Op("ScatterND", ((2, 3), i64(1).reshape(1, 1), (1, 3)), attributes=(("reduction", how),))
        for how in ("add", "mul", "max", "min")
    ),
    Op("DepthToSpace", ((1, 4, 2, 2),), attributes=(("blocksize", 2),), **MOVED),
    Op("SpaceToDepth", ((1, 2, 2, 2),), attributes=(("blocksize", 2),), **MOVED),
    Op("Trilu", ((3, 3),), **MOVED),
    Op("EyeLike", ((3, 3),), **MOVED),
    Op("Shape", **MOVED),
    Op("Size", **MOVED),
    Op("NonZero", **MOVED),
    Op("Compress", ((2, 3), np.array([True, False])), **MOVED),
    Op("Unique", ((6,),), outputs=4, **MOVED),
    Op("ReverseSequence", ((2, 3), i64(1, 2, 2)), **MOVED),
    Op("OneHot", (i64(0, 2), i64(3).reshape(()), (2,)), type="T3", **MOVED),
    Op("CumSum", ((2, 3), i64(1).reshape(()))),
    Op("TopK", ((2, 3), i64(2)), outputs=2, **MOVED),
    Op("ArgMax", **MOVED),
    Op("ArgMin", **MOVED),
    *(
        Op(f"Reduce{name}", ((2, 3), i64(1)), **POSITIVE)
        for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    ),
    Op("Dropout", **MOVED),
    Op("MatMul", ((2, 3), (3, 2))),
    Op("Gemm", ((2, 3), (3, 2), (2,))),
]


def types_of(op: Op) -> list[np.dtype]:
    """The types of the operator's parameter under test: that of its first input, unless it says otherwise."""
    schema = onnx.defs.get_schema(op.name, OPSET)
    wanted = op.type or schema.inputs[0].type_str
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}[wanted]
    return sorted({d for t in allowed if (d := dtype_of(t)) is not None}, key=lambda d: d.name)


def run_reference(model: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return [np.asarray(y) for y in ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, dict(feeds))]


def build(op: Op, dtype: np.dtype, compute: np.dtype | None = None) -> tuple[Any, dict[str, np.ndarray]]:
    """The operator with inputs of `dtype`; with `compute` the same numbers in that type."""
    inputs: dict[str, np.ndarray | None] = {}
    for index, item in enumerate(op.inputs):
        if isinstance(item, tuple):
            made = numbers(dtype, *item, low=op.low, high=op.high, seed=index)
            item = made if compute is None else made.astype(compute)
        inputs[f"x{index}"] = item
    fixed = [n for n, v in inputs.items() if v is not None and not isinstance(op.inputs[int(n[1:])], tuple)]
    return make_model(op.name, inputs, op.outputs, opset=OPSET, constant=fixed, **dict(op.attributes))


@pytest.mark.parametrize(
    ("op", "dtype"),
    [pytest.param(op, dtype, id=f"{op}-{dtype.name}") for op in OPS for dtype in types_of(op)],
)
def test_type(op: Op, dtype: np.dtype) -> None:
    model, feeds = build(op, dtype)
    found = list(run_xla(model, feeds).values())
    narrow = is_float(dtype) and dtype.itemsize <= 2
    if narrow and not op.exact:
        expected = run_reference(*build(op, dtype, np.dtype(np.float32)))
        declared = [v.dtype.numpy() for v in model.graph.outputs]
        expected = [
            y.astype(d) if y.dtype == np.float32 else y for y, d in zip(expected, declared, strict=True)
        ]
    elif op.name == "OneHot" and dtype.kind == "b":  # the reference subtracts
        expected = [y.astype(bool) for y in run_reference(*build(op, dtype, np.dtype(np.int8)))]
    else:
        expected = run_reference(model, feeds)
    if op.name == "ReduceSumSquare":  # the reference lets numpy widen integers
        expected = [y.astype(dtype) for y in expected]
    for result, wanted in zip(found, expected, strict=True):
        assert result.dtype == wanted.dtype
        assert result.shape == wanted.shape
        if op.exact or wanted.dtype.kind in "biu" or not (is_float(wanted.dtype) or wanted.dtype.kind == "c"):
            assert result.tobytes() == wanted.tobytes(), f"{result} {wanted}"
            continue
        kind = np.complex128 if wanted.dtype.kind == "c" else np.float64
        eps = float(ml_dtypes.finfo(wanted.dtype).eps) if is_float(wanted.dtype) else 1e-6
        # A unit in the last place; float64 is held to what the functions of XLA:CPU promise.
        rtol = max(eps, 1e-12) if narrow or wanted.dtype == np.float64 else 4e-6
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(result.astype(kind), wanted.astype(kind), rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("to", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.uint64])
def test_floats_out_of_range_keep_the_low_bits_of_the_whole_number(dtype: type, to: type) -> None:
    x = np.array([-3.7, -300.2, 300.9, 40000.5, -40000.5, -0.5, 255.9], dtype)
    check_op("Cast", {"x": x}, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))


CASTS = onnx.defs.get_schema("Cast", OPSET).type_constraints[0].allowed_type_strs
CAST_TYPES = sorted({d for text in CASTS if (d := dtype_of(text)) is not None}, key=lambda d: d.name)


@pytest.mark.parametrize("dtype", CAST_TYPES, ids=lambda d: d.name)
def test_casts_to_every_type(dtype: np.dtype) -> None:
    """0 and 1, which every type has, but for one that is powers of two only: it gets, and gives, ones."""
    powers = [d for d in CAST_TYPES if d.name == "float8_e8m0fnu"]
    x = np.array([0, 1, 1, 0] if dtype not in powers else [1, 1, 1, 1]).astype(np.float32).astype(dtype)
    targets = [d for d in CAST_TYPES if d not in powers or dtype in powers]
    nodes = [
        helper.make_node("Cast", ["x"], [f"y{i}"], to=helper.np_dtype_to_tensor_dtype(d))
        for i, d in enumerate(targets)
    ]
    info = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(dtype), x.shape)
    outputs = [onnx.ValueInfoProto(name=node.output[0]) for node in nodes]
    graph = helper.make_graph(nodes, "casts", [info], outputs)
    imports = [helper.make_opsetid("", OPSET)]
    model = normalize(onnx_ir.from_proto(helper.make_model(graph, opset_imports=imports)))
    found = run_xla(model, {"x": x})
    for name, target in zip(found, targets, strict=True):
        assert found[name].dtype == target
        assert found[name].tobytes() == x.astype(np.float32).astype(target).tobytes(), (
            f"{target}: {found[name]}"
        )


def test_floats_of_6_bits_are_refused() -> None:
    info = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    node = helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT6E2M3)
    graph = helper.make_graph([node], "narrow", [info], [onnx.ValueInfoProto(name="y")])
    imports = [helper.make_opsetid("", OPSET)]
    model = normalize(onnx_ir.from_proto(helper.make_model(graph, opset_imports=imports)))
    with pytest.raises(UnsupportedError, match="float6e2m3"):
        run_xla(model, {"x": np.zeros(2, np.float32)})
