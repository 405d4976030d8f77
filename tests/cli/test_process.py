"""The command line as a process of its own: streams, signals, pipes, terminals, what it imports."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.conftest import MNIST

COMMAND = [sys.executable, "-m", "graphopt"]
HEAVY = {"numpy", "onnx", "onnx_ir", "jax", "onnxruntime", "networkx", "rich.console", "rich.table"}


# A shell's background jobs ignore SIGINT, and so would every process below them.
TAKE_INTERRUPTS = [
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
]


def start(*arguments: object, cwd: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*TAKE_INTERRUPTS, *COMMAND, *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


def wait_for(process: subprocess.Popen[bytes], text: bytes, seconds: float = 60) -> bytes:
    """Read stderr until `text` has come."""
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    seen, end = b"", time.monotonic() + seconds
    while text not in seen:
        assert time.monotonic() < end, seen
        assert process.poll() is None, seen
        seen += process.stderr.read() or b""
        time.sleep(0.02)
    os.set_blocking(process.stderr.fileno(), True)
    return seen


@pytest.mark.parametrize(
    "arguments", [["--help"], ["compile", "--help"], ["--version"], ["compile", "x", "--oops"]]
)
def test_start_up_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, json\nfrom graphopt.cli import main\n"
        f"code = main({arguments!r})\nsys.stderr.write(chr(10) + json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    heavy = HEAVY - ({"rich.console"} if "--oops" in arguments else set())  # the error is shown by rich
    assert not loaded & heavy


def test_the_installed_command_runs(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("graphopt")
    if not script.exists():
        pytest.skip("graphopt is not installed beside this Python")
    done = subprocess.run([script, "compile", "nowhere.onnx"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith(b"GO101 ")
    assert done.stdout == b""


@pytest.mark.parametrize("flags", [["--json"], []])
def test_a_closed_pipe_is_quiet(tmp_path: Path, flags: list[str]) -> None:
    process = start("targets", *flags, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 141
    assert errors == b""


def test_interrupting(tmp_path: Path) -> None:
    process = start("bench", MNIST, "-t", "cpu", "--seconds", 120, "-v", cwd=tmp_path)
    wait_for(process, b"measure")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Interrupted; nothing was written." in err
    assert b"Traceback" not in err
    assert out == b""
    assert not list(tmp_path.iterdir())


def test_terminating_as_json(tmp_path: Path) -> None:
    process = start("bench", MNIST, "-t", "cpu", "--seconds", 120, "-v", "--json", cwd=tmp_path)
    wait_for(process, b"measure")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert json.loads(out)["code"] == "GO902"
    assert b"Traceback" not in err


@pytest.mark.tpu_compiler
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_the_tpu_compiler(tmp_path: Path, number: signal.Signals) -> None:
    pytest.importorskip(
        "libtpu", reason="NOT TESTED: compiling for TPUs needs libtpu (pip install 'graphopt[tpu]')"
    )
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    process = start(
        *(
            "compile",
            MNIST,
            "--target",
            "tpu",
            "--dim",
            "batch=8",
            "-o",
            tmp_path / "made",
            "-v",
            "--no-cache",
        ),
        cwd=tmp_path,
        TMPDIR=str(scratch),
    )
    wait_for(process, b"TPU compiler")
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (130, 143)
    assert b"Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["tmp"]
    assert not list(scratch.iterdir())
    assert not [pid for pid in running() if str(scratch) in command_line(pid)]


def running() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "targets", "--json"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith(b"GO111 ")
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_output_without_unicode(tmp_path: Path) -> None:
    process = start("targets", cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Cloud TPU v5e" in out.decode("ascii")


def in_terminal(*arguments: object, cwd: Path, **environment: str) -> tuple[int, str]:
    """Exit code and screen of the command line on a terminal (both streams)."""
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE")
    }
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**inherited, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    return process.wait(60), shown.decode(errors="replace")


def test_a_terminal_gets_colour_unless_it_says_no(tmp_path: Path) -> None:
    code, shown = in_terminal("compile", "nowhere.onnx", cwd=tmp_path)
    assert code == 3
    assert re.search(r"\x1b\[[\d;]*31m", shown), "the error is red"
    code, plain = in_terminal("compile", "nowhere.onnx", cwd=tmp_path, NO_COLOR="1")
    assert code == 3
    assert not re.search(r"\x1b\[[\d;]*3\dm", plain)


def test_progress_is_for_terminals_and_long_work_only(tmp_path: Path) -> None:
    arguments = ("bench", MNIST, "-t", "cpu", "--seconds", 1.5)
    code, shown = in_terminal(*arguments, cwd=tmp_path)
    assert code == 0
    assert "measure" in shown
    process = start(*arguments, cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert b"measure" not in out + err
