"""widen-scalars."""

from __future__ import annotations

import pytest
from checking import check_pass

from graphopt.passes.widen_scalars import WidenScalars

HEAD = """g (float[N, M, 3] x, int64[2] v, int64 k) => (int64[A] y)
    <int64 zero = {0}, int64 one = {1}, int64 four = {4}, int64[1] first = {0}, int64[1] rest = {-1}, int64[1] o = {1}>"""
H = "s = Shape(x) h = Gather(s, one)"
H1 = "h = Shape<start = 1, end = 2>(x)"
N1 = "n = Shape<start = 0, end = 1>(x)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{H} y = Unsqueeze(h, first)", "y = Shape<start = 1, end = 2>(x)"),
        (f"{H} m = Mul(h, four) y = Unsqueeze(m, first)", f"{H1} y = Mul(h, four)"),
        (f"{H} m = Sub(four, h) y = Reshape(m, rest)", f"{H1} y = Sub(four, h)"),
        (f"{H} n = Gather(s, zero) m = Mul(h, n) y = Unsqueeze(m, rest)", f"{H1} {N1} y = Mul(h, n)"),
        ("h = Gather(v, one) m = Div(h, four) y = Unsqueeze(m, first)", "h = Gather(v, o) y = Div(h, four)"),
        ("s = Shape<start = 0, end = 1>(x) h = Squeeze(s) m = Add(h, one) y = Unsqueeze(m, first)",
         f"{N1} y = Add(n, one)"),
        (f"{H} m = Sub(h, four) d = Div(m, four) e = Sub(m, d) a = Unsqueeze(d, first) b = Unsqueeze(e, first) "
         "y = Concat<axis = 0>(a, b)", "many"),
        (f"{H} m = Mul(h, k) y = Unsqueeze(m, first)", None),
        (f"{H} r = Range(zero, h, one) m = Mul(h, four) q = Unsqueeze(m, first) y = Mul(r, q)",
         f"{H} r = Range(zero, h, one) {H1.replace('h =', 'w =')} q = Mul(w, four) y = Mul(r, q)"),
        (f"{H} m = Mul(h, four) r = Range(zero, m, one) q = Unsqueeze(m, first) y = Mul(r, q)", None),
        ("y = Unsqueeze(k, first)", None),
    ],
)  # fmt: skip
def test_rules(before: str, after: str | None) -> None:
    head = HEAD
    dims = {"N": 2, "M": 5}
    if after == "many":  # each is made for each user; finding equal expressions is another pass
        after = f"""{H1} m = Sub(h, four) a = Div(m, four) h1 = Shape<start = 1, end = 2>(x) m1 = Sub(h1, four)
            d1 = Div(m1, four) b = Sub(m1, d1)
            y = Concat<axis = 0>(a, b)"""
    text = None if after is None else f"{head} {{ {after} }}"
    check_pass(WidenScalars(), f"{head} {{ {before} }}", text, dims=dims)
