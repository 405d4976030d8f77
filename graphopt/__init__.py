"""graphopt: a computation-graph compiler for ONNX models.

``graphopt.compile(model, target)`` gives an executable, ``graphopt.optimize(model)`` better ONNX.
Names are loaded on first use, so that importing graphopt costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Executable": "graphopt.executable",
    "GraphoptError": "graphopt.errors",
    "Model": "graphopt.ir",
    "NoMatch": "graphopt.transform",
    "Pass": "graphopt.transform",
    "Pipeline": "graphopt.transform",
    "Result": "graphopt.driver",
    "Target": "graphopt.target",
    "bisect": "graphopt.debugging",
    "compile": "graphopt.driver",
    "explain": "graphopt.debugging",
    "load": "graphopt.ir.io",
    "load_artifact": "graphopt.driver",
    "optimize": "graphopt.driver",
    "plan": "graphopt.planning",
    "reduce": "graphopt.debugging",
    "rule": "graphopt.transform",
    "save": "graphopt.ir.io",
    "tune": "graphopt.tuning",
    "verify": "graphopt.driver",
    "visualize": "graphopt.viz",
}

__all__ = [
    "Executable",
    "GraphoptError",
    "Model",
    "NoMatch",
    "Pass",
    "Pipeline",
    "Result",
    "Target",
    "__version__",
    "bisect",
    "compile",
    "explain",
    "load",
    "load_artifact",
    "optimize",
    "plan",
    "reduce",
    "rule",
    "save",
    "tune",
    "verify",
    "visualize",
]

if TYPE_CHECKING:
    from graphopt.debugging import bisect, explain, reduce
    from graphopt.driver import Result, compile, load_artifact, optimize, verify
    from graphopt.errors import GraphoptError
    from graphopt.executable import Executable
    from graphopt.ir import Model
    from graphopt.ir.io import load, save
    from graphopt.planning import plan
    from graphopt.target import Target
    from graphopt.transform import NoMatch, Pass, Pipeline, rule
    from graphopt.tuning import tune
    from graphopt.viz import visualize


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
