"""Tuning: the search by planted latencies, and the whole of it on a small model under ONNX Runtime."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.bench import Axis, Found, Journal, Point, Trial, search
from graphopt.cli import main
from graphopt.cli.tune import seconds_of
from graphopt.errors import AccuracyError, PolicyError, UsageError
from graphopt.executable import Executable
from graphopt.runtime.devices import cuda_device_count

MNIST = Path(__file__).parents[1] / "samples/generated/mnist-cnn.onnx"
AXES = [Axis("a", (0, 1, 2)), Axis("b", ("x", "y")), Axis("c", (None, 7))]
KEY = {"model": "m"}


class Planted:
    """Attempts whose latencies and faults are known.

    Attributes:
        asked: the points in the order in which they were tried.
    """

    def __init__(self, latency: Any, wrong: Any = lambda point: False, limit: int = 1000) -> None:
        self._latency, self._wrong, self._limit = latency, wrong, limit
        self.asked: list[Point] = []

    def __call__(self, point: Point, best: Point | None) -> Trial | None:
        if len(self.asked) >= self._limit:
            return None
        self.asked.append(point)
        if self._wrong(point):
            return Trial(point, "refused", best, reason="planted")
        if best is None:
            return Trial(point, "base")
        speedup = self._latency(best) / self._latency(point)
        return Trial(point, "faster" if speedup > 1 else "no gain", best, speedup, (speedup, speedup))


def coupled(point: Point) -> float:
    """y pays only with a=2, which is slower without it than a=1."""
    a, b = {0: 5.0, 1: 4.0, 2: 3.0}[int(point["a"] or 0)], point["b"]
    return a - (2.0 if b == "y" and a == 3.0 else -1.0 if b == "y" else 0.0) + (0.5 if point["c"] else 0.0)


def ran(planted: Planted, path: Path | None = None, seed: int = 0) -> Found:
    return search(AXES, Journal(path, KEY), planted, seed)


def test_the_fastest_point_is_found_and_every_point_tried_once() -> None:
    planted = Planted(coupled)
    found = ran(planted)
    assert found.best == {"a": 2, "b": "y", "c": None}
    assert found.base == {"a": 0, "b": "x", "c": None}
    assert found.complete
    assert (found.steps[0], found.steps[-1]) == (found.base, found.best)
    assert len(planted.asked) == len({str(sorted(p.items(), key=str)) for p in planted.asked})


def test_a_seed_decides_the_order() -> None:
    orders = {}
    for seed in (0, 0, 1, 2, 3):
        planted = Planted(coupled)
        ran(planted, seed=seed)
        assert orders.setdefault(seed, planted.asked) == planted.asked
    assert len({str(order) for order in orders.values()}) > 1


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_search_that_was_cut_off_goes_on_to_the_same_end(tmp_path: Path, cut: int) -> None:
    whole = Planted(coupled)
    expected = ran(whole)
    first = Planted(coupled, limit=cut)
    path = tmp_path / "state.json"
    assert ran(first, path).complete == (cut >= len(whole.asked))
    second = Planted(coupled)
    assert ran(second, path) == expected
    assert first.asked + second.asked == whole.asked
    third = Planted(coupled)
    assert ran(third, path) == expected
    assert third.asked == []


def test_what_is_wrong_is_never_chosen_however_fast() -> None:
    assert ran(Planted(coupled, wrong=lambda p: p["b"] == "y")).best == {"a": 2, "b": "x", "c": None}
    # The starting point itself: the first that passes takes its place.
    found = ran(Planted(coupled, wrong=lambda p: p["a"] == 0))
    assert found.base is not None
    assert found.base["a"] != 0
    assert found.best == {"a": 2, "b": "y", "c": None}
    nothing = ran(Planted(coupled, wrong=lambda p: True))
    assert (nothing.best, nothing.base, nothing.complete) == (None, None, True)


def test_an_interrupt_blames_nobody_and_a_crash_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "state.json"

    def interrupted(point: Point, best: Point | None) -> Trial | None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(AXES, Journal(path, KEY), interrupted)
    assert Journal(path, KEY).trials == []
    script = (
        "import os, sys; from pathlib import Path\n"
        "from graphopt.bench import Axis, Journal, Trial, search\n"
        "def attempt(point, best):\n"
        "    if best is None: return Trial(point, 'base')\n"
        "    os.kill(os.getpid(), 9)\n"
        "search([Axis('a', (0, 1))], Journal(Path(sys.argv[1]), {'model': 'm'}), attempt)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    trials = Journal(path, KEY).trials
    assert [(t.point, t.outcome) for t in trials] == [({"a": 0}, "base"), ({"a": 1}, "crashed")]
    assert not trials[1].passed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"schema": "graphopt.tuning/0"}', "damaged"),
        (
            '{"schema": "graphopt.tuning/1", "key": {"model": "m"}, "trials": [{}], "running": null}',
            "damaged",
        ),
        ('{"schema": "graphopt.tuning/1", "key": {"model": "n"}, "trials": [], "running": null}', "another"),
    ],
)
def test_a_state_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        Journal(path, KEY)
    assert caught.value.code == "GO701"
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60), ("1.5m", 90), ("1h", 3600), ("7", 7), ("2 min", 120)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-1s", "1d", "soon"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError):
        seconds_of(text)


# --- the whole ---------------------------------------------------------------------------------------------


def tuned(tmp_path: Path, *more: object) -> tuple[int, Path]:
    folder = tmp_path / "out"
    return main(["tune", str(MNIST), "-o", str(folder), "-q", *map(str, more)]), folder


def test_the_winner_is_an_artifact_with_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, folder = tuned(tmp_path, "--budget", "3s", "--json")
    assert code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "graphopt.tune/1"
    assert document["trials"][0]["outcome"] == "base"
    assert document["winner"] in [
        t["point"] for t in document["trials"] if t["outcome"] in ("base", "faster")
    ]
    assert {axis for t in document["trials"] for axis in t["point"]} == set(document["axes"])
    loaded = graphopt.load_artifact(folder)
    assert loaded.manifest["tuning"]["trials"] == document["trials"]
    assert graphopt.verify(loaded, MNIST).ok
    threads = loaded.manifest["onnxruntime"]["session_options"]["intra_op_num_threads"]
    assert threads == document["winner"]["threads"]
    # Again: nothing that is known is tried anew.
    known = len(document["trials"])
    code, _ = tuned(tmp_path, "--budget", "1s", "--json")
    again = json.loads(capsys.readouterr().out)
    assert code == 0
    assert again["resumed"] == known
    assert again["trials"][:known] == document["trials"]


def test_another_model_data_or_seed_is_another_search(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    graphopt.tune(MNIST, budget_s=0.01, state=state)
    with pytest.raises(UsageError, match="is of another search"):
        graphopt.tune(MNIST, budget_s=0.01, state=state, seed=1)


def test_a_wrong_candidate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: with one thread the runtime answers something else, and at once."""
    run = Executable.run

    def planted(self: Executable, feeds: Any) -> dict[str, np.ndarray]:
        found = run(self, feeds)
        if self.manifest["onnxruntime"]["session_options"]["intra_op_num_threads"] == 1:
            return {name: array + 1 for name, array in found.items()}
        return found

    monkeypatch.setattr(Executable, "run", planted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    found = graphopt.tune(MNIST, budget_s=4.0)
    (refused,) = [t for t in found.trials if t.point["threads"] == 1 and t.point["spinning"] == 1][:1]
    assert refused.outcome == "refused"
    assert "GO401" in (refused.reason or "")
    assert found.executable.manifest["tuning"]["winner"]["threads"] is None


def test_nothing_is_written_if_no_candidate_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Executable.run
    monkeypatch.setattr(
        Executable, "run", lambda self, feeds: {k: v + 1 for k, v in run(self, feeds).items()}
    )
    monkeypatch.setattr("graphopt.lowering.cuda.choices._processors", lambda: 1)
    monkeypatch.setattr("graphopt.tuning.SWITCHES", {})
    code, folder = tuned(tmp_path, "--budget", "1s")
    assert code == AccuracyError.exit_code
    assert not folder.exists()


@pytest.mark.parametrize(("confirmed", "winner"), [((True,), 2), ((False, True), 1), ((False, False), 0)])
def test_what_was_luck_is_not_kept(
    confirmed: tuple[bool, ...], winner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: three points in a row were the best, and the last measurement confirms some of them."""
    from graphopt import tuning

    points: list[Point] = [{"level": 2, "precision": "fp32", "threads": n} for n in (None, 1, 2)]
    answers = iter(confirmed)

    class Bench:
        target = graphopt.Target.parse("cpu")

        def final(self, base: Point, best: Point, shares: int) -> tuple[float, tuple[float, float]]:
            assert base == points[0]
            return 1.5, (1.1 if next(answers) else 0.9, 2.0)

        def executable(self, point: Point) -> Executable:
            return graphopt.compile(MNIST, "cpu")

    found = Found(points[2], points[0], complete=True, steps=points)
    tuned = tuning._finish(Bench(), [], Journal(None, KEY), found, 0)  # type: ignore[arg-type]
    assert tuned.executable.manifest["tuning"]["winner"] == points[winner]
    assert (tuned.speedup == 1.0) == (winner == 0)
    assert tuned.executable.manifest["tuning"]["confirmed"] == (winner == 2)


@pytest.mark.skipif(cuda_device_count() > 0, reason="describes a machine without a GPU")
@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_a_device_that_is_not_here_is_not_tuned_on_something_else(target: str) -> None:
    with pytest.raises(PolicyError, match="GO501"):
        graphopt.tune(MNIST, target)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("tpu", {}),
        ("xla-cpu", {}),
        ("cpu", {"precisions": ("int3",)}),
        ("cpu", {"precisions": ()}),
        ("cpu", {"budget_s": 0.0}),
    ],
)
def test_wrong_arguments(target: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="GO701"):
        graphopt.tune(MNIST, target, **options)
