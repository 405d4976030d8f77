"""upgrade-opset; the upgrade itself is tested in tests/ir/test_opset.py."""

from __future__ import annotations

from checking import check_pass, model_from

from graphopt.passes.upgrade_opset import UpgradeOpset
from graphopt.transform import Pipeline

SOFTMAX = "g (float[2, 3] x) => (float[2, 3] y) { y = Softmax(x) }"


def test_the_import_is_raised() -> None:
    model = model_from(SOFTMAX)
    model, report = Pipeline([UpgradeOpset(to=22)]).run(model)
    assert model.opset_imports[""] == 22
    assert report.passes[0].modified


def test_renamed_modes_are_carried_over() -> None:
    before = """g (float[1, 1, 4, 4] x, float[1, 2, 2, 2] at) => (float[1, 1, 2, 2] y) {
        y = GridSample <mode = "bilinear"> (x, at)
    }"""
    model = model_from(before)
    UpgradeOpset(to=20).run(model)
    (node,) = model.graph
    assert node.attributes["mode"].as_string() == "linear"


def test_a_newer_model_is_left_alone() -> None:
    check_pass(UpgradeOpset(to=18), before=SOFTMAX, opset=20)
    check_pass(UpgradeOpset(to=18), before=SOFTMAX, opset=18)
