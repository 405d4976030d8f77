"""The values of options: ``x:1x3x224x224``, ``N=8``, ``sr=16000``, and what is wrong with them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphopt.errors import OutputError, UsageError
from graphopt.target import SizeRange

_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def shapes(items: Sequence[str]) -> dict[str, list[int | str]]:
    """``x:1x3xHxW`` by input name. The name ends at the last colon, so that it may hold colons itself."""
    found: dict[str, list[int | str]] = {}
    for item in items:
        name, colon, text = item.rpartition(":")
        if not colon or not name:
            raise _wrong("--shape", item, "NAME:1x3x224x224 or NAME:1,3,224,224")
        _once("--shape", name, found)
        # A dimension's name may hold an x itself (max_len): then commas say where it ends.
        parts = text.split("," if "," in text else "x")
        found[name] = [_dimension(item, part.strip()) for part in parts] if text.strip() else []
    return found


def _dimension(item: str, part: str) -> int | str:
    if part.isascii() and part.isdigit() and int(part) > 0:
        return int(part)
    if _SYMBOL.match(part):
        return part
    raise _wrong("--shape", item, "positive sizes or names, as in x:Nx3x224x224")


def dims(items: Sequence[str]) -> dict[str, int | SizeRange]:
    """``N=8`` or ``N=1:8:32`` by dimension name, for commands that make one program."""
    found: dict[str, int | SizeRange] = {}
    for name, size in bucket_dims(items).items():
        if isinstance(size, list):
            raise UsageError(
                "GO701",
                "several sizes of one dimension (buckets) are for compile, run and plan",
                where=f"--dim {name}={','.join(map(str, size))}",
                expected=f"one size, as in {name}={size[0]}",
            )
        found[name] = size
    return found


def bucket_dims(items: Sequence[str]) -> dict[str, int | SizeRange | list[int]]:
    """``N=8``, ``N=1,8,32`` (a program for each) or ``N=1:8:32`` (a range) by dimension name."""
    found: dict[str, int | SizeRange | list[int]] = {}
    for item in items:
        name, equals, text = item.rpartition("=")
        if not equals or not name:
            raise _wrong("--dim", item, "NAME=8")
        _once("--dim", name, found)
        ranged = ":" in text
        parts = [part.strip() for part in text.split(":" if ranged else ",")]
        if not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts) or (ranged and len(parts) != 3):
            raise _wrong("--dim", item, "a positive size, several (1,8,32), or min:opt:max")
        sizes = [int(p) for p in parts]
        if ranged:
            if sizes != sorted(sizes):
                raise _wrong("--dim", item, "min:opt:max in ascending order")
            found[name] = SizeRange(*sizes)
        else:
            found[name] = sizes[0] if len(sizes) == 1 else sizes
    return found


def fixed_dims(items: Sequence[str]) -> dict[str, int]:
    """``N=8`` by dimension name, for commands that know no ranges."""
    found = dims(items)
    for name, size in found.items():
        if isinstance(size, tuple):
            raise _wrong("--dim", f"{name}={':'.join(map(str, size))}", "one size")
    return {name: size for name, size in found.items() if isinstance(size, int)}


def several_dims(items: Sequence[str]) -> dict[str, list[int]]:
    """``N=8`` or ``N=1,8,32`` by dimension name, for commands that compare sizes."""
    found: dict[str, list[int]] = {}
    for name, sizes in bucket_dims(items).items():
        if isinstance(sizes, SizeRange):
            raise _wrong("--dim", f"{name}={':'.join(map(str, sizes))}", "NAME=8 or NAME=1,8,32")
        found[name] = [sizes] if isinstance(sizes, int) else sizes
    return found


def constants(items: Sequence[str]) -> dict[str, Any]:
    """``sr=16000``, ``mask=[1,0]``, ``flag=true`` or ``w=@file.npy`` by input name."""
    found: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise _wrong("--constant", item, "NAME=VALUE")
        _once("--constant", name, found)
        found[name] = (
            array_file(text[1:], f"--constant {name}") if text.startswith("@") else _literal(item, text)
        )
    return found


def _literal(item: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong("--constant", item, "a number, true, false, a list like [1,2], or @file.npy") from error
    if not _is_numeric(value):
        raise _wrong("--constant", item, "a number, true, false, a list like [1,2], or @file.npy")
    return value


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_numeric(v) for v in value)
    return isinstance(value, (bool, int, float))


def array_file(path: str, where: str) -> Any:
    """The array in a .npy file, memory-mapped. Raises UsageError (GO701) when there is none."""
    import numpy as np

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            "GO701", f"the array cannot be read: {error}", where=where, found=path, expected="a .npy file"
        ) from error


def level(value: int) -> int:
    """An optimisation level. Raises UsageError (GO701) unless it is 0 to 3."""
    if value not in range(4):
        raise UsageError(
            "GO701", "unknown optimisation level", where="-O", found=value, expected="0, 1, 2 or 3"
        )
    return value


def pipeline_settings(
    number: int,
    shape: Sequence[str],
    dim: Sequence[str],
    constant: Sequence[str],
    precision: str | None,
    keep_fp32: str | None,
) -> dict[str, Any]:
    """What commands that look into a pipeline pass on to it: -O `number`, the sizes, and the precision."""
    return {
        "level": level(number),
        "shapes": shapes(shape),
        "dims": fixed_dims(dim),
        "constants": constants(constant),
        "precision": precision,
        "keep_fp32": keep_fp32,
    }


def default_folder(source: str, target: object) -> Path:
    """Where an artifact goes when nobody says: ``mnist.tpu-v5e`` in the current folder."""
    return Path(f"{file_stem(source)}.{re.sub(r'[^A-Za-z0-9._-]+', '-', str(target))}")


def file_stem(source: str) -> str:
    """The name of the file `source` without its suffix, with characters that any shell takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).strip("-.") or "model"


def heading(source: str) -> str:
    """The name of the file or folder `source`, for a title."""
    return Path(source).name or source


def is_artifact(source: str) -> bool:
    """Whether `source` means an artifact: a folder that is one, or that holds no model either."""
    folder = Path(source)
    return folder.is_dir() and ((folder / "manifest.json").exists() or not any(folder.glob("*.onnx")))


def check_output_file(path: str | os.PathLike[str], *, source: str | None = None) -> Path:
    """`path`, after a look at whether a file can be written there: before work starts, not after.

    Raises OutputError (GO111): its folder is missing or not writable, it is no regular file, or it
    is `source`.
    """
    target = Path(path)
    problem = None
    parent = target.absolute().parent
    if target.is_dir():
        problem = "the output is a folder"
    elif os.path.lexists(target) and not target.is_file():
        problem = "the output exists and is no regular file"
    elif not parent.is_dir():
        problem = "the output's folder does not exist"
    elif not os.access(target if target.exists() else parent, os.W_OK):
        problem = "the output cannot be written"
    elif (
        source is not None and target.exists() and os.path.exists(source) and os.path.samefile(target, source)
    ):
        problem = "the output is the input"
    if problem is not None:
        raise OutputError("GO111", problem, where=str(target), next_step="Choose another place with -o.")
    return target


def _wrong(flag: str, found: str, expected: str) -> UsageError:
    return UsageError(
        "GO701", f"{flag} cannot be understood", where=flag, found=repr(found), expected=expected
    )


def _once(flag: str, name: str, found: dict[str, Any]) -> None:
    if name in found:
        raise UsageError("GO701", f"{flag} is given twice for {name!r}", where=flag)
