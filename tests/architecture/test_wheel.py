"""A wheel built from the project works where it is installed: no checkout, no links, its data inside."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = '<ir_version: 8, opset_import: ["": 17]> g (float[2,3] x) => (float[2,3] y) { i = Identity(x)  y = Relu(i) }'
SCRIPT = f"""
import graphopt, graphopt.passes, numpy, pathlib, sys
home = pathlib.Path(graphopt.__file__).parent
assert home.is_relative_to(sys.argv[1]), home
executable = graphopt.compile({MODEL!r}, target="xla-cpu")
y = executable.run({{"x": numpy.array([[-1, 2, 3], [4, -5, 6]], numpy.float32)}})["y"]
assert y.tolist() == [[0, 2, 3], [4, 0, 6]], y
assert len(executable.model.graph) == 1
assert graphopt.compile({MODEL!r}, target="cuda").placement
print("works")
"""


@pytest.mark.slow
def test_wheel_works_elsewhere(tmp_path: Path) -> None:
    dist, site, elsewhere = tmp_path / "dist", tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(dist),
    ]
    subprocess.run([*command, str(ROOT)], check=True, cwd=tmp_path)
    (wheel,) = dist.glob("graphopt-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "graphopt/passes/fold_constants.py" in names
    assert "graphopt/lowering/contrib_schemas.tsv" in names
    assert "graphopt/lowering/cuda/ort_cuda_kernels.tsv" in names
    assert "graphopt/devices.toml" in names
    assert {"graphopt/viz/static/report.js", "graphopt/viz/static/report.css"} <= set(names)
    assert len(names) == len(set(names))
    assert not [n for n in names if n.startswith(("passes/", "lowering/", "tests/"))]
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, cwd=tmp_path)
    result = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            f"import site; sys_path = {[str(site), *sys.path]!r}; import sys; sys.path[:] = sys_path\n{SCRIPT}",
            str(site),
        ],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "works" in result.stdout
