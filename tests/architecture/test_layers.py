"""The house rules that a reader relies on: layers, lazy imports, sizes, names, registered passes."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt import errors, passes
from graphopt.passes import presets
from graphopt.target import KINDS, Target
from graphopt.transform import Exactness, Pipeline

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for folder in ("graphopt", "passes", "lowering")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not any(part.is_symlink() for part in path.parents)
]
HEAVY = ("jax", "onnxruntime", "onnx", "onnx_ir", "numpy", "tensorrt_rtx", "networkx")


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `statement`."""
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout))


def test_importing_graphopt_loads_nothing_heavy() -> None:
    assert not modules_after("import graphopt") & set(HEAVY)


def test_importing_the_cli_loads_nothing_heavy() -> None:
    assert not modules_after("import graphopt.cli") & set(HEAVY)


def test_compiling_without_xla_loads_no_jax() -> None:
    code = (
        "import graphopt\n"
        "graphopt.optimize('<ir_version: 8, opset_import: [\"\": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }')"
    )
    assert "jax" not in modules_after(code)


@pytest.mark.parametrize("folder", ["passes", "lowering"])
def test_bare_folders_refuse_to_be_imported(folder: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert f"graphopt.{folder}" in result.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert path.stem not in ("utils", "helpers", "common", "misc")
    assert text.count("\n") <= 520, "split the file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno <= 90, f"split {node.name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_error_codes_exist(path: Path) -> None:
    used = set(re.findall(r'"(GO\d{3})"', path.read_text(encoding="utf-8")))
    assert used <= set(errors.CODES)


@pytest.mark.parametrize("name", passes.names())
def test_every_pass_file_holds_its_pass(name: str) -> None:
    cls = passes.find(name)
    assert cls.pass_name() == name
    assert cls.summary(), "a pass says in its docstring what it does"
    assert isinstance(cls.exactness, Exactness)


@pytest.mark.parametrize("name", passes.names())
def test_pass_text_round_trips(name: str) -> None:
    cls = passes.find(name)
    required = [f for f in cls.options() if f.default is f.default_factory]  # neither is set
    if required:
        pytest.skip(f"{name} has required options: {[f.name for f in required]}")
    assert str(Pipeline.parse(str(cls()))) == str(cls())


@pytest.mark.parametrize("level", presets.LEVELS)
@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("precision", [None, "fp32", "bf16", "fp16"])
def test_presets_parse(level: int, kind: str | None, precision: str | None) -> None:
    text = presets.pipeline_text(level, Target.parse(kind) if kind else None, precision)
    pipeline = Pipeline.parse(text)
    assert len(pipeline) == text.count(",") + bool(text)
    assert str(Pipeline.parse(str(pipeline))) == str(pipeline)
