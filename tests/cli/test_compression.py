"""Commands that make models smaller: calibrated float16, quantize, prune; what they report and refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import MNIST, Cli

from graphopt.verification import run_reference

BERT = MNIST.with_name("bert-tiny.onnx")


def write_images(folder: Path, count: int = 2, scale: float = 1.0) -> Path:
    """Feeds for the MNIST model, a file for each run."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        image = random.standard_normal((2, 1, 28, 28)).astype(np.float32) * np.float32(scale)
        np.savez(folder / f"{index}.npz", input=image)
    return folder


def test_precision_is_calibrated_on_data(cli: Cli, tmp_path: Path) -> None:
    def narrowed(scale: float) -> tuple[dict[str, int], dict[str, int]]:
        data = write_images(tmp_path / f"x{scale}", scale=scale)
        done = cli("optimize", MNIST, "--precision", "fp16", "--data", data, "--json")
        assert done.code == 0, done.err
        (record,) = [p for p in done.json["report"]["passes"] if p["name"].startswith("narrow-float")]
        return record["counts"], record["declined"]

    counts, declined = narrowed(1.0)
    assert counts["Conv"] == 1 and counts["Gemm"] == 1 and not any("reaches" in why for why in declined)
    counts, declined = narrowed(1e6)
    assert not counts and any("input reaches" in why for why in declined)


def test_data_that_is_not_there_is_a_usage_error(cli: Cli) -> None:
    done = cli("optimize", MNIST, "--precision", "fp16", "--data", "missing.npz")
    assert done.code == 2 and "GO603" in done.err


@pytest.mark.parametrize(
    ("mode", "options", "share"),
    [
        ("dynamic", "", 0.5),
        ("static", "type=uint8", 0.5),
        ("weights", "bits=8 form=dequantize", 0.6),
        ("fp16", "", 0.6),
    ],
)
def test_quantize_reports_what_it_changed(
    cli: Cli, tmp_path: Path, mode: str, options: str, share: float
) -> None:
    data = write_images(tmp_path / "x")
    done = cli(
        "quantize", MNIST, "-o", "q.onnx", "--mode", mode, "--options", options, "--data", data, "--json"
    )
    assert done.code == 0, done.err
    change = done.json["change"]
    assert 0 < change["bytes_after"] < share * change["bytes_before"]
    assert change["runs"] == 2 and change["latency_ratio"] > 0
    (logits,) = change["outputs"]
    assert logits["name"] == "logits" and 0 < logits["error"] < 0.05 and logits["cosine"] > 0.99
    assert 0 <= logits["top1_agreement"] <= 1 and logits["nonfinite"] == 0
    # What was reported is what was written.
    feeds = dict(np.load(data / "0.npz"))
    old, new = (run_reference(str(path), feeds)["logits"] for path in (MNIST, tmp_path / "q.onnx"))
    assert 0 < np.abs(new - old).max() <= 1.5 * logits["max_abs_error"]


def test_a_change_beyond_the_error_allowed_is_refused(cli: Cli, tmp_path: Path) -> None:
    done = cli("quantize", MNIST, "-o", "q.onnx", "--mode", "weights", "--max-error", "1e-6")
    assert done.code == 4 and "GO401" in done.err and "at most 1e-06" in done.err
    assert not list(tmp_path.glob("q.onnx*"))
    assert cli("quantize", MNIST, "-o", "q.onnx", "--mode", "weights", "--max-error", "0.5").code == 0


def test_wrong_use_of_quantize(cli: Cli, tmp_path: Path) -> None:
    assert cli("quantize", MNIST, "-o", "q.onnx", "--mode", "static").code == 2
    assert cli("quantize", MNIST, "-o", "q.onnx", "--mode", "later").code == 2
    assert cli("quantize", MNIST, "-o", "q.onnx", "--options", "bits=4").code == 2
    assert not (tmp_path / "q.onnx").exists()


def test_prune_reports_what_it_changed(cli: Cli, tmp_path: Path) -> None:
    done = cli("prune", MNIST, "-o", "p.onnx", "--sparsity", "0.5", "--json")
    assert done.code == 0, done.err
    change = done.json["change"]
    assert change["bytes_after"] < 0.6 * change["bytes_before"]
    assert change["outputs"][0]["error"] > 0
    assert cli("prune", MNIST, "-o", "r.onnx", "--max-error", "1e-6").code == 4
    assert not (tmp_path / "r.onnx").exists()


def test_prune_takes_heads_and_tells_what_is_left_of_each_layer(cli: Cli, tmp_path: Path) -> None:
    done = cli("prune", BERT, "-o", "p.onnx", "--structured", "heads", "--sparsity", "0.5", "--json")
    assert done.code == 0, done.err
    (row,) = (row for row in done.json["report"]["passes"] if row["name"].startswith("prune"))
    assert row["counts"] == {"head removed": 4}
    assert [(r["unit"], r["before"], r["after"]) for r in row["details"]] == [("head", 4, 2)] * 2
    assert all(0 < r["bytes_after"] < r["bytes_before"] and r["layer"] for r in row["details"])
    change = done.json["change"]
    saved = sum(r["bytes_before"] - r["bytes_after"] for r in row["details"])
    assert 0 < saved <= 1.1 * (change["bytes_before"] - change["bytes_after"])
    shown = cli("prune", BERT, "-o", "q.onnx", "--structured", "heads")
    assert shown.code == 0 and "what is left of each layer" in shown.out and "head" in shown.out
    refused = cli("prune", BERT, "-o", "r.onnx", "--structured", "heads", "--max-error", "1e-6")
    assert refused.code == 4 and "GO401" in refused.err and not (tmp_path / "r.onnx").exists()
    assert cli("prune", BERT, "-o", "s.onnx", "--structured", "blocks").code == 2
