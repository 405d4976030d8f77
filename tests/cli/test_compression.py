"""Commands that make models smaller: calibrated float16, quantize, prune; what they report and refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from conftest import MNIST, Cli


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
