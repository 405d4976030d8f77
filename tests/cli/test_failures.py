"""Failures that are nobody's input: bugs, a full memory, names that are traps."""

from __future__ import annotations

from typing import NoReturn

import onnx
import pytest
from cli.conftest import MNIST, Cli


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the driver raise `error`, as a bug in it would."""

    def broken(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr("graphopt.driver.optimize", broken)


@pytest.mark.parametrize(("flags", "traced"), [((), False), (("-q",), False), (("-v",), True)])
def test_a_bug_is_reported_as_one(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], traced: bool
) -> None:
    fail_with(monkeypatch, ZeroDivisionError("by nothing"))
    outcome = cli("optimize", MNIST, *flags)
    assert outcome.code == 1
    assert "GO901 internal error: ZeroDivisionError: by nothing" in outcome.err
    assert "report" in outcome.err
    assert ("Traceback" in outcome.err) is traced


def test_a_bug_as_json(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ZeroDivisionError("by nothing"))
    outcome = cli("optimize", MNIST, "--json")
    assert (outcome.code, outcome.err) == (1, "")
    assert outcome.json["schema"] == "graphopt.error/1"
    assert outcome.json["code"] == "GO901"


def test_developers_may_see_every_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_DEBUG", "1")
    outcome = cli("optimize", "nowhere.onnx")
    assert outcome.code == 3
    assert "Traceback" in outcome.err


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (MemoryError(), 1, "GO903"),
        (RecursionError(), 3, "GO108"),
        (KeyboardInterrupt(), 130, "Interrupted;"),
    ],
)
def test_limits_of_the_machine(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, exit_code: int, code: str
) -> None:
    fail_with(monkeypatch, error)
    outcome = cli("optimize", MNIST)
    assert outcome.code == exit_code
    assert outcome.err.startswith(code)
    assert "Traceback" not in outcome.err


def test_names_do_not_reach_the_terminal_raw(cli: Cli) -> None:
    model = onnx.load(MNIST)
    for node in model.graph.node:
        node.name = f"\x1b]0;owned\x07\x1b[31m[bold]{node.name}"
    onnx.save(model, "escape.onnx")
    for command in (("inspect",), ("optimize", "--list-declined"), ("compile", "--no-save", "--report")):
        outcome = cli(command[0], "escape.onnx", *command[1:])
        assert outcome.code == 0, outcome.err
        assert "\x1b" not in outcome.out + outcome.err
        assert "\x07" not in outcome.out + outcome.err
    shown = cli("inspect", "escape.onnx").out
    assert "\\x1b]0;owned" in shown
    assert "[bold]" in shown, "names are shown as they are, not read as markup"


def test_names_in_errors_are_harmless_too(cli: Cli) -> None:
    outcome = cli("compile", "no\x1b[31mwhere.onnx")
    assert outcome.code == 3
    assert "\x1b" not in outcome.err
