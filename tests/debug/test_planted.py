"""Every planted wrong rule and pass is found, blamed and reduced, and its reproducer shows it again."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from checking import model_from
from debug.planted import PLACE, PLANTS, Plant, grown, pipeline_with, planted

import graphopt
from graphopt.errors import UsageError
from graphopt.ir import Model, Node
from graphopt.ir.io import load
from graphopt.transform import Changes, Pipeline, Rewriter, RulePass, Watch, rule
from graphopt.transform.pipeline import count_nodes
from graphopt.transform.rule import Replacement
from graphopt.verification import (
    ReferenceProcess,
    bisect_pipeline,
    exact_feeds,
    load_feeds,
    reduce_failure,
    write_reproducer,
)
from graphopt.verification.judge import same_sort

FAST = {"wrong tolerance", "drops NaN", "invalid graph", "crash by exception", "wrong for a second size",
        "wrong in a branch", "wrong on the seventh application", "merges unequal nodes"}  # fmt: skip


def cases() -> list[object]:
    return [
        pytest.param(plant, id=plant.name, marks=[] if plant.name in FAST else [pytest.mark.slow])
        for plant in PLANTS
    ]


def test_there_are_twenty_models_of_some_size() -> None:
    assert len(PLANTS) >= 20
    assert all(count_nodes(load(plant.model())) >= 31 for plant in PLANTS)


@pytest.fixture(scope="module")
def process() -> Iterator[ReferenceProcess]:
    with ReferenceProcess() as running:
        yield running


@pytest.mark.parametrize("plant", cases())
def test_found_blamed_and_reduced(plant: Plant, process: ReferenceProcess, tmp_path: Path) -> None:
    model = load(plant.model())
    feeds, special = exact_feeds(process, model)
    found = bisect_pipeline(process, model, pipeline_with(plant), feeds, special=special)
    blame = found.blame
    assert blame is not None
    assert (blame.pass_index, blame.rule, blame.failure.kind) == (PLACE, plant.rule, plant.kind)
    assert plant.root is None or blame.node == f"node_{plant.root}"
    assert blame.application == (7 if "seventh" in plant.name else 1)
    reduction = reduce_failure(process, model, pipeline_with(plant), found)
    assert reduction.failure is not None
    assert reduction.nodes <= 5
    assert reduction.finished
    # What was written shows the same failure.
    folder = write_reproducer(tmp_path / "reproducer", reduction)
    again = bisect_pipeline(
        process,
        load(folder / "model.onnx"),
        Pipeline([plant.pass_]),
        load_feeds(folder / "feeds.npz"),
    )
    assert again.blame is not None
    assert same_sort(again.blame.failure, reduction.failure)


@pytest.mark.parametrize("plant", [p for p in PLANTS if p.rule is not None][:3], ids=lambda p: p.name)
def test_the_limit_replays_the_pipeline_up_to_the_bad_application(plant: Plant) -> None:
    model = load(plant.model())
    found = graphopt.bisect(model, pipeline=pipeline_with(plant))
    assert found.blame is not None
    for limit, bad in ((found.blame.limit - 1, False), (found.blame.limit, True)):
        result, _ = pipeline_with(plant).run(model.clone(), watch=Watch(limit))
        names = {node.name for node in result.graph.all_nodes()}
        assert bad == (found.blame.node not in names)


@rule("LeakyRelu")
def seventh_is_wrong(node: Node, rewriter: Rewriter) -> Replacement:
    """LeakyRelu(x) = Max(x, slope * x), but the seventh time it is x."""
    SeventhIsWrong.count += 1
    if SeventhIsWrong.count == 7:
        return node.inputs[0]
    slope = rewriter.const(np.array(0.25, np.float32))
    return rewriter.op("Max", node.inputs[0], rewriter.op("Mul", node.inputs[0], slope))


@dataclasses.dataclass(frozen=True)
class SeventhIsWrong(RulePass):
    """Counts its applications, and makes a mistake at the seventh."""

    rules = (seventh_is_wrong,)
    count = 0

    def run(self, model: Model) -> Changes:
        SeventhIsWrong.count = 0
        return super().run(model)


def test_a_rule_that_counts_is_blamed_and_keeps_what_it_needs_to_count() -> None:
    chain = "; ".join(
        f"a{i} = LeakyRelu<alpha = 0.25>({f'b{i - 1}' if i else 'x'}); b{i} = Sin(a{i})" for i in range(12)
    ).replace("; ", "\n    ")
    model = model_from(f"g (float[4] x) => (float[4] y) {{\n    {chain}\n    y = Neg(b11)\n}}")
    reduction = graphopt.reduce(model, pipeline=Pipeline([SeventhIsWrong()]))
    assert reduction.blame is not None
    assert (reduction.blame.application, reduction.blame.rule) == (7, "seventh-is-wrong")
    assert sum(node.op_type == "LeakyRelu" for node in reduction.model.graph) == 7


def test_sound_pipelines_are_sound() -> None:
    found = graphopt.bisect(grown(), level=2)
    assert found.ok
    assert found.passes > 10
    with pytest.raises(UsageError, match="GO704"):
        graphopt.reduce(grown(), level=2)


def test_a_pass_of_an_inexact_kind_is_not_blamed_for_rounding() -> None:
    @rule("Add")
    def turned(node: Node, rewriter: Rewriter) -> Replacement:
        """x + y = (2x + 2y) / 2."""
        two = rewriter.const(np.array(3, np.float32))
        parts = [rewriter.op("Mul", value, two) for value in node.inputs]
        return rewriter.op("Div", rewriter.op("Sub", parts[0], rewriter.op("Neg", parts[1])), two)

    text = "g (float[64] x, float[64] z) => (float[64] y) {\n y = Add(x, z)\n}"
    exact, loose = (
        graphopt.bisect(model_from(text), pipeline=Pipeline([planted(turned, exactness=e)]))
        for e in (graphopt.Pass.exactness, type(graphopt.Pass.exactness).REASSOCIATES)
    )
    assert not exact.ok
    assert loose.ok


def test_a_predicate_of_ones_own() -> None:
    def has_a_convolution(model: Model, feeds: dict[str, np.ndarray]) -> bool:
        return any(node.op_type == "Conv" for node in model.graph)

    model = load(next(p for p in PLANTS if p.name == "wrong padding").model())
    reduction = graphopt.reduce(model, has_a_convolution)
    assert [node.op_type for node in reduction.model.graph] == ["Conv"]
    assert reduction.pipeline is None


def test_the_time_is_kept() -> None:
    plant = next(p for p in PLANTS if p.name == "merges unequal constants")
    reduction = graphopt.reduce(plant.model(), pipeline=pipeline_with(plant), seconds=0.01)
    assert not reduction.finished
    assert reduction.failure is not None


def test_the_command_of_a_registered_pass_runs(tmp_path: Path) -> None:
    """Sound passes never fail, so the command is run on a model that they leave alone."""
    plant = next(p for p in PLANTS if p.name == "drops NaN")
    reduction = graphopt.reduce(plant.model(), pipeline=pipeline_with(plant))
    reduction.pipeline = Pipeline("merge-casts,fold-constants{max-bytes=64K}")
    folder = write_reproducer(tmp_path, reduction)
    line = (folder / "command.txt").read_text()
    assert line == (
        "graphopt bisect model.onnx --pipeline 'merge-casts,fold-constants{max-bytes=65536}' "
        "--data feeds.npz\n"
    )
    from graphopt.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(shlex.split(line)[1:]) == 0


def test_a_model_that_ends_the_process_does_not_end_the_next_run() -> None:
    divide = model_from("g (int32[2] x, int32[2] z) => (int32[2] y) {\n y = Div(x, z)\n}")
    low = np.array([-(2**31)] * 2, np.int32)
    with ReferenceProcess() as process:
        with pytest.raises(graphopt.GraphoptError, match="SIGFPE"):
            process.run(divide, [{"x": low, "z": np.array([-1, -1], np.int32)}])
        (found,) = process.run(divide, [{"x": low, "z": np.array([2, 4], np.int32)}])
    assert found["y"].tolist() == [-(2**30), -(2**29)]


def test_a_model_that_takes_too_long_is_stopped() -> None:
    endless = model_from(
        """g (float[2] x) => (float[2] y) <int64 trips = {9223372036854775807}, bool go = {1}> {
            y = Loop(trips, go, x) <body = b (int64 i, bool c, float[2] s) => (bool k, float[2] t) {
                k = Identity(c)
                t = Sin(s)
            }>
        }"""
    )
    feeds = {"x": np.ones(2, np.float32)}
    with ReferenceProcess(timeout_s=2) as process, pytest.raises(graphopt.GraphoptError, match="stopped"):
        process.run(endless, [feeds])


def test_the_command_of_a_pass_of_ones_own_imports_it(tmp_path: Path) -> None:
    plant = next(p for p in PLANTS if p.name == "merges unequal nodes")
    reduction = graphopt.reduce(plant.model(), pipeline=pipeline_with(plant), output=tmp_path)
    assert reduction.nodes <= 5
    line = (tmp_path / "command.txt").read_text()
    assert "from debug.planted import MergeWithoutAttributes" in line
    assert {p.name for p in tmp_path.iterdir()} == {
        "README.md", "actual.npz", "command.txt", "expected.npz", "feeds.npz", "model.onnx"
    }  # fmt: skip
    assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0


def test_with_the_optimisations_of_the_runtime() -> None:
    plant = next(p for p in PLANTS if p.name == "lost bias")
    reduction = graphopt.reduce(plant.model(), pipeline=pipeline_with(plant), runtime_optimized=True)
    assert reduction.nodes <= 5
    assert graphopt.bisect(plant.model(), runtime_optimized=True).ok
