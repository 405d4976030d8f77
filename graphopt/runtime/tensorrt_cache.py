"""Where TensorRT's engines and timings are kept: by what they were made of, and not with the model.

An engine holds machine code, so one that came with a stranger's artifact is not for loading. The key is
the content of the model, the provider's options, the version of ONNX Runtime and the GPUs: what was made
by or for another one is never found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt import cache
from graphopt.platforms import onnxruntime_version

FOLDER = "tensorrt"
_CHUNK = 1 << 22


def engine_folder(model: Path | bytes, options: Mapping[str, str], devices: tuple[str, ...]) -> Path:
    """The folder for the engines of `model`, made if it is not there.

    Args:
        model: a file, whose external data lies beside it as ``NAME.data``, or a serialized model.
        options: of the provider.
        devices: the names of the GPUs.
    """
    digest = hashlib.sha256()
    if isinstance(model, bytes):
        digest.update(model)
    else:
        for path in (model, model.with_name(model.name + ".data")):
            if path.is_file():
                _add(digest, path)
    described = json.dumps([sorted(options.items()), onnxruntime_version(), list(devices)])
    digest.update(described.encode())
    folder = cache.default_folder() / FOLDER / digest.hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _add(digest: Any, path: Path) -> None:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
