"""ONNX Runtime's CUDA provider without a GPU, on a double of the CUDA libraries that gcc builds here.

What ONNX Runtime itself decides can be asked so: which kernels the installed provider has, to which
provider each node goes, which copies it inserts, which options it takes. Nothing that is computed means
anything.

    python tests/cuda_double.py        # the table of kernels, as lowering/cuda/ort_cuda_kernels.tsv holds it
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_suffix(".c")
ROOT = SOURCE.parents[1]
LIBRARIES = ("libcudart.so.13", "libcudnn.so.9", "libcufft.so.12", "libcuda.so.1")
EMPTY = ("libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10")
TENSORRT = ("libnvinfer.so.10", "libnvonnxparser.so.10")
HANDLES = re.compile(r"(?!cudaGraph)\w*Create\w*$")


def why_impossible() -> str | None:
    """Why there can be no double on this machine; None if there can."""
    import onnxruntime

    if not sys.platform.startswith("linux"):
        return "the double is built on Linux"
    missing = [tool for tool in ("gcc", "nm", "strings") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is missing"
    folder = Path(onnxruntime.__file__).parent / "capi"
    if not (folder / "libonnxruntime_providers_cuda.so").is_file():
        return "this ONNX Runtime was built without the CUDA provider"
    return None


@functools.cache
def build() -> Path:
    """A folder with the double's libraries (removed when this process ends)."""
    import atexit

    import onnxruntime

    folder = Path(tempfile.mkdtemp(prefix="graphopt-cuda-double-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    capi = Path(onnxruntime.__file__).parent / "capi"
    cuda, tensorrt = (capi / f"libonnxruntime_providers_{name}.so" for name in ("cuda", "tensorrt"))
    own = SOURCE.read_text(encoding="utf-8")
    written = set(re.findall(r"(\w+)\([^;{]*\) \{", own))
    wanted = {*_undefined(cuda), *_undefined(tensorrt), *_looked_up(cuda)} - written
    stubs = [
        f"int {name}(void **p) {{ return {'handle(p)' if HANDLES.match(name) else '0'}; }}"
        for name in sorted(wanted)
        if re.match(r"_{0,2}cu(da|blas|dnn|rand|fft|[A-Z])", name)
    ]
    foreign = [
        f"void *{name}(void) {{ return 0; }}"
        for name in sorted(wanted)
        if re.match(r"(create|get)\w+$", name)
    ]
    for stem, text in (("all", own + "\n".join(stubs)), ("empty", ""), ("tensorrt", "\n".join(foreign))):
        (folder / f"{stem}.c").write_text(text, encoding="utf-8")
    for stem, names in (("all", LIBRARIES), ("empty", EMPTY), ("tensorrt", TENSORRT)):
        for name in names:
            command = [
                "gcc",
                "-w",
                "-O0",
                "-shared",
                "-fPIC",
                f"-Wl,-soname,{name}",
                "-o",
                str(folder / name),
            ]
            subprocess.run([*command, str(folder / f"{stem}.c")], check=True)
    return folder


def _undefined(library: Path) -> set[str]:
    if not library.is_file():
        return set()
    done = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    )
    return {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}


def _looked_up(library: Path) -> set[str]:
    """Symbols of libraries that the provider opens when it needs them."""
    done = subprocess.run(["strings", "-a", str(library)], capture_output=True, text=True, check=True)
    return set(re.findall(r"^(?:cudnn|cufft)[A-Z][A-Za-z0-9_]+$", done.stdout, re.MULTILINE))


def ask(script: str, *arguments: str) -> Any:
    """What `script` prints last, as JSON; it runs in a process that has the double."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(build()), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stderr[-4000:]}"
    return json.loads(done.stdout.splitlines()[-1])


_ASSIGN = """
import json, sys
from graphopt.runtime import ort
from graphopt.runtime.ort_assignment import assignment
ort.why_unusable = lambda provider: None  # there is no device file
found = []
for path, plan in json.loads(sys.argv[1]):
    try:
        found.append(assignment(open(path, "rb").read(), plan))
    except Exception as error:
        found.append({"error": f"{type(error).__name__}: {error}"})
print(json.dumps(found))
"""


def assigned(models: Sequence[tuple[bytes, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """What :func:`graphopt.runtime.ort_assignment.assignment` gives for each (model, plan), or its error."""
    with tempfile.TemporaryDirectory(prefix="graphopt-cuda-double-") as scratch:
        asked = []
        for index, (model, plan) in enumerate(models):
            path = Path(scratch, f"{index}.onnx")
            path.write_bytes(model)
            asked.append((str(path), plan))
        found: list[dict[str, Any]] = ask(_ASSIGN, json.dumps(asked))
        return found


_KERNELS = """
import json
from onnxruntime.capi import onnxruntime_pybind11_state as state
print()
print(json.dumps([
    (k.domain, k.op_name, list(k.version_range), {n: sorted(t) for n, t in k.type_constraints.items()})
    for k in state.get_all_opkernel_def() if k.provider == "CUDAExecutionProvider"
]))
"""
OPEN = (1 << 31) - 1
Row = tuple[str, str, int, int | None, str]


def kernel_rows() -> list[Row]:
    """The kernels of the installed CUDA provider: (domain, op, first, last, types), sorted."""
    types: dict[tuple[str, str, int, int], dict[str, set[str]]] = {}
    for domain, op, (first, last), constraints in ask(_KERNELS):
        merged = types.setdefault(
            (domain.replace("ai.onnx", "", 1) if domain == "ai.onnx" else domain, op, first, last), {}
        )
        for name, allowed in constraints.items():
            merged.setdefault(name, set()).update(map(_type_name, allowed))
    return [
        (
            domain,
            op,
            first,
            None if last == OPEN else last,
            ";".join(f"{n}={','.join(sorted(t))}" for n, t in sorted(found.items())),
        )
        for (domain, op, first, last), found in sorted(types.items())
    ]


def _type_name(text: str) -> str:
    """``tensor(float)`` → ``float``, ``seq(tensor(float))`` → ``seq:float``."""
    return re.sub(
        r"^(?:optional\()?(seq\()?tensor\((\w+)\)+$", lambda m: ("seq:" if m[1] else "") + m[2], text
    )


if __name__ == "__main__":
    print("domain\top\tsince_first\tsince_last\ttype_constraints")
    for row in kernel_rows():
        print(*("" if cell is None else cell for cell in row), sep="\t")
