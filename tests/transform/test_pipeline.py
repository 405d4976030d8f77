"""Pipelines: their text, what they report, what they watch over."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from checking import model_from
from onnx_ir.passes import common

from graphopt.errors import PassError, UsageError
from graphopt.ir import Model
from graphopt.passes.eliminate_identity import EliminateIdentity
from graphopt.transform import Changes, Dump, Pass, Pipeline

MODEL = """g (float[N, 4] x) => (float[N, 4] y) {
    a = Identity(x)
    b = Relu(a)
    y = Identity(b)
}"""


@dataclasses.dataclass(frozen=True)
class Configured(Pass):
    """A pass with every kind of option."""

    size: int = 4
    ratio: float = 0.5
    deep: bool = False
    pattern: str | None = None
    names: tuple[str, ...] = ()

    def run(self, model: Model) -> Changes:
        """Nothing."""
        return Changes()


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.passes.find", lambda name: Configured)


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("configured", Configured()),
        ("configured{}", Configured()),
        ("configured{size=64K}", Configured(size=65536)),
        ("configured{size=-1 ratio=1e-3}", Configured(size=-1, ratio=1e-3)),
        ("configured{deep=true,ratio=2}", Configured(deep=True, ratio=2.0)),
        (r'configured{pattern="a b}\"{,"}', Configured(pattern='a b}"{,')),
        ("configured{names=a:b:c}", Configured(names=("a", "b", "c"))),
    ],
)
def test_options_are_read_and_written(text: str, expected: Configured) -> None:
    (found,) = Pipeline.parse(text)
    assert found == expected
    assert list(Pipeline.parse(str(found))) == [expected]


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    "text",
    ["{", "configured{", "configured}", "configured{size}", "configured{size=}", "configured{other=1}", ",,", "a b",
     "configured{size=x}", "configured{deep=maybe}", 'configured{pattern="x}', "configured{size=1}}"],
)  # fmt: skip
def test_wrong_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="GO303"):
        Pipeline.parse(text)


def test_the_report_counts() -> None:
    model, report = Pipeline("eliminate-identity,eliminate-dead-nodes").run(model_from(MODEL))
    assert (report.nodes_before, report.nodes_after) == (3, 1)
    first, second = report.passes
    assert first.modified
    assert first.counts == {"identity": 2}
    assert not second.modified
    assert report.exactness.value == "bit-exact"
    assert "seconds" not in str(report.to_json(times=False))
    assert len(model.graph) == 1


def test_passes_of_onnx_ir_fit_in() -> None:
    model, report = Pipeline([common.IdentityEliminationPass(), EliminateIdentity()]).run(model_from(MODEL))
    assert report.passes[0].name == "IdentityEliminationPass"
    assert report.passes[0].modified
    assert len(model.graph) == 1


@dataclasses.dataclass(frozen=True)
class RenameOutput(Pass):
    """Wrong on purpose."""

    def run(self, model: Model) -> Changes:
        """Rename an output."""
        model.graph.outputs[0].name = "z"
        changes = Changes()
        changes.counts["renamed"] += 1
        return changes


def test_a_pass_that_changes_the_interface_is_named() -> None:
    with pytest.raises(PassError, match="GO302") as caught:
        Pipeline([RenameOutput()]).run(model_from(MODEL))
    assert "rename-output" in str(caught.value)


def test_dump_writes_what_changed(tmp_path: Path) -> None:
    Pipeline("eliminate-dead-nodes,eliminate-identity").run(
        model_from(MODEL), instruments=[Dump(tmp_path / "d")]
    )
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == [
        "00-before.txt",
        "02-eliminate-identity.txt",
    ]
    assert "Relu(x)" in (tmp_path / "d" / "02-eliminate-identity.txt").read_text()
