"""Feeds for commands that run models: read from files, or generated."""

from __future__ import annotations

import importlib
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.cli import values
from graphopt.errors import OutputError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from graphopt.executable import Executable

Arrays = dict[str, Any]


def verification() -> Any:
    """The package that generates feeds and compares results."""
    return importlib.import_module("graphopt.verification")


def read_feeds(items: Sequence[str], inputs: Sequence[Mapping[str, Any]]) -> Arrays:
    """The arrays that ``--input`` names: ``name=x.npy``, ``x.npy``, ``x.npz`` or a folder.

    A bare ``x.npy`` feeds the input called ``x``, or the only input there is.

    Raises:
        FeedError: GO603, a file is none or holds no arrays.
        UsageError: GO701, it is not clear what a file feeds, or an input is fed twice.
    """
    feeds: Arrays = {}
    for item in items:
        for name, array in _read(item, [str(spec["name"]) for spec in inputs]).items():
            if name in feeds:
                raise UsageError("GO701", f"--input feeds {name!r} twice", where=f"--input {item}")
            feeds[name] = array
    dtypes = {spec["name"]: spec["dtype"] for spec in inputs}
    return {name: _retyped(array, dtypes.get(name)) for name, array in feeds.items()}


def _read(item: str, names: list[str]) -> Arrays:
    name, equals, path = item.partition("=")
    if equals and not os.path.exists(item):
        (arrays,) = verification().load_feeds(path)
        if len(arrays) != 1:
            raise UsageError(
                "GO701", "the file holds several arrays", where=f"--input {item}", expected="a .npy file"
            )
        return {name: next(iter(arrays.values()))}
    runs = verification().load_feeds(item, inputs=names)
    if len(runs) != 1:
        raise UsageError(
            "GO701",
            f"there are feeds for {len(runs)} runs",
            where=f"--input {item}",
            expected="feeds for one run",
        )
    arrays = dict(runs[0])
    if not item.endswith(".npy") or Path(item).stem in names:
        return arrays
    if len(names) == 1:
        return {names[0]: next(iter(arrays.values()))}
    raise UsageError(
        "GO701",
        "it is not clear which input this file feeds",
        where=f"--input {item}",
        expected=f"NAME={item} with NAME one of {', '.join(names)}",
    )


def _retyped(array: np.ndarray, dtype: str | None) -> np.ndarray:
    """bfloat16 and float8 come out of .npy files as raw bytes; give them their type back."""
    if array.dtype.kind != "V" or not dtype:
        return array
    import ml_dtypes  # noqa: F401  (registers the types with numpy)
    import numpy as np

    wanted = np.dtype(dtype)
    return array.view(wanted) if wanted.itemsize == array.dtype.itemsize else array


def generated(executable: Executable, dims: Mapping[str, int], seed: int) -> Arrays:
    """Generated feeds for `executable`; free dimensions take `dims`, or a small size that it runs."""
    sizes = {**executable.example_sizes(), **dims}
    feeds: Arrays = verification().generate_feeds(executable.model, dims=sizes or None, seed=seed)
    return feeds


def open_executable(output: Any, source: str, **arguments: Any) -> Executable:
    """The executable of an artifact's folder, or of a model compiled now with `arguments`."""
    from graphopt.cli.compile import build
    from graphopt.driver import load_artifact

    return load_artifact(source) if values.is_artifact(source) else build(output, source, **arguments)


def write_npz(path: Path, arrays: Mapping[str, Any]) -> list[str]:
    """Write `arrays` to `path`, whole or not at all; return what was converted on the way.

    Types that .npy files do not know (bfloat16, float8) are written as float32, which holds them exactly.

    Raises:
        OutputError: GO111.
    """
    import numpy as np

    notes: list[str] = []
    scratch: str | None = None
    try:
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.absolute().parent)
        with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, value in _flat(arrays):
                array = np.asarray(value)
                if array.dtype == object:
                    array = array.astype(str)
                elif array.dtype.kind == "V":
                    notes.append(f"{name} was written as float32: .npz files know no {array.dtype.name}")
                    array = array.astype(np.float32)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
        scratch = None
    except OSError as error:
        raise OutputError(
            "GO111", f"the results cannot be written: {error.strerror}", where=str(path)
        ) from error
    finally:
        if scratch is not None:
            os.unlink(scratch)
    return notes


def _flat(arrays: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Sequences become one entry for each element: ``name.0``, ``name.1``."""
    found: list[tuple[str, Any]] = []
    for name, value in arrays.items():
        if isinstance(value, list):
            found.extend((f"{name}.{index}", item) for index, item in enumerate(value))
        else:
            found.append((name, value))
    return found
