"""What a model of the zoo is: a module, its inputs at a size, and the axes that may be dynamic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Entry:
    """A model to export.

    Attributes:
        name: Its file name, without the exporter's suffix.
        build: Makes the module; called under a fixed seed.
        inputs: The inputs at a batch and a size (a sequence length or an image's side).
        outputs: Names for the module's outputs, in order.
        dynamic: The dynamic axes of each input, by name.
        sizes: The size of the first and of the second feeds.
        resize: Whether the size is dynamic too; only the batch is otherwise.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], Inputs]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)
    sizes: tuple[int, int] = (32, 48)
    resize: bool = True


class Named(nn.Module):
    """A transformers model called with tensors by position and giving the chosen outputs as a tuple."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], **fixed: Any):
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.outputs = outputs
        self.fixed = fixed

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.inputs, tensors, strict=True))
        result = self.model(**given, **self.fixed)
        return tuple(getattr(result, name) for name in self.outputs)


def tokens(batch: int, length: int, vocabulary: int = 1000) -> Tensor:
    """Seeded token ids."""
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    return torch.randint(3, vocabulary - 3, (batch, length), generator=generator)


def padding_mask(batch: int, length: int) -> Tensor:
    """A mask of int64 whose rows end in a few zeros, the first row in none."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    for row in range(batch):
        if row or batch == 1:
            mask[row, length - 2 - row :] = 0
    return mask


def noise(*shape: int) -> Tensor:
    """Seeded values of a normal distribution."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def unsettle(module: nn.Module) -> None:
    """Moves every parameter away from its initial constant, as training does.

    A bias of zeros or a scale of ones would let an optimiser drop what no trained model lets it drop.
    """
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                scale = 0.1 if parameter.ndim <= 1 else 0.02
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                buffer.mul_(torch.rand(buffer.shape, generator=generator) + 0.5)
