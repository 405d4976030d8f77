"""graphopt visualize, graphopt diff, and the pages of optimize and compile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import MNIST, RECOMMENDER, ROOT, Cli

BERT = ROOT / "samples/generated/bert-tiny.onnx"


@pytest.fixture
def optimized(cli: Cli, relu_model: Path, tmp_path: Path) -> Path:
    """The model after optimisation: its Identity is gone."""
    path = tmp_path / "optimized.onnx"
    assert cli("optimize", relu_model, "-o", path).code == 0
    return path


@pytest.mark.parametrize("suffix", ["html", "svg", "mmd", "json"])
def test_visualize_writes_each_form(cli: Cli, tmp_path: Path, suffix: str) -> None:
    outcome = cli("visualize", MNIST, "-o", f"out.{suffix}", "--json")
    assert outcome.code == 0 and outcome.err == ""
    assert outcome.json["schema"] == "graphopt.visualize/1" and outcome.json["format"] == suffix
    assert outcome.json["bytes"] == (tmp_path / f"out.{suffix}").stat().st_size > 0
    assert outcome.json["nodes"] == [9]


def test_visualize_names_its_file_after_the_model(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("visualize", MNIST)
    assert outcome.code == 0 and "wrote mnist-cnn.html" in outcome.out and "9 nodes" in outcome.out
    assert (tmp_path / "mnist-cnn.html").exists()


def test_visualize_an_artifact_and_a_pair(cli: Cli, tmp_path: Path) -> None:
    assert cli("compile", MNIST, "-t", "cuda", "-o", "made").code == 0
    assert cli("visualize", "made", "-o", "one.html").code == 0
    outcome = cli("visualize", MNIST, "--after", "made", "--device", "h100", "-o", "pair.html")
    assert outcome.code == 0 and "9 -> 4 nodes" in outcome.out
    text = (tmp_path / "pair.html").read_text(encoding="utf-8")
    assert '"id":"placement"' in text and "NVIDIA H100" in text


def test_visualize_with_a_verification(cli: Cli, tmp_path: Path) -> None:
    verified = cli("verify", MNIST, "-t", "cpu", "--runs", "1", "--json")
    (tmp_path / "v.json").write_text(verified.out)
    assert cli("visualize", MNIST, "--verification", "v.json", "-o", "v.html").code == 0
    assert '"id":"error"' in (tmp_path / "v.html").read_text(encoding="utf-8")
    (tmp_path / "bad.json").write_text(
        '{"schema": "graphopt.verify/1", "runs": [{"outputs": [{"name": 1}]}]}'
    )
    for bad in ("bad.json", "absent.json", str(MNIST)):
        outcome = cli("visualize", MNIST, "--verification", bad)
        assert outcome.code == 2 and "graphopt verify --json" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-o", "x.png"), ".mmd or .json"),
        (("-o", "absent/x.html"), "does not exist"),
        (("--device", "v9"), "v5e"),
        (("--after", "absent.onnx"), "GO101"),
    ],
)
def test_visualize_refuses(cli: Cli, arguments: tuple[str, ...], told: str) -> None:
    outcome = cli("visualize", MNIST, *arguments)
    assert outcome.code in (2, 3) and told in outcome.err


def test_mermaid_of_a_large_model_is_refused(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("visualize", BERT, "-o", "b.mmd")
    assert outcome.code == 2 and "too large" in outcome.err and not (tmp_path / "b.mmd").exists()


def test_optimize_and_compile_write_pages(cli: Cli, relu_model: Path, tmp_path: Path) -> None:
    outcome = cli("optimize", relu_model, "--report", "o.html", "-o", "o.onnx")
    assert outcome.code == 0 and "wrote o.html" in outcome.out
    assert '"label":"eliminate-identity"' in (tmp_path / "o.html").read_text(encoding="utf-8")
    outcome = cli("compile", relu_model, "-t", "cpu", "--no-save", "--report", "c.html")
    assert outcome.code == 0 and "wrote c.html" in outcome.out and "passes (nodes" in outcome.out
    assert (tmp_path / "c.html").exists()


@pytest.mark.parametrize("order", ["before", "after"])
def test_report_without_a_file_is_the_table(cli: Cli, relu_model: Path, tmp_path: Path, order: str) -> None:
    arguments = ("--report", relu_model) if order == "before" else (relu_model, "--report")
    outcome = cli("compile", *arguments, "-t", "cpu", "--no-save")
    assert outcome.code == 0 and "passes (nodes before and after)" in outcome.out
    assert not list(tmp_path.glob("*.html"))


def test_a_report_that_cannot_be_written_is_told_before_the_work(
    cli: Cli, relu_model: Path, tmp_path: Path
) -> None:
    for arguments in (("--report=r.txt",), ("--report", "absent/r.html")):
        outcome = cli("optimize", relu_model, "-o", "o.onnx", *arguments)
        assert outcome.code == 2 and not (tmp_path / "o.onnx").exists()


def test_diff_tells_operators_and_groups(cli: Cli, relu_model: Path, optimized: Path) -> None:
    outcome = cli("diff", relu_model, optimized)
    assert outcome.code == 0
    assert "3 -> 2" in outcome.out and "-33.3 %" in outcome.out
    (row,) = [line for line in outcome.out.splitlines() if line.startswith("Identity")]
    assert row.split()[1:4] == ["1", "0", "-1"]


def test_diff_as_json(cli: Cli, relu_model: Path, optimized: Path) -> None:
    found = cli("diff", relu_model, optimized, "--json").json
    assert found["schema"] == "graphopt.diff/1" and found["ok"]
    assert found["metrics"]["nodes"] == [3, 2] and found["metrics"]["cycles"] == [None, None]
    assert found["operators"]["Identity"] == [1, 0]
    states = found["states"]
    assert states["same"] + states["changed"] + states["fused"] == 2 and states["added"] == 0
    assert found["interface"] == []


def test_diff_of_a_model_and_its_artifact_lists_passes(cli: Cli) -> None:
    assert cli("compile", MNIST, "-t", "cuda", "-o", "made").code == 0
    found = cli("diff", MNIST, "made", "--json").json
    assert found["passes"][0]["name"].startswith("fold-shapes")
    assert "passes that made the second" in cli("diff", MNIST, "made").out


def test_diff_of_a_model_with_itself(cli: Cli) -> None:
    found = cli("diff", BERT, BERT, "--json", "--fail-on", "nodes>+0", "--fail-on", "Conv>+0").json
    assert found["ok"] and found["groups"]["groups"] == []
    assert {state for state, count in found["states"].items() if count} == {"same"}


def test_diff_as_markdown(cli: Cli, optimized: Path, relu_model: Path) -> None:
    outcome = cli("diff", relu_model, optimized, "--markdown", "--fail-on", "Identity>0")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].startswith("### `") and "| nodes | 3 | 2 | -33.3 % |" in lines
    assert "| `Identity` | 1 | 0 | -1 |" in lines and lines[-1].startswith("✅ `ok")
    table = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in table} == {5}


@pytest.mark.parametrize(
    ("gates", "code"),
    [
        (("nodes>+5%",), 0),
        (("nodes>1",), 5),
        (("Identity<-0", "nodes>+5%"), 5),
        (("nodes>+x%",), 2),
        (("nodez>1",), 2),
        (("cycles>+2%",), 2),
    ],
)
def test_gates_set_the_exit_code(
    cli: Cli, relu_model: Path, optimized: Path, gates: tuple[str, ...], code: int
) -> None:
    options = [part for gate in gates for part in ("--fail-on", gate)]
    outcome = cli("diff", relu_model, optimized, *options)
    assert outcome.code == code, outcome.err
    assert ("FAILED" in outcome.out) == (code == 5)
    document = cli("diff", relu_model, optimized, *options, "--json")
    assert document.code == code
    if code in (0, 5):
        assert document.json["ok"] == (code == 0)
        assert [verdict["gate"] for verdict in document.json["gates"]] == list(gates)
    else:
        assert document.json["code"] == "GO701"


def test_diff_of_models_with_nothing_in_common(cli: Cli) -> None:
    outcome = cli("diff", MNIST, RECOMMENDER)
    assert outcome.code == 0
    assert outcome.out.count("interface") >= 3


def test_names_do_not_drive_the_terminal(cli: Cli, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    paths = []
    for count in (1, 2):
        nodes = [helper.make_node("Relu", ["x"], ["a\x1b[2J"], name="\x1b]0;evil\x07/|`<b>/one")]
        nodes += [helper.make_node("Neg", ["a\x1b[2J"], ["b"], name="\x1b]0;evil\x07/|`<b>/two")] * (
            count - 1
        )
        nodes.append(helper.make_node("Abs", [nodes[-1].output[0]], ["y"], name="\x1b]0;evil\x07/|`<b>/last"))
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
        path = tmp_path / f"evil{count}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
        paths.append(path)
    for form in ((), ("--markdown",), ("--json",)):
        outcome = cli("diff", *paths, *form)
        assert outcome.code == 0 and "\x1b" not in outcome.out + outcome.err
    assert json.loads(cli("diff", *paths, "--json").out)["operators"]["Neg"] == [0, 1]


def test_sizes_give_numbers_to_operations(cli: Cli, relu_model: Path, optimized: Path) -> None:
    refused = cli("diff", relu_model, optimized, "--fail-on", "flops>+0")
    assert refused.code == 2 and "--dim" in refused.err
    found = cli("diff", relu_model, optimized, "--fail-on", "flops>+0", "--dim", "N=2", "--json")
    assert found.code == 0 and found.json["metrics"]["flops"] == [12, 12]
    unknown = cli("visualize", relu_model, "--dim", "M=2")
    assert unknown.code == 2 and "N, x.0" in unknown.err
    assert cli("visualize", relu_model, "--shape", "x:4x3", "-o", "bound.html").code == 0
    for wrong in ("x:4", "x:4x3x1", "x:4x2", "z:4"):
        assert cli("visualize", relu_model, "--shape", wrong).code == 2, wrong
