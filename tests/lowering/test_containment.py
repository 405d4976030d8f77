"""A compiler that dies, hangs or eats memory is an error with a code and a reproducer, and never heard."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from planted_worker import NOISE

from graphopt.errors import LoweringError
from graphopt.lowering.xla import aot
from graphopt.target import Target

WORKER = "planted_worker"
V5E = Target.parse("tpu:v5e")


@pytest.fixture
def compile_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Compile with a real child process whose worker does as planted."""
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))))
    monkeypatch.setenv("GRAPHOPT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(aot, "tpu_compiler_installed", lambda: True)

    def run(plan: str, **options: Any) -> aot.Compiled:
        monkeypatch.setenv("PLANTED", plan)
        return aot.compile_for_tpu(b"program", V5E, worker=WORKER, **{"cache": False, **options})

    return run


def caught(run: Any, plan: str, **options: Any) -> LoweringError:
    with pytest.raises(LoweringError) as error:
        run(plan, **options)
    return error.value


def check_reproducer(error: LoweringError, plan: str) -> None:
    """The folder holds the program and the one command that replays it, which does die again."""
    folder = Path(error.details["reproducer"])
    assert (folder / "program.bin").read_bytes() == b"program"
    assert (folder / "request.json").exists()
    assert error.code in (folder / "README.txt").read_text()
    assert error.details["replay"] in (folder / "README.txt").read_text()
    assert NOISE in (folder / "log.txt").read_text()
    assert error.details["replay"] in (error.next_step or "")
    if plan == "crash":
        again = subprocess.run(shlex.split(error.details["replay"]), capture_output=True, check=False)
        assert again.returncode == -11


def test_chatter_is_not_heard(compile_with: Any, capfd: pytest.CaptureFixture[str]) -> None:
    made = compile_with("")
    assert made.executable == b"executable"
    out, err = capfd.readouterr()
    assert out == err == ""


def test_a_crash(compile_with: Any, capfd: pytest.CaptureFixture[str]) -> None:
    error = caught(compile_with, "crash")
    assert error.code == "GO208"
    assert "signal 11 (SIGSEGV)" in error.message
    assert error.found is None
    check_reproducer(error, "crash")
    assert capfd.readouterr().err == ""


def test_an_abort_gives_its_reason_only(compile_with: Any) -> None:
    error = caught(compile_with, "abort")
    assert error.code == "GO208"
    assert "SIGABRT" in error.message
    assert error.found == "F0000 00:00:00 shape.cc:1] Check failed: rank == 2"
    check_reproducer(error, "abort")


def test_a_hang_ends_with_everything_it_started(compile_with: Any, tmp_path: Path, monkeypatch: Any) -> None:
    told = tmp_path / "pid"
    monkeypatch.setenv("PLANTED_PID", str(told))
    started = time.monotonic()
    error = caught(compile_with, "hang", timeout_s=1.0)
    assert time.monotonic() - started < 10
    assert error.code == "GO209"
    assert "over 1 s" in error.message
    assert "--timeout" in (error.next_step or "")
    check_reproducer(error, "hang")
    pid = int(told.read_text())
    for _ in range(100):
        if not _alive(pid):
            break
        time.sleep(0.02)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return "State:\tZ" not in status


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell memory in use")
def test_eating_memory(compile_with: Any) -> None:
    error = caught(compile_with, "eat", memory_bytes=200 << 20)
    assert error.code == "GO209"
    assert "0.2 GiB" in error.message
    check_reproducer(error, "eat")


def test_the_gpu_compiler_is_under_the_same_guard(compile_with: Any, monkeypatch: Any) -> None:
    assert compile_with("").executable == b"executable"  # sets up the planted worker
    monkeypatch.setattr(aot, "gpu_compiler_installed", lambda: True)
    monkeypatch.setenv("PLANTED", "crash")
    h100 = Target.parse("xla-gpu:h100")
    with pytest.raises(LoweringError, match="XLA:GPU was killed by signal 11") as error:
        aot.compile_for_gpu(b"program", h100, worker=WORKER, cache=False)
    folder = Path(error.value.details["reproducer"])
    assert folder.name.startswith("xla-gpu-")
    assert "core_count: 132" in json.loads((folder / "request.json").read_text())["topology"]["target_config"]
    keys = [
        aot.cache_key(b"program", aot.gpu_plan(Target.parse(f"xla-gpu:{name}"))) for name in ("h100", "l4")
    ]
    assert keys[0]["target"] != keys[1]["target"] and keys[0]["options"] != keys[1]["options"]


def test_an_exit_without_a_word_is_a_crash(compile_with: Any) -> None:
    error = caught(compile_with, "exit")
    assert error.code == "GO208"
    assert "exit code 3" in error.message
    check_reproducer(error, "exit")


def test_a_refusal_is_the_compilers_own_words(compile_with: Any) -> None:
    error = caught(compile_with, "refuse")
    assert error.code == "GO206"
    assert "INVALID_ARGUMENT: no such thing" in str(error)


def test_where_nothing_can_be_kept_the_error_still_comes(compile_with: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("graphopt.lowering.reproducer.places", lambda: [Path("/proc/a"), Path("/proc/b")])
    error = caught(compile_with, "crash")
    assert error.code == "GO208"
    assert not error.details


def test_an_interrupt_ends_the_child(compile_with: Any, tmp_path: Path, monkeypatch: Any) -> None:
    told = tmp_path / "pid"
    monkeypatch.setenv("PLANTED_PID", str(told))

    def tick(_: float) -> None:
        if told.exists() and told.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_with("hang", tick=tick)
    time.sleep(0.1)
    assert not _alive(int(told.read_text()))


def test_results_are_cached_and_misses_are_counted(
    compile_with: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    count = tmp_path / "count"
    monkeypatch.setenv("PLANTED_COUNT", str(count))
    first = compile_with("count", cache=True)
    second = compile_with("count", cache=True)
    assert (first.cached, second.cached) == (False, True)
    assert count.read_text() == "x"
    assert first.executable == second.executable
    compile_with("count", cache=False)
    assert count.read_text() == "xx"


def test_another_compiler_version_misses(compile_with: Any, tmp_path: Path, monkeypatch: Any) -> None:
    count = tmp_path / "count"
    monkeypatch.setenv("PLANTED_COUNT", str(count))
    compile_with("count", cache=True)
    monkeypatch.setattr(aot, "_version", lambda package: "99")
    assert not compile_with("count", cache=True).cached
    assert count.read_text() == "xx"


def test_the_real_worker_replays_without_the_parents_environment(tmp_path: Path) -> None:
    """The request carries the environment: one command is enough (here it fails on a bad program)."""
    aot.write_request(tmp_path, b"no program", aot.tpu_plan(V5E))
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("TPU_", "ALLOW_"))}
    done = subprocess.run(
        [sys.executable, "-m", aot.WORKER, str(tmp_path)],
        capture_output=True,
        text=True,
        env=bare,
        check=False,
    )
    assert done.returncode == 1
    assert "deserialize" in done.stderr
