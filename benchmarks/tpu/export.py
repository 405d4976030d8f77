"""Exports the models that ``benchmarks/tpu`` compares, with random weights, from their usual PyTorch sources.

    python benchmarks/tpu/export.py FOLDER [--only bert,gpt2,resnet] [--layers 2] [--exporter dynamo]

Needs ``pip install 'graphopt[zoo]'``; fetches nothing. A file is ``NAME-LAYERS-EXPORTER.onnx``.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import torch
import transformers
from torch import Tensor, nn

BATCH, LENGTH, SIDE = 8, 128, 224
OPSET = {"dynamo": 18, "script": 17}
Made = tuple[nn.Module, dict[str, Tensor], tuple[str, ...]]


class Flat(nn.Module):
    """A transformers model that takes tensors by position and gives the chosen outputs as a tuple."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], **fixed: Any):
        super().__init__()
        self.model, self.inputs, self.outputs, self.fixed = model, inputs, outputs, fixed

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        result = self.model(**dict(zip(self.inputs, tensors, strict=True)), **self.fixed)
        return tuple(getattr(result, name) for name in self.outputs)


def _ids(below: int) -> Tensor:
    return torch.randint(0, below, (BATCH, LENGTH))


def bert(layers: int | None) -> Made:
    """BERT-base with its pooler, as in transformers."""
    model = transformers.BertModel(transformers.BertConfig(num_hidden_layers=layers or 12))
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[:, -3:] = 0
    feeds = {"input_ids": _ids(30522), "attention_mask": mask, "token_type_ids": _ids(2)}
    outputs = ("last_hidden_state", "pooler_output")
    return Flat(model, tuple(feeds), outputs), feeds, outputs


def gpt2(layers: int | None) -> Made:
    """GPT-2 small with its language-model head, as in transformers."""
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=layers or 12))
    feeds = {"input_ids": _ids(50257)}
    return Flat(model, tuple(feeds), ("logits",), use_cache=False), feeds, ("logits",)


def resnet(layers: int | None) -> Made:
    """ResNet-50 (strides in the 3x3 convolutions), as in transformers."""
    depths = [min(depth, layers or depth) for depth in (3, 4, 6, 3)]
    config = transformers.ResNetConfig(depths=depths, num_labels=1000)
    feeds = {"pixel_values": torch.randn(BATCH, 3, SIDE, SIDE)}
    model = transformers.ResNetForImageClassification(config)
    return Flat(model, tuple(feeds), ("logits",)), feeds, ("logits",)


MODELS: dict[str, Callable[[int | None], Made]] = {"bert": bert, "gpt2": gpt2, "resnet": resnet}


def unsettle(module: nn.Module) -> None:
    """Move scales, biases and statistics away from ones and zeros, which a compiler could drop."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(torch.rand(buffer.shape) + 0.5)
            elif name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape) * 0.1)


def export(name: str, layers: int | None, exporter: str, folder: Path) -> Path:
    """Write the model, unless it is there, and return its path."""
    path = folder / f"{name}-{layers or 'full'}-{exporter}.onnx"
    if path.exists():
        return path
    torch.manual_seed(0)
    module, feeds, outputs = MODELS[name](layers)
    unsettle(module.eval())
    draft = folder / f".{path.name}"
    options: dict[str, Any] = {"input_names": list(feeds), "output_names": list(outputs)}
    if exporter == "dynamo":
        options.update(dynamo=True, external_data=False, verbose=False)
    else:
        options.update(dynamo=False)
    with torch.no_grad():
        torch.onnx.export(module, tuple(feeds.values()), str(draft), opset_version=OPSET[exporter], **options)
    draft.replace(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(MODELS), help="names of models, separated by commas")
    parser.add_argument("--layers", type=int, help="fewer layers (ResNet: at most so many blocks in a stage)")
    parser.add_argument("--exporter", choices=sorted(OPSET), default="dynamo")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.only.split(","):
        print(export(name, arguments.layers, arguments.exporter, arguments.folder))


if __name__ == "__main__":
    main()
