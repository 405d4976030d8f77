"""The generated pages of the documentation say what the code says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import onnx.defs
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_fresh(generate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    if onnx.defs.onnx_opset_version() < generate.OPSET:
        pytest.skip(f"the pages speak of opset {generate.OPSET}; this onnx is older")
    status = generate.main(["--check"])
    assert status == 0, capsys.readouterr().err + "Run: python docs/generate.py"


def test_check_notices_a_stale_page(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    monkeypatch.setattr(generate, "PAGES", {"a/b.md": lambda: "new\n"})
    assert generate.main(["--check"]) == 1
    assert "python docs/generate.py" in capsys.readouterr().err
    assert not (tmp_path / "a").exists(), "a check writes nothing"
    assert generate.main([]) == 0
    assert (tmp_path / "a" / "b.md").read_text() == "new\n"
    assert generate.main(["--check"]) == 0


def test_pages_name_everything(generate: ModuleType) -> None:
    from graphopt import passes
    from graphopt.errors import CODES
    from graphopt.target import KINDS, devices

    page, codes, targets = generate.passes_page(), generate.errors_page(), generate.targets_page()
    assert all(f"\n## {name}\n" in page for name in passes.names())
    assert all(f"| {code} |" in codes for code in CODES)
    assert all(f"`{name}`" in targets for name in (*KINDS, *devices("tpu"), *devices("gpu")))


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda p: p.name)
def test_tables_are_regular(path: Path) -> None:
    columns = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        count = len(re.findall(r"(?<!\\)\|", line))
        assert columns in (None, count), line
        columns = count
