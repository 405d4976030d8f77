"""The one tree of errors that graphopt raises on purpose.

Every error has a stable code (``GO203``), says where it happened, what was found, what was expected
and what to do next, and carries the process exit code that the command line uses. An exception
outside this tree is a bug in graphopt.
"""

from __future__ import annotations

from typing import Any, ClassVar

EXIT_OK, EXIT_INTERNAL, EXIT_USAGE, EXIT_MODEL, EXIT_ACCURACY, EXIT_POLICY = range(6)

CODES: dict[str, str] = {
    # 1xx: the model file
    "GO101": "the model file cannot be read",
    "GO102": "not an ONNX model",
    "GO103": "the model is truncated or corrupt",
    "GO104": "external data is missing, too short or outside the model's folder",
    "GO105": "the graph is not well formed",
    "GO106": "an operator, opset or domain is unknown",
    "GO107": "a tensor's data does not match its declared type and shape",
    "GO108": "a limit on untrusted input was exceeded",
    "GO109": "the opset cannot be upgraded",
    "GO110": "types or shapes in the graph contradict each other",
    "GO111": "the output cannot be written",
    "GO112": "valid ONNX that graphopt does not represent",
    # 2xx: lowering
    "GO201": "operators that this target does not support",
    "GO202": "an operator's form (attributes, dtype or rank) is not supported by this target",
    "GO203": "an operand must be known at compile time",
    "GO204": "a dynamic dimension must be bound for this target",
    "GO205": "control flow whose shapes are not fixed",
    "GO206": "the target's compiler failed",
    "GO207": "the target's compiler is not installed",
    "GO208": "the target's compiler crashed",
    "GO209": "the target's compiler went over its time or memory limit",
    "GO210": "padding a dimension could change results",
    # 3xx: passes and pipelines
    "GO301": "a pass failed",
    "GO302": "a pass changed the model's interface",
    "GO303": "a pipeline text cannot be parsed",
    # 4xx: accuracy
    "GO401": "results differ from the reference",
    # 5xx: policy
    "GO501": "strict mode refuses a fallback",
    # 6xx: artifacts and running them
    "GO601": "not a graphopt artifact",
    "GO602": "the artifact is corrupt or was changed after it was written",
    "GO603": "a feed does not match the model's inputs",
    "GO604": "the runtime failed",
    # 7xx: usage
    "GO701": "a command-line or API argument is wrong",
    "GO702": "an unknown target",
    "GO703": "no node, rule or pass has this name",
    "GO704": "nothing fails, so there is nothing to reduce",
    # 9xx: graphopt itself
    "GO901": "an internal invariant does not hold",
    "GO902": "the work was interrupted",
    "GO903": "the machine has not enough memory",
}


def _shown(text: str, limit: int) -> str:
    """`text` as it may be printed: names come from untrusted files, in any length and with any character."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class GraphoptError(Exception):
    """Base of every error that graphopt raises on purpose.

    Args:
        code: a stable code, a key of :data:`CODES`.
        message: what is wrong, in one sentence.
        where: the node, tensor, file or flag concerned.
        found: what stands there.
        expected: what should stand there.
        next_step: what the reader can do about it.
        details: machine-readable extras for ``--json``.
    """

    exit_code: ClassVar[int] = EXIT_INTERNAL

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: str | None = None,
        found: object | None = None,
        expected: object | None = None,
        next_step: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        if code not in CODES:
            raise KeyError(f"unknown error code {code!r}")
        self.code = code
        self.message = _shown(message, 2000)
        self.where = None if where is None else _shown(where, 500)
        self.found = None if found is None else _shown(str(found), 1000)
        self.expected = None if expected is None else _shown(str(expected), 1000)
        self.next_step = next_step
        self.details = details or {}
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.code} " + (f"{self.where}: " if self.where else "") + self.message
        if self.found is not None:
            text += f"; found {self.found}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        text = text.rstrip(".") + "."
        return f"{text} {self.next_step}" if self.next_step else text

    def to_json(self) -> dict[str, Any]:
        """The error as a JSON-ready dict (schema ``graphopt.error/1``)."""
        return {
            "schema": "graphopt.error/1",
            "code": self.code,
            "kind": type(self).__name__,
            "message": self.message,
            "where": self.where,
            "found": self.found,
            "expected": self.expected,
            "next_step": self.next_step,
            "exit_code": self.exit_code,
            **({"details": self.details} if self.details else {}),
        }


class ModelError(GraphoptError):
    """The user's model (or its data) is broken or breaks the ONNX specification."""

    exit_code = EXIT_MODEL


class UnsupportedError(GraphoptError):
    """The model is valid, but graphopt does not do this (yet) for the chosen target."""

    exit_code = EXIT_MODEL


class LoweringError(UnsupportedError):
    """A node, or several, cannot be lowered to the target."""


class ArtifactError(GraphoptError):
    """An artifact is missing, corrupt or of another version."""

    exit_code = EXIT_MODEL


class FeedError(GraphoptError):
    """The arrays given to ``run`` do not match the model's inputs."""

    exit_code = EXIT_USAGE


class UsageError(GraphoptError):
    """A command-line flag or an API argument is wrong."""

    exit_code = EXIT_USAGE


class OutputError(GraphoptError):
    """A result cannot be written where it was asked for."""

    exit_code = EXIT_USAGE


class AccuracyError(GraphoptError):
    """Results differ from the reference by more than the tolerance."""

    exit_code = EXIT_ACCURACY


class PolicyError(GraphoptError):
    """``--strict`` or a budget forbids what would have to be done."""

    exit_code = EXIT_POLICY


class PassError(GraphoptError):
    """A pass failed or broke the model; the pass is named, the model is left as it was before it."""


class InvariantError(GraphoptError):
    """Something that graphopt guarantees does not hold: a bug in graphopt."""
