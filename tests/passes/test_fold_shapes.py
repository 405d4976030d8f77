"""fold-shapes."""

from __future__ import annotations

import pytest
from checking import check_pass, check_same_results, model_from, random_feeds

from graphopt.passes.fold_shapes import FoldShapes

TOWER = """
    s0 = Shape(x) b = Gather(s0, zero) ub = Unsqueeze(b, first)
    s1 = Shape(x) q = Gather(s1, one) uq = Unsqueeze(q, first)
    t = Concat<axis = 0>(ub, uq, {tail})
"""
HEADER = """<int64 zero = {0}, int64 one = {1}, int64[1] first = {0}, int64[2] heads = {4, 16},
    int64[1] wide = {64}, int64[1] rest = {-1}>"""


@pytest.mark.parametrize("batch", [3, 1, 0])
@pytest.mark.parametrize("sequence", [5, 1, 0])
def test_split_heads_becomes_copies(batch: int, sequence: int) -> None:
    check_pass(
        FoldShapes(),
        before=f"""g (float[batch, sequence, 64] x) => (float[A, B, C, D] y) {HEADER} {{
            {TOWER.format(tail="heads")} y = Reshape(x, t) }}""",
        after="""g (float[batch, sequence, 64] x) => (float[A, B, C, D] y) <int64[4] t = {0, 0, 4, 16}> {
            y = Reshape(x, t) }""",
        dims={"batch": batch, "sequence": sequence},
    )


@pytest.mark.parametrize("batch", [3, 0])
def test_merged_rows_become_minus_one(batch: int) -> None:
    check_pass(
        FoldShapes(),
        before="""g (float[batch, 4, 16] x) => (float[A, B] y) <int64 zero = {0}, int64[1] first = {0},
            int64 four = {4}, int64[1] wide = {16}> {
            s = Shape(x) b = Gather(s, zero) m = Mul(b, four) u = Unsqueeze(m, first)
            t = Concat<axis = 0>(u, wide) y = Reshape(x, t) }""",
        after="g (float[batch, 4, 16] x) => (float[A, B] y) <int64[2] t = {-1, 16}> { y = Reshape(x, t) }",
        dims={"batch": batch},
    )


def test_two_dimensions_that_cannot_be_copied_come_from_one_shape() -> None:
    check_pass(
        FoldShapes(),
        before=f"""g (float[batch, sequence, 64] x) => (float[A, B, C, D] y) {HEADER} {{
            {TOWER.format(tail="heads")}
            f = Reshape(x, rest) e = Exp(f) y = Reshape(e, t) }}""",
        after=f"""g (float[batch, sequence, 64] x) => (float[A, B, C, D] y) {HEADER} {{
            s = Shape<start = 0, end = 2>(x) t = Concat<axis = 0>(s, heads)
            f = Reshape(x, rest) e = Exp(f) y = Reshape(e, t) }}""",
    )


def test_tower_that_is_a_whole_shape_becomes_it() -> None:
    check_pass(
        FoldShapes(),
        before=f"""g (float[batch, sequence, 64] x) => (float[A, B, C] y) {HEADER} {{
            {TOWER.format(tail="wide")}
            f = Reshape(x, rest) e = Exp(f) y = Reshape(e, t) }}""",
        after=f"""g (float[batch, sequence, 64] x) => (float[A, B, C] y) {HEADER} {{
            s = Shape(x) f = Reshape(x, rest) e = Exp(f) y = Reshape(e, s) }}""",
    )


def test_minus_one_beside_a_copy_needs_permission() -> None:
    source = """g (float[batch, 8, side] x) => (float[A, B, C, D] y) <
        int64[1] first = {0}, int64[1] second = {2}, int64[1] two = {2}, int64[1] four = {4}> {
        s = Shape(x) b = Gather(s, first) e = Gather(s, second)
        t = Concat<axis = 0>(b, two, four, e) y = Reshape(x, t) }"""
    check_pass(
        FoldShapes(),
        before=source,
        after="""g (float[batch, 8, side] x) => (float[A, B, C, D] y) <int64[2] m = {2, 4}> {
            b = Shape<start = 0, end = 1>(x) e = Shape<start = 2, end = 3>(x)
            t = Concat<axis = 0>(b, m, e) y = Reshape(x, t) }""",
        dims={"batch": 0, "side": 3},
    )
    check_pass(
        FoldShapes(assume_nonempty=True),
        before=source,
        after="""g (float[batch, 8, side] x) => (float[A, B, C, D] y) <int64[4] t = {0, 2, 4, -1}> {
            y = Reshape(x, t) }""",
        dims={"batch": 2, "side": 3},
    )


def test_static_dimensions_become_constants() -> None:
    check_pass(
        FoldShapes(),
        before="""g (float[N, 4] x, int64 k) => (int64 y) <int64 one = {1}> {
            s = Shape(x) d = Gather(s, one) e = Mul(d, d) y = Add(e, k) }""",
        after="g (float[N, 4] x, int64 k) => (int64 y) <int64 e = {16}> { y = Add(e, k) }",
    )
    check_pass(
        FoldShapes(),
        before="g (float[2, 4] x, int64 k) => (int64 y) { s = Size(x) y = Add(s, k) }",
        after="g (float[2, 4] x, int64 k) => (int64 y) <int64 e = {8}> { y = Add(e, k) }",
    )


def test_equal_shapes_are_asked_for_once() -> None:
    check_pass(
        FoldShapes(),
        before="""g (float[N, M] x) => (int64[2] y, int64[2] z) {
            e = Exp(x) s = Shape(x) t = Shape(e) a = Neg(s) b = Neg(t) y = Abs(a) z = Abs(b) }""",
        after="""g (float[N, M] x) => (int64[2] y, int64[2] z) {
            s = Shape(x) a = Neg(s) b = Neg(s) y = Abs(a) z = Abs(b) }""",
    )


def test_expand_to_the_same_shape() -> None:
    check_pass(
        FoldShapes(),
        before="""g (float[N, M] x) => (float[N, M] y) {
            e = Exp(x) s = Shape(e) f = Expand(x, s) y = Relu(f) }""",
        after="g (float[N, M] x) => (float[N, M] y) { y = Relu(x) }",
    )


@pytest.mark.parametrize(
    ("inputs", "constants", "nodes"),
    [
        # Different symbols may differ.
        ("float[N] x, float[M] z", "", "s = Shape(z) h = Expand(x, s) y = Relu(h)"),
        # A sum of different symbols may have the size of either.
        ("float[N] x, float[M] z", "", "h = Add(x, z) s = Shape(h) y = Expand(x, s)"),
        # A slice may be shorter than its bounds say.
        (
            "float[N] x, float z",
            "int64[1] b = {0}, int64[1] e = {128}",
            "h = Slice(x, b, e) s = Shape(h) y = Expand(z, s)",
        ),
        # The target is fed.
        ("float[N] x, int64[2] t", "", "y = Reshape(x, t)"),
        # Shape through a float: rounding is not followed.
        (
            "float[7] x, float z",
            "float two = {2.0}, int64[1] o = {-1}",
            "s = Identity(x) h = Div(s, two) i = Floor(h) k = Cast<to = 7>(i) y = Expand(z, k)",
        ),
        # The value decides, not the shape.
        ("float[N] x, float[3] z", "", "s = NonZero(x) k = Cast<to = 1>(s) y = Relu(k)"),
    ],
)
def test_near_miss_stays(inputs: str, constants: str, nodes: str) -> None:
    rank = "A, B" if "Reshape" in nodes or "NonZero" in nodes else "A"
    check_pass(
        FoldShapes(), before=f"g ({inputs}) => (float[{rank}] y) <{constants}> {{ {nodes} }}", run=False
    )


def test_half_of_a_size_is_not_followed_through_floats() -> None:
    source = """g (float[7] x, float z) => (float[Q] y) <float[1] two = {2.0}, int64[1] t = {2}> {
        s = Shape(x) f = Cast<to = 1>(s) q = Cast<to = 1>(t) h = Div(f, q) r = Ceil(h) k = Cast<to = 7>(r)
        y = Expand(z, k) }"""
    check_pass(
        FoldShapes(),
        before=source,
        after=source.replace("s = Shape(x) f = Cast<to = 1>(s)", "f = Cast<to = 1>(s)").replace(
            "int64[1] t = {2}>", "int64[1] t = {2}, int64[1] s = {7}>"
        ),
    )


def test_shape_output_keeps_its_name() -> None:
    check_pass(
        FoldShapes(),
        before="g (float[2, 3] x) => (int64[2] y, int64[2] z) { y = Shape(x) z = Neg(y) }",
        after="""g (float[2, 3] x) => (int64[2] y, int64[2] z) <int64[2] s = {2, 3}> {
            z = Neg(s) y = Identity(s) }""",
    )


def test_towers_in_a_branch_on_a_captured_value() -> None:
    check_pass(
        FoldShapes(),
        before=f"""g (bool c, float[batch, sequence, 64] x) => (float[A, B, C, D] y) {HEADER} {{
            y = If (c) <
                then_branch = t () => (float[A, B, C, D] a) {{
                    {TOWER.format(tail="heads")} a = Reshape(x, t) }},
                else_branch = e () => (float[A, B, C, D] b) {{ b = Reshape(x, zeros) }}
            > }}""".replace("wide = {64}", "wide = {64}, int64[4] zeros = {0, 0, 16, 4}"),
        after="""g (bool c, float[batch, sequence, 64] x) => (float[A, B, C, D] y)
            <int64[4] zeros = {0, 0, 16, 4}, int64[4] s = {0, 0, 4, 16}> {
            y = If (c) <
                then_branch = t () => (float[A, B, C, D] a) { a = Reshape(x, s) },
                else_branch = e () => (float[A, B, C, D] b) { b = Reshape(x, zeros) }
            > }""",
    )


def test_growing_loop_value_has_no_fixed_shape() -> None:
    source = """g (float[1] x, bool on) => (float[Q] y, float[P, R] z) <int64 n = {3}, float o = {1.0}> {
        y, z = Loop (n, on, x) <
            body = b (int64 i, bool c, float[S] s) => (bool go, float[S] r, float[1] q) {
                go = Identity(c)
                r = Concat<axis = 0>(s, x)
                d = Shape(s)
                q = Cast<to = 1>(d)
            }
        > }"""
    model = model_from(source)
    assert not FoldShapes().run(model).modified


GUARDED = """g (float[1, 1, N] x, float[batch, sequence] like) => (float[A, B, C] y) <int64[1] rest = {-1},
    int64[1] three = {3}, int64 minus = {-1}, int64 first = {0}, int64[1] axis = {0}> {
    s = Shape(like) b = Gather(s, first) {changed} u = Unsqueeze({used}, axis) n = Shape<start = 1>(like)
    t = Concat<axis = 0>(u, rest, n) k = Shape(t) ones = ConstantOfShape<value = int64[1] {1}>(k)
    m = Mul(ones, minus) e = Equal(t, m) w = Where(e, ones, t) y = Expand(x, w) }"""


def test_guard_against_minus_one_in_the_target_of_expand_is_decided() -> None:
    check_pass(
        FoldShapes(),
        before=GUARDED.replace("{changed}", "")
        .replace("{used}", "b")
        .replace("[1, 1, N]", "[1, 1, sequence]"),
        after="""g (float[1, 1, sequence] x, float[batch, sequence] like) => (float[A, B, C] y)
            <int64[1] one = {1}> {
            c = Shape<start = 1>(like) a = Shape<start = 0, end = 1>(like)
            t = Concat<axis = 0>(a, one, c) y = Expand(x, t) }""",
        dims={"batch": 2, "sequence": 4},
    )


@pytest.mark.parametrize("batch", [2, 3])
def test_guard_stays_where_an_element_may_be_minus_one(batch: int) -> None:
    """batch - 3 is -1 for a batch of 2: then the target is 1."""
    source = GUARDED.replace("{changed}", "c = Sub(b, four)").replace("{used}", "c")
    model = model_from(source.replace("int64[1] three = {3}", "int64 four = {3}").replace("N]", "sequence]"))
    original = model.clone()
    FoldShapes().run(model)
    assert any(n.op_type == "Where" for n in model.graph)
    feeds = random_feeds(original, {"batch": batch, "sequence": 4})
    check_same_results(original, model, feeds, FoldShapes.exactness)


@pytest.mark.parametrize("batch", [3, 0])
def test_exact_quotient_of_a_size_is_read_where_it_stands(batch: int) -> None:
    check_pass(
        FoldShapes(),
        before="""g (float[batch, 4] x) => (float[A, B] y) <int64 zero = {0}, int64[1] first = {0},
            int64 four = {4}, int64[1] rest = {-1}, float[1, 4] row = {1.0, 2.0, 3.0, 4.0}> {
            f = Reshape(x, rest) s = Shape(f) n = Gather(s, zero) q = Div(n, four) u = Unsqueeze(q, first)
            c = Shape<start = 1>(x) t = Concat<axis = 0>(u, c) y = Expand(row, t) }""",
        after="""g (float[batch, 4] x) => (float[A, B] y) <float[1, 4] row = {1.0, 2.0, 3.0, 4.0},
            int64[1] four = {4}> {
            s = Shape<start = 0, end = 1>(x) t = Concat<axis = 0>(s, four) y = Expand(row, t) }""",
        dims={"batch": batch},
    )
