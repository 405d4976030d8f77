"""Does ONNX Runtime survive loading a model? Found out in a child process, before anyone relies on it.

ONNX Runtime's own optimisers can end the process that they run in: 1.31's constant folding does, on a
model of nested If nodes whose conditions it can fold. A compile that would leave such an artifact
behind turns them off instead, and says so.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.runtime.ort_child import ask

TIMEOUT_S = 300.0


def probe(model: bytes, plan: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S) -> str | None:
    """Load `model` as `plan` says in a child process.

    Returns:
        None if that works or fails with an error (which running it will show), else how the child
        ended: ``crashed with SIGSEGV``, ``did not finish in 300 s``.
    """
    status, _ = ask("graphopt.runtime.ort_probe", model, plan, timeout_s=timeout_s)
    if status is None:
        return f"did not finish in {timeout_s:.0f} s"
    if status >= 0:
        return None
    try:
        return f"crashed with {signal.Signals(-status).name}"
    except ValueError:
        return f"crashed with signal {-status}"


def main(folder: Path) -> None:
    """Load the model in `folder`; every Python error is somebody else's to report."""
    from graphopt.errors import GraphoptError
    from graphopt.runtime.ort import OrtSession

    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    try:
        OrtSession((folder / "model.onnx").read_bytes(), plan)
    except GraphoptError:
        return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
