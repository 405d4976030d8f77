"""Sample models with a batch of several sizes: what padding gives is what ONNX Runtime gives without."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt.errors import UnsupportedError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "samples"))
from catalogue import Sample, samples  # noqa: E402

FETCHED = [pytest.mark.models, pytest.mark.slow]
BATCHES = {
    "mnist-cnn": "batch",
    "bert-tiny": "batch",
    "gpt-tiny": "batch",
    "recommender": "batch",
    "magika": "bytes.0",
    "ppocr-cls": "x.0",
    "ppocr-det": "x.0",
    "ppocr-rec": "x.0",
}
MODELS = [
    pytest.param(name, marks=[] if dim == "batch" else FETCHED, id=name) for name, dim in BATCHES.items()
]


@functools.cache
def sample(name: str) -> Sample:
    (found,) = samples([name], folder=ROOT / "models")
    return found


def batched(item: Sample, batch: int) -> dict[str, Any]:
    """Feeds of `item` with `batch` rows: those of several single ones."""
    import numpy as np

    several = [
        item.feeds(seed, dims={**item.dims, **dict.fromkeys(item.dims.keys() & {"batch"}, 1)})
        for seed in range(batch)
    ]
    return {name: np.concatenate([each[name] for each in several]) for name in several[0]}


@pytest.mark.parametrize("name", MODELS)
def test_sizes_between_buckets(name: str, tmp_path: Path) -> None:
    item, dim = sample(name), BATCHES[name]
    owner, _, axis = dim.partition(".")
    dims = {**{k: v for k, v in item.dims.items() if k != "batch"}, dim: (1, 4)}
    shapes = {k: (["rows", *v[1:]] if k == owner and axis else v) for k, v in item.shapes.items()}
    made = graphopt.compile(item.path, target="xla-cpu", dims=dims, shapes=shapes, constants=item.constants)
    executable = graphopt.load_artifact(made.save(tmp_path / "made"))
    assert executable.buckets is not None
    for batch in (1, 3, 4):
        feeds = batched(item, batch)
        report = graphopt.verify(executable, against=item.path, feeds=[feeds])
        assert report.ok, report.table()


@pytest.mark.parametrize("name", ["bert-tiny", "gpt-tiny"])
def test_attention_over_a_padded_sequence_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match=r"GO210 (Softmax|ReduceMax|Attention) .*'sequence'"):
        graphopt.compile(sample(name).path, dims={"batch": 1, "sequence": (8, 16)})
    made = graphopt.compile(sample(name).path, dims={"batch": 1, "sequence": (8, 16)}, buckets="exact")
    feeds = sample(name).feeds(0, dims={"batch": 1, "sequence": 16})
    assert graphopt.verify(made, against=sample(name).path, feeds=[feeds]).ok
