"""raise-rotary-embedding against ONNX Runtime: halves, neighbours, parts, caches and near misses."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import check_declines, check_rewrite, with_weights

from graphopt.ir import Model
from graphopt.passes.raise_rotary_embedding import RaiseRotaryEmbedding

B, H, S, D = 2, 3, 4, 8
INTS = {"i0": [0], "i1": [1], "i2": [2], "i4": [4], "i8": [8], "end": [2**63 - 1], "last": [-1], "ax3": [3]}
WEIGHTS = {k: np.array(v, np.int64) for k, v in INTS.items()}
HALVES = "a = Slice(x, i0, i4, ax3) b = Slice(x, i4, end, ax3, i1)"
TURNED = "n = Neg(b) t = Concat<axis = -1>(n, a)"
SUM = "p = Mul(x, cos) q = Mul(t, sin) y = Add(p, q)"


def source(
    body: str, inputs: str = f"float[{B},{H},{S},{D}] x", more: dict[str, np.ndarray] | None = None
) -> str:
    kinds = {"f": "float", "i": "int64"}
    names = [
        f"{kinds[a.dtype.kind]}[{','.join(map(str, a.shape))}] {n}"
        for n, a in {**WEIGHTS, **(more or {})}.items()
    ]
    return f"g ({inputs}, {', '.join(names)}) => (float[A, E, F, G] y) {{ {body} }}"


def tables(*shape: int, interleaved: bool = False) -> dict[str, np.ndarray]:
    angles = np.random.default_rng(0).standard_normal((*shape[:-1], shape[-1] // 2)).astype(np.float32)
    angles = np.repeat(angles, 2, -1) if interleaved else np.concatenate([angles, angles], -1)
    return {"cos": np.cos(angles), "sin": np.sin(angles)}


def check(body: str, after: str, more: dict[str, np.ndarray], **options: object) -> Model:
    text = source(body, more=more, **options)  # type: ignore[arg-type]
    return check_rewrite(RaiseRotaryEmbedding(), text, after, weights={**WEIGHTS, **more}, opset=23,
                         dims={"N": 2, "L": 5})[0]  # fmt: skip


def declines(body: str, reason: str, more: dict[str, np.ndarray]) -> None:
    text = source(body, more=more)
    check_declines(RaiseRotaryEmbedding(), text, reason, weights={**WEIGHTS, **more}, opset=23)


def rotary(model: Model) -> dict[str, object]:
    node = next(n for n in model.graph if n.op_type == "RotaryEmbedding")
    return {k: a.value for k, a in node.attributes.items()}


@pytest.mark.parametrize("halves", [HALVES, "a, b = Split<axis = -1, num_outputs = 2>(x)"])
@pytest.mark.parametrize("total", [SUM, "p = Mul(cos, x) q = Mul(sin, t) y = Add(q, p)"])
def test_halves(halves: str, total: str) -> None:
    model = check(f"{halves} {TURNED} {total}", "RotaryEmbedding", tables(B, 1, S, D))
    assert rotary(model) == {"interleaved": 0}


@pytest.mark.parametrize("shape", [(1, 1, S, D), (1, S, D), (S, D)])
def test_caches_are_repeated_for_each_sample(shape: tuple[int, ...]) -> None:
    check(f"{HALVES} {TURNED} {SUM}", "Expand Expand RotaryEmbedding", tables(*shape))


PAIRS = """a = Slice(x, i0, end, ax3, i2) b = Slice(x, i1, end, ax3, i2) n = Neg(b) nu = Unsqueeze(n, last)
    au = Unsqueeze(a, last) j = Concat<axis = -1>(nu, au) t = Reshape(j, shape)"""


def test_neighbours() -> None:
    more = {**tables(B, 1, S, D, interleaved=True), "shape": np.array([0, 0, 0, D])}
    model = check(f"{PAIRS} {SUM}", "RotaryEmbedding", more)
    assert rotary(model) == {"interleaved": 1}


def test_caches_of_the_other_kind_are_not_taken() -> None:
    more = {**tables(B, 1, S, D), "shape": np.array([0, 0, 0, D])}
    declines(f"{PAIRS} {SUM}", "each angle twice", more)
    declines(f"{HALVES} {TURNED} {SUM}", "each angle twice", tables(B, 1, S, D, interleaved=True))


ANGLES = "float[N, 3, L, 8] x, float[N, L, 4] f"


def test_angles_that_are_computed_are_computed_once() -> None:
    body = f"""d = Concat<axis = -1>(f, f) c = Cos(d) s = Sin(d) k = Mul(c, two) cos = Unsqueeze(k, i1)
        sin = Unsqueeze(s, i1) {HALVES} {TURNED} {SUM}"""
    more = {"two": np.asarray(2.0, np.float32)}
    check(body, "Cos Mul Sin RotaryEmbedding", more, inputs=ANGLES)


def test_angles_of_neighbours_that_are_computed() -> None:
    body = f"""u = Unsqueeze(f, last) v = Concat<axis = -1>(u, u) d = Reshape(v, three) c = Cos(d) s = Sin(d)
        cos = Unsqueeze(c, i1) sin = Unsqueeze(s, i1) {PAIRS} {SUM}"""
    more = {"three": np.array([0, 0, D]), "shape": np.array([0, 0, 0, D])}
    check(body, "Cos Sin RotaryEmbedding", more, inputs=ANGLES)


def test_rows_of_a_table() -> None:
    body = f"""c = Gather(cos_table, at) s = Gather(sin_table, at) cos = Unsqueeze(c, i1)
        sin = Unsqueeze(s, i1) {HALVES} {TURNED} {SUM}"""
    more = {f"{k}_table": v for k, v in tables(16, D).items()}
    check(body, "Gather Gather RotaryEmbedding", more, inputs="float[N, 3, L, 8] x, int64[N, L] at")
    body = (
        f"""cos = Slice(cos_table, i0, i4, i0) sin = Slice(sin_table, i0, i4, i0) {HALVES} {TURNED} {SUM}"""
    )
    check(body, "Slice Unsqueeze Slice Unsqueeze RotaryEmbedding", more, inputs=f"float[1, {H}, {S}, {D}] x")


def test_a_part_of_a_head() -> None:
    body = f"x = Slice(w, i0, i8, ax3) r = Slice(w, i8, end, ax3) {HALVES} {TURNED} {SUM}"
    body = body.replace("y = Add", "z = Add") + " y = Concat<axis = -1>(z, r)"
    model = check(body, "RotaryEmbedding", tables(B, 1, S, D), inputs=f"float[{B},{H},{S},12] w")
    assert rotary(model) == {"interleaved": 0, "rotary_embedding_dim": 8}
    other = body.replace("Slice(w, i8, end", "Slice(w, i4, end").replace(
        "float[A, E, F, G]", "float[A, E, F, G]"
    )
    _, changes = check_rewrite(
        RaiseRotaryEmbedding(), source(other, f"float[{B},{H},{S},12] w", tables(B, 1, S, D)),
        "Slice Slice RotaryEmbedding Concat", weights={**WEIGHTS, **tables(B, 1, S, D)}, opset=23,
    )  # fmt: skip
    assert any("the beginning and the rest" in reason for reason in changes.declined)


def test_heads_stay_merged() -> None:
    body = f"h = Reshape(w, heads) x = Transpose<perm = [0, 2, 1, 3]>(h) {HALVES} {TURNED} {SUM}"
    more = {**tables(1, 1, S, D), "heads": np.array([0, 0, H, D])}
    after = "Shape Concat Expand Shape Concat Expand RotaryEmbedding Reshape Transpose"
    model = check(body, after, more, inputs=f"float[N, {S}, {H * D}] w")
    assert rotary(model)["num_heads"] == H


def test_near_misses() -> None:
    more = tables(B, 1, S, D)
    declines(f"{HALVES} n = Neg(a) t = Concat<axis = -1>(n, b) {SUM}", "turned by a right angle", more)
    declines(f"{HALVES} n = Neg(b) t = Concat<axis = -1>(a, n) {SUM}", "turned by a right angle", more)
    declines(f"{HALVES} n = Neg(b) t = Concat<axis = -1>(n, a) z = Abs(x) p = Mul(z, cos) q = Mul(t, sin)"
             " y = Add(p, q)", "itself turned", more)  # fmt: skip
    declines(
        f"{HALVES} {TURNED} p = Mul(x, cos) q = Mul(t, sin) u = Add(p, q) y = Add(u, t)",
        "used elsewhere",
        more,
    )
    declines(f"{HALVES} {TURNED} {SUM}", "one row for each position", tables(B, H, S, D))
    declines(f"{HALVES.replace('i4', 'i2')} {TURNED} {SUM}", "turned by a right angle", more)


def test_the_opset_is_raised_only_if_asked_and_of_use() -> None:
    more = tables(B, 1, S, D)
    text = source(f"{HALVES} {TURNED} {SUM}", more=more)
    given = {**WEIGHTS, **more}
    check_declines(RaiseRotaryEmbedding(), text, "needs opset 23", weights=given, opset=18)
    model, _ = check_rewrite(
        RaiseRotaryEmbedding(upgrade=True), text, "RotaryEmbedding", weights=given, opset=18
    )
    assert model.opset_imports[""] == 23
    other = with_weights(text.replace("Neg(b)", "Neg(a)"), given, 18)
    assert not RaiseRotaryEmbedding(upgrade=True).run(other).modified
    assert other.opset_imports[""] == 18
