"""explain, bisect and reduce on the command line: exit codes, JSON, wrong names, and what is written."""

from __future__ import annotations

import shlex
from pathlib import Path

import onnx
import pytest
from cli.conftest import MNIST, ROOT, Cli, Outcome
from debug.planted import PLANTS, product_with_rounded_weight

from graphopt import passes
from graphopt.transform import Pass, RulePass

BERT = ROOT / "samples/generated/bert-tiny.onnx"
GPT = ROOT / "samples/generated/gpt-tiny.onnx"


class RoundWeights(RulePass):
    """Wrong on purpose."""

    rules = (product_with_rounded_weight,)


RoundWeights.__module__ = "graphopt.passes.planted"
PLANTED = {RoundWeights.pass_name(): RoundWeights}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were files for the wrong passes."""
    find, names = passes.find, passes.names

    def find_planted(name: str) -> type[Pass]:
        return PLANTED.get(name) or find(name)

    monkeypatch.setattr(passes, "find", find_planted)
    monkeypatch.setattr(passes, "names", lambda: tuple(sorted({*names(), *PLANTED})))


def no_traceback(outcome: Outcome) -> Outcome:
    assert "Traceback" not in outcome.out + outcome.err
    return outcome


def test_bisect_of_a_sound_pipeline(cli: Cli) -> None:
    outcome = no_traceback(cli("bisect", MNIST))
    assert outcome.code == 0
    assert "passes are sound" in outcome.out
    assert cli("bisect", MNIST, "--runtime-optimized", "--json").json["ok"] is True


@pytest.mark.usefixtures("registered")
def test_bisect_and_reduce_of_a_wrong_pipeline(cli: Cli) -> None:
    wrong = "eliminate-identity,round-weights,merge-casts"
    outcome = no_traceback(cli("bisect", BERT, "--pipeline", wrong))
    assert outcome.code == 4
    for text in ("mismatch: output", "round-weights (number 2", "product-with-rounded-weight", "rule limit"):
        assert text in outcome.out
    found = cli("bisect", BERT, "--pipeline", wrong, "--json")
    assert found.code == 4
    blame = found.json["blame"]
    assert (blame["pass"], blame["application"]) == ("round-weights", 1)
    assert blame["before"]

    reduced = no_traceback(cli("reduce", BERT, "--pipeline", wrong, "-o", "small", "--json"))
    assert reduced.code == 0, reduced.err
    document = reduced.json
    assert document["schema"] == "graphopt.reduce/1"
    assert document["nodes"] <= 5
    assert document["output"] == "small"
    onnx.checker.check_model(onnx.load("small/model.onnx"), full_check=True)
    readme = Path("small/README.md").read_text()
    assert "round-weights" in readme
    command = Path("small/command.txt").read_text().strip()
    assert command == document["command"]
    assert command in readme
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("small")
        assert cli(*shlex.split(command)[1:]).code == 4

    # One application fewer is a sound model, which the optimiser writes.
    limit = blame["limit"]
    counts = {}
    for number in (limit - 1, limit):
        done = cli("optimize", BERT, "--pipeline", wrong, "--rule-limit", number, "--json").json["report"]
        counts[number] = sum(sum(row["counts"].values()) for row in done["passes"])
    assert counts == {limit - 1: limit - 1, limit: limit}


@pytest.mark.usefixtures("registered")
def test_verify_each_writes_a_reproducer_for_what_it_undoes(cli: Cli) -> None:
    arguments = ("optimize", BERT, "--pipeline", "round-weights,merge-casts", "--verify", "each")
    outcome = no_traceback(cli(*arguments, "-o", "out.onnx"))
    assert outcome.code == 0
    assert "UNDONE" in outcome.out
    assert sorted(p.name for p in Path().iterdir()) == ["out.onnx", "out.reproducers"]
    (folder,) = Path("out.reproducers").iterdir()
    assert folder.name == "01-round-weights"
    assert len(onnx.load(folder / "model.onnx").graph.node) <= 5
    assert cli(*arguments, "--reproducer", "here").code == 0
    assert Path("here/01-round-weights/command.txt").is_file()


def test_without_a_fault_there_is_no_folder(cli: Cli) -> None:
    assert cli("optimize", MNIST, "--verify", "each", "-o", "out.onnx").code == 0
    assert [p.name for p in Path().iterdir()] == ["out.onnx"]


def test_reduce_of_a_sound_pipeline_writes_nothing(cli: Cli) -> None:
    outcome = no_traceback(cli("reduce", MNIST, "--seconds", "5"))
    assert outcome.code == 2
    assert "GO704" in outcome.err
    assert not list(Path().iterdir())
    assert cli("reduce", MNIST, "--json").json["code"] == "GO704"


def test_explain_a_miss_and_an_application(cli: Cli) -> None:
    outcome = no_traceback(cli("explain", "matmul-plus-bias", GPT, "--node", "/transformer/h.0/Add"))
    assert outcome.code == 0
    assert "does not apply" in outcome.out
    assert "failed: no MatMul or Gemm there" in outcome.out
    assert "made by Add" in outcome.out
    document = cli("explain", "raise-layer-normalization", BERT, "--json").json
    assert document["applied"] is True
    assert {"rule", "node", "miss", "removed"} <= set(document["attempts"][0])
    whole = cli("explain", "raise-layer-normalization", BERT)
    assert "nearest misses" in whole.out
    assert "applied at 15 nodes" in whole.out


def test_explain_where_a_node_went(cli: Cli, relu_model: Path) -> None:
    outcome = no_traceback(cli("explain", "merge-casts", relu_model, "--node", "i"))
    assert outcome.code == 0
    assert "eliminate-identity took it away" in outcome.out
    folded = cli("explain", "fold-constants", relu_model, "--node", "r")
    assert "left r alone" in folded.out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("explain", "raise-layer-norm", BERT), 2, "raise-layer-normalization"),
        (("explain", "merge-casts", BERT, "--node", "/embeddings/Ad"), 2, "/embeddings/Add"),
        (("explain", "merge-casts", "nowhere.onnx"), 3, "GO101"),
        (("explain", "merge-casts", BERT, "--pipeline", "merge-cast"), 2, "GO303"),
        (("bisect", BERT, "--pipeline", "x{"), 2, "GO303"),
        (("bisect", "nowhere.onnx"), 3, "GO101"),
        (("bisect", BERT, "--data", "nothing.npz"), 2, "GO603"),
        (("bisect", BERT, "--target", "abacus"), 2, "GO702"),
        (("reduce", BERT, "-o", "no/such/folder"), 2, "GO111"),
        (("optimize", BERT, "--rule-limit", "-1"), 2, "GO701"),
        (("optimize", BERT, "--reproducer", "here"), 2, "--verify each"),
        (("bisect", BERT, "--dim", "no-such=3"), 2, "GO701"),
    ],
)
def test_wrong_arguments(cli: Cli, arguments: tuple[object, ...], code: int, says: str) -> None:
    outcome = no_traceback(cli(*arguments))
    assert outcome.code == code, outcome.err
    assert says in outcome.err
    as_json = no_traceback(cli(*arguments, "--json"))
    assert as_json.code == code
    assert as_json.json["exit_code"] == code


def test_verbose_optimize_shows_rules(cli: Cli) -> None:
    outcome = cli("optimize", BERT, "-v")
    assert outcome.code == 0
    assert "declined" in outcome.out
    assert "matmul-plus-bias" in outcome.out
    assert "matmul-plus-bias" not in cli("optimize", BERT, "--pipeline", "merge-casts").out


def test_the_planted_rules_are_many() -> None:
    assert len({plant.name for plant in PLANTS}) == len(PLANTS) >= 20
