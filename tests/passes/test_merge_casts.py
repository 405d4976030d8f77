"""merge-casts."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass, model_from, run_onnxruntime

from graphopt.ir import DataType, text
from graphopt.passes.merge_casts import MergeCasts, keeps_every_value

# (type of x, in between, at last), as ONNX spells and numbers them.
NUMBERS = {
    "float": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "double": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
}

MERGED = [
    ("int8", "int32", "float"),
    ("int8", "int32", "uint8"),
    ("uint8", "int32", "int8"),
    ("int8", "float", "int8"),
    ("int8", "float", "int32"),
    ("int16", "float", "float16"),
    ("int32", "double", "float"),
    ("int32", "int64", "float"),
    ("uint8", "float16", "float"),
    ("bool", "float", "int32"),
    ("bool", "int64", "bool"),
    ("int8", "float", "bool"),
    ("float", "double", "float16"),
    ("float", "double", "float"),
    ("float16", "float", "float16"),
    ("float16", "float", "bool"),
    ("float16", "float", "double"),
]

KEPT = [
    ("float", "float16", "float"),
    ("float", "int32", "float"),
    ("int32", "int8", "int32"),
    ("int32", "float", "double"),
    ("int32", "float16", "int32"),
    ("int64", "double", "int64"),
    ("int8", "uint8", "int32"),
    ("int8", "float", "uint8"),
    ("float", "bool", "float"),
    ("float", "double", "int32"),
    ("float16", "float", "int8"),
    ("float", "bfloat16", "float"),
    ("float16", "bfloat16", "float"),
    ("bfloat16", "float16", "float"),
    ("uint16", "float16", "float"),
]


def source(x: str, middle: str, last: str) -> str:
    return f"""g ({x}[N] x) => ({last}[N] y) {{
        a = Cast<to = {NUMBERS[middle]}>(x)
        b = Cast<to = {NUMBERS[last]}>(a)
        y = Identity(b)
    }}"""


def numbers_of(name: str) -> np.ndarray:
    dtype = DataType(NUMBERS[name]).numpy()
    if dtype.kind == "b":
        return np.array([True, False])
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.array([limits.min, limits.max, 0, 1, 2, limits.max - 1, limits.max // 3], dtype)
    special = [0.0, -0.0, np.nan, np.inf, -np.inf, 1.1, -2049.5, 65504.0, 6e-8]
    return np.array([*special, np.pi, 1 / 3], dtype)


@pytest.mark.parametrize(("x", "middle", "last"), MERGED)
def test_values_survive_the_type_between(x: str, middle: str, last: str) -> None:
    model = model_from(source(x, middle, last))
    original = model.clone()
    assert MergeCasts().run(model).modified
    assert sum(n.op_type == "Cast" for n in model.graph) == int(x != last)
    feeds = {"x": numbers_of(x)}
    old, new = run_onnxruntime(original, feeds)["y"], run_onnxruntime(model, feeds)["y"]
    assert old.tobytes() == new.tobytes()


@pytest.mark.parametrize(("x", "middle", "last"), KEPT)
def test_values_that_may_not_survive_keep_both(x: str, middle: str, last: str) -> None:
    assert not MergeCasts().run(model_from(source(x, middle, last))).modified


@pytest.mark.parametrize("a", sorted(set(NUMBERS) - {"bfloat16"}))
@pytest.mark.parametrize("b", sorted(set(NUMBERS) - {"bfloat16"}))
def test_what_is_said_to_keep_every_value_does(a: str, b: str) -> None:
    if keeps_every_value(DataType(NUMBERS[a]), DataType(NUMBERS[b])):
        x = numbers_of(a)
        back = x.astype(DataType(NUMBERS[b]).numpy()).astype(x.dtype)
        np.testing.assert_array_equal(back, x)


def test_the_first_cast_stays_for_its_other_users() -> None:
    check_pass(
        MergeCasts(),
        before="g (int8[N] x) => (float[N] y, int32[N] a) { a = Cast<to = 6>(x) y = Cast<to = 1>(a) }",
        after="g (int8[N] x) => (float[N] y, int32[N] a) { a = Cast<to = 6>(x) y = Cast<to = 1>(x) }",
    )


@pytest.mark.parametrize(
    ("move", "rank"),
    [
        ("Reshape(@, shape)", 2),
        ("Transpose(@)", 2),
        ("Gather<axis = 1>(@, some)", 2),
        ("Unsqueeze(@, some)", 4),
        ("Slice(@, one, two, one)", 2),
        ("Expand(@, large)", 3),
    ],
)
@pytest.mark.parametrize(("kind", "wide"), [("float16", 1), ("bool", 1), ("int32", 7), ("bool", 7)])
def test_moved_in_a_wider_type(move: str, rank: int, kind: str, wide: int) -> None:
    frame = f"""g ({kind}[2, 3] x) => ({kind}[{", ".join("ABCD"[:rank])}] y) <int64[2] shape = {{3, 2}},
        int64[2] some = {{2, 0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[3] large = {{4, 2, 3}}>"""
    before = f"a = Cast<to = {wide}>(x) b = {move.replace('@', 'a')} y = Cast<to = {NUMBERS[kind]}>(b)"
    after = f"y = {move.replace('@', 'x')}"
    check_pass(MergeCasts(), before=f"{frame} {{ {before} }}", after=f"{frame} {{ {after} }}")


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Cast<to = 1>(x) b = Transpose(a) c = Exp(b) y = Cast<to = 10>(c)",
        "a = Cast<to = 6>(x) b = Transpose(a) y = Cast<to = 10>(b)",
        "a = Cast<to = 1>(x) b = Transpose(a) c = Cast<to = 10>(b) d = Cast<to = 10>(b) y = Add(c, d)",
        "a = Cast<to = 1>(x) b = Transpose(a) c = Cast<to = 11>(b) d = Exp(c) y = Cast<to = 10>(d)",
    ],
)
def test_other_work_in_a_wider_type_stays(nodes: str) -> None:
    changes = check_pass_quietly(f"g (float16[2, 3] x) => (float16[A, B] y) {{ {nodes} }}")
    assert "cast-of-moved-cast" not in changes


def check_pass_quietly(source: str) -> dict[str, int]:
    return dict(MergeCasts().run(model_from(source)).counts)


def test_a_cast_to_the_type_of_another_value_is_a_cast() -> None:
    check_pass(
        MergeCasts(),
        before="g (float[N] x, int64[M] y) => (int64[N] z) { z = CastLike(x, y) }",
        after="g (float[N] x, int64[M] y) => (int64[N] z) { z = Cast<to = 7>(x) }",
    )
    before = """g (float[N] x, float16[M] y) => (float16[N] z) {
        h = CastLike(x, y) i = CastLike(h, x) z = CastLike(i, y) }"""
    after = "g (float[N] x, float16[M] y) => (float16[N] z) { z = Cast<to = 10>(x) }"
    model = model_from(before)
    MergeCasts().run(model)
    assert text.canonical(model) == text.canonical(model_from(after))
