"""The command line: ``graphopt compile model.onnx --target tpu`` and its sister commands.

One file per command. Results go to stdout, progress and notes to stderr; ``--json`` puts one JSON
document with a versioned ``schema`` on stdout, for errors too. Nothing heavy is imported before a
command runs, so that ``graphopt --help`` answers at once.
"""

from __future__ import annotations

from graphopt.cli.app import main

__all__ = ["main"]
