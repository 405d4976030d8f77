"""What the docstring of a pass shows is what the pass does."""

from __future__ import annotations

import re

import pytest
from checking import check_change, random_feeds
from examples import example_of, model_of, without_defaults

from graphopt import passes
from graphopt.ir import Model, text
from graphopt.passes.eliminate_identity import EliminateIdentity
from graphopt.passes.infer_shapes import InferShapes
from graphopt.passes.raise_gelu import RaiseGelu
from graphopt.transform import Pass
from graphopt.transform.pipeline import parse_pipeline


@pytest.mark.parametrize("name", passes.names())
def test_example(name: str) -> None:
    check_example(passes.find(name))


def check_example(cls: type[Pass]) -> None:
    """Run the example in the docstring of `cls` as a test of the pass."""
    example = example_of(cls)
    assert example is not None, (
        f"the docstring of {cls.__name__} shows no example (given:, before:, after:): see CONTRIBUTING.md"
    )
    (pass_,) = parse_pipeline(example.get("pass", cls.pass_name()))
    assert pass_.pass_name() == cls.pass_name()
    given = example.get("given", "")
    before, after = (model_of(f"{given}; {example[key]}") for key in ("before", "after"))
    changed = before.clone()
    pass_.run(changed)
    assert changed.opset_imports[""] == after.opset_imports[""]
    assert text.canonical(without_defaults(changed)) == text.canonical(without_defaults(after))
    assert output_types(changed) == output_types(after)
    check_change(pass_, before, changed, feeds=random_feeds(after))


@pytest.mark.parametrize(
    ("cls", "right", "wrong"),
    [
        (EliminateIdentity, "after:  y = Exp(x)", "after:  y = Log(x)"),
        (EliminateIdentity, "after:  y = Exp(x)", "after:  y = Exp(Identity(x))"),
        (RaiseGelu, "after:  y = Gelu(x)", 'after:  y = Gelu<approximate = "tanh">(x)'),
        (InferShapes, "after:  float[2, 3]", "after:  float[2, B]"),
    ],
)
def test_an_example_that_is_not_true_fails(cls: type[Pass], right: str, wrong: str) -> None:
    assert cls.__doc__ is not None and right in cls.__doc__
    changed = type(cls.__name__, (cls,), {"__doc__": cls.__doc__.replace(right, wrong)})
    with pytest.raises(AssertionError):
        check_example(changed)


def test_a_pass_without_an_example_fails() -> None:
    bare = type("EliminateIdentity", (EliminateIdentity,), {"__doc__": "Remove what does nothing."})
    with pytest.raises(AssertionError, match="EliminateIdentity shows no example"):
        check_example(bare)


def output_types(model: Model) -> list[str]:
    """The types of the outputs, with one name for all sizes that inference only numbers."""
    return [re.sub(r"_d\d+", "?", text.value_type(value)) for value in model.graph.outputs]
