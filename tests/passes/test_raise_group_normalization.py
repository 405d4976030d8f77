"""raise-group-normalization: what exporters write, parameters, the opset, and near misses."""

from __future__ import annotations

import numpy as np
import pytest
from checking import check_pass, model_from
from rewriting import arrays, check_declines, check_rewrite

from graphopt.passes.raise_group_normalization import RaiseGroupNormalization

CORE = "r = Reshape(x, split) i = InstanceNormalization <epsilon = 0.001> (r, s, b) n = Reshape(i, back)"


def source(body: str, x: str = "float[2, 6, 4, 5] x", more: str = "") -> str:
    names = "int64[3] split, int64[4] back, float[3] s, float[3] b, float[6, 1, 1] g, float[1, 6, 1, 1] h"
    return f"g ({x}, {names}) => ({x.replace(' x', ' y')}{more}) {{ {body} }}"


def weights(**more: np.ndarray) -> dict[str, np.ndarray]:
    numbers = {"split": np.array([0, 3, -1]), "back": np.array([2, 6, 4, 5])}
    return numbers | arrays(s=(3,), b=(3,), g=(6, 1, 1), h=(1, 6, 1, 1)) | more


@pytest.mark.parametrize("tail", ["y = Identity(n)", "y = Mul(n, g)", "t = Mul(g, n) y = Add(t, h)"])
def test_what_exporters_write(tail: str) -> None:
    after = "GroupNormalization" + (" Identity" if "Identity" in tail else "")
    model, _ = check_rewrite(
        RaiseGroupNormalization(), source(f"{CORE} {tail}"), after, weights=weights(), opset=21, rtol=1e-4
    )
    assert model.graph.node(0).attributes["num_groups"].as_int() == 3


def test_the_opset_is_raised_only_if_asked_and_of_use() -> None:
    text = source(f"{CORE} y = Relu(n)")
    check_declines(RaiseGroupNormalization(), text, "needs opset 21", weights=weights())
    model, _ = check_rewrite(
        RaiseGroupNormalization(upgrade=True), text, "GroupNormalization Relu", weights=weights(), rtol=1e-4
    )
    assert model.opset_imports[""] == 21
    other = model_from("g (float[2, 6] x) => (float[3, 4] y) <int64[2] t = {3, 4}> { y = Reshape(x, t) }")
    assert not RaiseGroupNormalization(upgrade=True).run(other).modified
    assert other.opset_imports[""] == 18


def test_the_whole_text() -> None:
    check_pass(
        RaiseGroupNormalization(),
        before="""g (float[1, 2, 3] x) => (float[1, 2, 3] y)
            <int64[3] split = {0, 1, -1}, int64[3] back = {1, 2, 3}, float[1] one = {1.0}, float[1] zero = {0.0}> {
            r = Reshape(x, split) i = InstanceNormalization <epsilon = 0.5> (r, one, zero) y = Reshape(i, back)
        }""",
        after="""g (float[1, 2, 3] x) => (float[1, 2, 3] y) <float[2] s = {1.0, 1.0}, float[2] b = {0.0, 0.0}> {
            y = GroupNormalization <epsilon = 0.5, num_groups = 1> (x, s, b)
        }""",
        opset=21,
    )


NEAR_MISSES = {
    "another shape": (CORE, {"back": np.array([2, 6, 5, 4])}, "5, 4", "the shape of the input"),
    "samples mixed": (CORE, {"split": np.array([1, 3, -1])}, "4, 5", "samples apart"),
    "middle used twice": (f"{CORE} z = Relu(i)", {}, "4, 5", "used elsewhere"),
    "no normalization": (
        CORE.replace("InstanceNormalization <epsilon = 0.001> (r, s, b)", "Relu(r)"),
        {},
        "4, 5",
        "no Inst",
    ),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body, numbers, plane, reason = NEAR_MISSES[case]
    more = ", float[2, 3, 40] z" if "z =" in body else ""
    text = source(f"{body} y = Relu(n)", more=more).replace("4, 5] y", f"{plane}] y")
    check_declines(RaiseGroupNormalization(), text, reason, weights=weights(**numbers), opset=21)


def test_parameters_that_vary_in_a_plane_stay() -> None:
    text = source(f"{CORE} y = Mul(n, w)").replace("float[3] b,", "float[3] b, float[5] w,")
    _, changes = check_rewrite(
        RaiseGroupNormalization(),
        text,
        "GroupNormalization Mul",
        weights=weights() | arrays(w=(5,)),
        opset=21,
        rtol=1e-4,
    )
    assert any("one constant per channel" in reason for reason in changes.declined)
