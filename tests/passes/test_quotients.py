"""Quotients whose scalar factors no float holds."""

from __future__ import annotations

import pytest
from checking import model_from

from graphopt.passes._products import monomial
from graphopt.passes._quotients import quotient


def root_of(body: str) -> object:
    numbers = "float two = {2.0}, float zero = {0.0}, float huge = {inf}, float nan = {nan}"
    model = model_from(
        f"g (float[N] x) => (float[N] y) <{numbers}, double tiny = {{5e-324}}> {{ {body} }}".replace(
            "float[N]", "double[N]" if "tiny" in body else "float[N]"
        )
    )
    return quotient(model.graph.outputs[0].producer())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        "d = Div(x, huge) y = Reciprocal(d)",
        "d = Mul(x, huge) y = Reciprocal(d)",
        "d = Div(huge, x) y = Reciprocal(d)",
        "y = Div(x, nan)",
        "y = Div(x, tiny)",
    ],
)
def test_no_factor_is_zero_or_infinite(body: str) -> None:
    found = root_of(body)
    # Either it is no quotient, or what would be is left as a factor of its own.
    assert found is None or found.coefficient == 1.0  # type: ignore[attr-defined]


def test_powers_of_a_factor() -> None:
    found = root_of("d = Div(two, x) s = Sqrt(d) y = Reciprocal(s)")
    assert found.coefficient == pytest.approx(0.5**0.5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("step", ["m = Mul(x, large)", "m = Div(x, small)", "m = Div(x, large)"])
def test_products_with_powers_that_no_float_holds(step: str) -> None:
    model = model_from(
        "g (double[N] x) => (double[N] y) <double large = {1e200}, double small = {1e-200}, double two = {2.0}> {"
        f"{step} y = Pow(m, two) }}"
    )
    root = model.graph.outputs[0].producer()
    found = monomial(root)  # type: ignore[arg-type]
    assert found is None or found.coefficient == 1.0
