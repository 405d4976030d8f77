"""Quantised models for the zoo, made from what export.py has made, by ONNX Runtime's tools.

    python benchmarks/zoo/quantize.py FOLDER

``NAME-qdq.onnx`` is quantised with QuantizeLinear and DequantizeLinear around its operators, calibrated
on its own feeds; ``NAME-int8.onnx`` quantises at run time (MatMulInteger, ConvInteger).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

STATIC = (
    "resnet-script13-static",
    "mobilenetv3-script17-dynamic",
    "bert-script17-dynamic",
    "unet-script17-dynamic",
    "vit-script13-static",
)
DYNAMIC = (
    "bert-script17-dynamic",
    "gpt2-script13-static",
    "t5-encoder-script17-dynamic",
    "lstm-script17-dynamic",
)


class Feeds(CalibrationDataReader):
    """A model's own feeds."""

    def __init__(self, files: list[Path]):
        self._feeds: Iterator[dict[str, np.ndarray]] = iter([dict(np.load(file)) for file in files])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def main() -> None:
    folder = Path(sys.argv[1])
    for name in STATIC + DYNAMIC:
        static = (folder / f"{name}.onnx").exists() and name in STATIC
        for suffix, wanted in (("qdq", static), ("int8", name in DYNAMIC)):
            target = folder / f"{name}-{suffix}.onnx"
            source = folder / f"{name}.onnx"
            if not wanted or target.exists() or not source.exists():
                continue
            feeds = sorted(folder.glob(f"{name}.*npz"))
            draft = folder / f".{target.name}"
            if suffix == "qdq":
                quantize_static(
                    source, draft, Feeds(feeds[-1:]), quant_format=QuantFormat.QDQ, per_channel=True
                )
            else:
                quantize_dynamic(source, draft, weight_type=QuantType.QInt8)
            for file in feeds:
                shutil.copy(file, folder / file.name.replace(name, f"{name}-{suffix}"))
            draft.rename(target)


if __name__ == "__main__":
    main()
