"""Ask ONNX Runtime something about a model in a child process, which it may end."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def ask(
    module: str, model: bytes, plan: Mapping[str, Any], *, timeout_s: float
) -> tuple[int | None, dict[str, Any] | None]:
    """Run ``python -m module FOLDER``, which finds ``model.onnx`` and ``plan.json`` there.

    Returns:
        The exit status, None if the child took longer; and what it wrote into ``answer.json``, if it did.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-ask-") as scratch:
        folder = Path(scratch)
        (folder / "model.onnx").write_bytes(model)
        (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", module, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None, None
        answer = folder / "answer.json"
        return done.returncode, json.loads(answer.read_text("utf-8")) if answer.is_file() else None
