"""Named arrays in one file, of every type that ONNX has, without pickle.

Numpy's archives lose what they do not know: bfloat16 and float8 become anonymous bytes, strings need
pickle, and names may not contain every character. So names and types stand in an index of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 and the float8 types with numpy)
import numpy as np


def write_arrays(path: Path, values: Mapping[str, Any]) -> None:
    """Write arrays, and lists of arrays (sequences), by name."""
    stored: dict[str, np.ndarray] = {}

    def store(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [store(item) for item in value]
        array = np.asarray(value)
        key = f"a{len(stored)}"
        dtype = array.dtype.name
        if array.dtype.kind in "OU":
            dtype, array = "string", array.astype(str)
        elif array.dtype.isbuiltin != 1:  # a type of ml_dtypes, which numpy cannot write
            array = np.array(array, order="C", copy=None).view(f"u{array.dtype.itemsize}")
        stored[key] = array
        return {"key": key, "dtype": dtype}

    index = {name: store(value) for name, value in values.items()}
    with path.open("wb") as file:
        np.savez(file, index=np.array(json.dumps(index)), **stored)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, Any]:
    """What :func:`write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as archive:

        def restore(entry: Any) -> Any:
            if isinstance(entry, list):
                return [restore(item) for item in entry]
            array = archive[entry["key"]]
            if entry["dtype"] == "string":
                return array.astype(object)
            dtype = np.dtype(entry["dtype"])
            return array.view(dtype) if array.dtype != dtype else array

        return {name: restore(entry) for name, entry in json.loads(str(archive["index"])).items()}
