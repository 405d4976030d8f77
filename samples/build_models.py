"""Write the generated sample models: `python samples/build_models.py` fills samples/generated/,
`python samples/build_models.py FOLDER` another folder.

Architectures that people export from PyTorch, with small random weights and no PyTorch needed. Every run
writes the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
from model_builders import bert_tiny, gpt_tiny, mnist_cnn, recommender

BUILDERS = {
    "mnist-cnn": mnist_cnn.build,
    "bert-tiny": bert_tiny.build,
    "gpt-tiny": gpt_tiny.build,
    "recommender": recommender.build,
}
GENERATED = Path(__file__).with_name("generated")


def build(name: str) -> onnx.ModelProto:
    """The generated model `name`, a key of BUILDERS."""
    return BUILDERS[name]()


def main(folder: Path = GENERATED) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in BUILDERS:
        path = folder / f"{name}.onnx"
        path.write_bytes(build(name).SerializeToString(deterministic=True))
        print(path)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
