"""graphopt plan and graphopt cache."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from cli.conftest import Cli, Outcome

from graphopt import planning


def test_rows_for_each_size_and_target(cli: Cli, relu_model: Path, planted: Path) -> None:
    outcome = cli("plan", relu_model, "--targets", "v5e,tpu:v6e", "--dim", "N=1,8", "--json")
    assert outcome.code == 0, outcome.err
    rows = outcome.json["rows"]
    assert [(r["dims"]["N"], r["target"]) for r in rows] == [
        (1, "tpu:v5e"),
        (1, "tpu:v6e"),
        (8, "tpu:v5e"),
        (8, "tpu:v6e"),
    ]
    assert [r["batch"] for r in rows] == [1, 1, 8, 8]
    assert all(r["fits"] for r in rows)
    assert planted.read_text() == "xxxx"
    again = cli("plan", relu_model, "--targets", "v5e", "--dim", "N=8,16", "--jobs", 1)
    assert again.code == 0
    assert "items/s/chip" in again.out
    assert planted.read_text() == "xxxxx"  # 8 was there already
    told = cli("cache", "explain")
    assert told.out.startswith(
        "the last lookup missed: relu N=16 for v5e:2x2; the nearest entry differs in\n"
    )
    assert "dims N=8 -> N=16" in told.out
    assert cli("plan", relu_model, "--targets", "v5e", "--dim", "N=16").code == 0
    told = cli("cache", "explain")
    assert "the last lookup hit: relu N=16" in told.out
    assert "dims N=8 -> N=16" in told.out
    assert cli("cache", "info", "--json").json["entries"] == 5
    assert cli("cache", "clear", "--json").json["entries"] == 5
    assert cli("cache", "clear").out.startswith("removed 0 entries")


@pytest.fixture
def cut_model(tmp_path: Path) -> Path:
    """Strings are joined between a Relu that feeds them and a Neg that takes what is known of them."""
    import onnx.parser

    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 20]>
        cut (float[N, 3] x, string[1] s) => (float[N, 3] y, string[N, 3] t, bool[1] z) {
          r = Relu (x)  text = Cast <to = 8> (r)  t = StringConcat (text, s)  y = Exp (r)
          same = Equal (s, s)  z = Not (same)
        }"""
    )
    path = tmp_path / "cut.onnx"
    onnx.save(model, path)
    return path


def test_a_plan_of_a_model_with_host_segments(cli: Cli, cut_model: Path, planted: Path) -> None:
    outcome = cli("plan", cut_model, "--targets", "v5e,v6e", "--dim", "N=4", "--json")
    assert outcome.code == 0, outcome.err
    for row in outcome.json["rows"]:
        assert row["error"] is None
        assert [away["op"] for away in row["placement"]] == ["Cast", "StringConcat", "Equal"]
        assert all(away["reason"] for away in row["placement"])
        assert row["transfers"]["to_host"] == {"values": 1, "bytes": 4 * 3 * 4}
        assert row["hbm_peak_bytes"] == 3  # of one segment of the planted compiler
    shown = cli("plan", cut_model, "--targets", "v5e,v6e", "--dim", "N=4")
    assert "3 nodes run on the host and are not in the figures" in shown.out
    assert "1 value, 48 B, to the host" in shown.out
    compiled = cli("compile", cut_model, "--target", "tpu:v5e", "--dim", "N=4", "--no-save")
    assert "1 value, 48 B, to the host" in compiled.out
    checked = cli("check", cut_model, "--target", "tpu:v5e", "--dim", "N=4")
    assert "1 value, 48 B, to the host" in checked.out


def test_segments_add_up(cli: Cli, tmp_path: Path, planted: Path) -> None:
    import onnx.parser

    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 20]>
        two (float[4, 3] x, float[3, 3] w) => (float[4, 3] y) {
          a = MatMul (x, w)  text = Cast <to = 8> (a)  b = Cast <to = 1> (text)  y = MatMul (b, w)
        }"""
    )
    path = tmp_path / "two.onnx"
    onnx.save(model, path)
    outcome = cli("plan", path, "--targets", "v5e", "--json")
    assert outcome.code == 0, outcome.err
    (row,) = outcome.json["rows"]
    assert row["transfers"]["xla_segments"] == 2
    assert planted.read_text() == "xx"
    assert row["hbm_peak_bytes"] == 2 + 2 + 1 + 2 - 2  # arguments, results and code of both, scratch of one
    assert row["mfu"] is not None and row["bound"] == "vector"
    assert set(row["least_seconds"]) == {"MXU", "HBM"}


def test_compilers_run_at_once(relu_model: Path, planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_SECONDS", "1")
    started = time.monotonic()
    planning.plan(relu_model, ["v5e", "v6e", "v5p"], {"N": 4}, jobs=3)
    assert time.monotonic() - started < 2.5
    assert planted.read_text() == "xxx"


def test_what_fails_for_one_row_hides_no_other(cli: Cli, relu_model: Path, planted: Path) -> None:
    outcome = cli("plan", relu_model, "--targets", "v5e", "--dim", "N=2", "--dim", "M=3,4", "--json")
    assert outcome.code == 2  # no such dimension in any row
    assert {r["error"]["code"] for r in outcome.json["rows"]} == {"GO701"}
    free = cli("plan", relu_model, "--targets", "v5e")
    assert free.code == 3
    assert "GO204" in free.out


def test_a_plan_says_what_it_takes(cli: Cli, relu_model: Path) -> None:
    assert cli("plan", relu_model, "--targets", "cpu").code == 2
    assert cli("plan", relu_model, "--targets", "v99").code == 2
    assert cli("plan", relu_model, "--targets", "").code == 2
    assert cli("plan", relu_model, "--dim", "N=a").code == 2
    assert cli("plan", relu_model, "--dim", f"N={','.join(map(str, range(1, 40)))}").code == 2
    assert cli("cache", "burn").code == 2


def test_a_cache_that_was_never_used(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE_DIR", str(tmp_path / "none"))
    assert "no lookup yet" in cli("cache", "explain").out
    assert cli("cache", "info", "--json").json["entries"] == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.tpu_compiler
def test_a_plan_by_the_real_compiler(cli: Cli, relu_model: Path) -> None:
    pytest.importorskip(
        "libtpu", reason="NOT TESTED: compiling for TPUs needs libtpu (pip install 'graphopt[tpu]')"
    )
    outcome = cli("plan", relu_model, "--targets", "v5e,v5e:9x9,v7x", "--dim", "N=8", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    first, bad, last = outcome.json["rows"]
    assert bad["error"]["code"] == "GO206"
    for row in (first, last):
        assert row["cycles"] > 0 and row["seconds"] > 0 and row["error"] is None
        assert row["items_per_second_per_chip"] == pytest.approx(8 * row["devices_per_chip"] / row["seconds"])
    shown = cli("plan", relu_model, "--targets", "v5e,v5e:9x9,v7x", "--dim", "N=8")
    assert "not compiled" in shown.out
    assert "tpu:v7x" in shown.out
    hit = json.loads(json.dumps(outcome.json))["rows"][0]
    assert hit["hbm_device_bytes"] == 16 << 30


def compile_planted(cli: Cli, model: Path, *options: object) -> Outcome:
    return cli("compile", model, "--target", "tpu:v5e", "--dim", "N=8", "--no-save", *options)


def test_a_hang_is_told_with_what_replays_it(
    cli: Cli, relu_model: Path, planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "hang")
    monkeypatch.setenv("PLANTED_PID", str(tmp_path / "pid"))
    outcome = compile_planted(cli, relu_model, "--timeout", 0.5)
    assert outcome.code == 3
    assert outcome.err.startswith("GO209 the TPU compiler took over 0.5 s")
    assert "chatter" not in outcome.err
    assert "-m planted_worker" in outcome.err
    assert "Traceback" not in outcome.err
    (folder,) = (tmp_path / "cache/reproducers").iterdir()
    assert str(folder) in outcome.err
    planned = cli("plan", relu_model, "--targets", "v5e", "--dim", "N=8", "--timeout", 0.5)
    assert planned.code == 3
    assert "tpu:v5e N=8: GO209" in planned.out


def test_compiling_twice_and_without_the_cache(
    cli: Cli, relu_model: Path, planted: Path, tmp_path: Path
) -> None:
    assert "from the compile cache" not in compile_planted(cli, relu_model).out
    assert "from the compile cache" in compile_planted(cli, relu_model).out
    assert "from the compile cache" not in compile_planted(cli, relu_model, "--no-cache").out
    assert planted.read_text() == "xx"
    (entry,) = (tmp_path / "cache/entries").iterdir()
    entry.write_bytes(entry.read_bytes()[:-1])
    again = compile_planted(cli, relu_model)
    assert again.code == 0
    assert "an entry of the compile cache was corrupt" in again.err
    assert planted.read_text() == "xxx"
    assert compile_planted(cli, relu_model, "--json").json["cache"]["hit"]
