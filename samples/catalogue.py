"""Every sample model with the arguments of a static compile and sensible inputs.

`python samples/catalogue.py` lists them; from Python:

for sample in samples():
    graphopt.compile(sample.path, dims=sample.dims, shapes=sample.shapes, constants=sample.constants)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from build_models import GENERATED
from fetch_models import REGISTRY
from fetch_models import fetch as fetch_models

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Sample:
    """A model, how `graphopt compile` would be told to make it static, and what to feed it.

    Attributes:
        dims: `--dim`, sizes of named dimensions.
        shapes: `--shape`, shapes of inputs whose dimensions have no usable names.
        constants: `--constant`, inputs fixed at compile time.
        inputs: input name → the kind of its data (a key of KINDS), its shape and options of that kind.
    """

    name: str
    path: Path
    dims: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, int]
    inputs: dict[str, dict[str, Any]]
    kind: Literal["fetched", "generated"]
    what: str

    def feeds(self, seed: int = 0, dims: Mapping[str, int] | None = None) -> dict[str, Array]:
        """An array for every input of the model as it is in its file, constants included.

        Args:
            seed: chooses the data.
            dims: sizes to use in place of `self.dims`.
        """
        random = np.random.default_rng(seed)
        sizes = {**self.dims, **(dims or {})}
        feeds = {name: np.asarray(value, np.int64) for name, value in self.constants.items()}
        for name, options in self.inputs.items():
            symbolic = options["shape"] if "shape" in options else self.shapes[name]
            shape = tuple(sizes[size] if isinstance(size, str) else size for size in symbolic)
            extra = {key: value for key, value in options.items() if key not in ("kind", "shape")}
            feeds[name] = KINDS[options["kind"]](random, shape, **extra)
        return feeds


def samples(
    names: Iterable[str] | None = None, fetch: bool = True, folder: str | Path = "models"
) -> list[Sample]:
    """The named samples (default: all), in the order of samples/models.toml.

    Args:
        names: which ones; an unknown name is a KeyError.
        fetch: download what is missing in `folder`; without, every path is where the file would be.

    Raises:
        FetchError: a model that has to be downloaded cannot be.
    """
    models = REGISTRY["models"]
    chosen = {name: models[name] for name in (models if names is None else names)}
    outside = [name for name, model in chosen.items() if "wheel" in model]
    if fetch:
        paths = fetch_models(outside, folder)
    else:
        paths = {name: Path(folder, f"{name}.onnx") for name in outside}
    return [
        Sample(
            name=name,
            path=paths[name] if name in paths else GENERATED / f"{name}.onnx",
            dims=dict(model.get("dims", {})),
            shapes={key: tuple(shape) for key, shape in model.get("shapes", {}).items()},
            constants=dict(model.get("constants", {})),
            inputs=model["feeds"],
            kind="fetched" if name in paths else "generated",
            what=model["what"],
        )
        for name, model in chosen.items()
    ]


# --- kinds of data ------------------------------------------------------------------------------------------


# Letters of 5 by 7 pixels, a number per row: E F H I L O T U.
GLYPHS = (
    (31, 16, 16, 30, 16, 16, 31),
    (31, 16, 16, 30, 16, 16, 16),
    (17, 17, 17, 31, 17, 17, 17),
    (14, 4, 4, 4, 4, 4, 14),
    (16, 16, 16, 16, 16, 16, 31),
    (14, 17, 17, 17, 17, 17, 14),
    (31, 4, 4, 4, 4, 4, 4),
    (17, 17, 17, 17, 17, 17, 14),
)


def _image(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Lines of dark letters on a light, slightly noisy page: float32 [N, C, H, W] in [-1, 1].

    A detector finds text in it, so that results are no near-zeros in which errors would not show.
    """
    count, _, height, width = shape
    scale = min(max(height // 9, 1), 4)
    bits = (5, 4, 3, 2, 1, 0)  # the sixth is the gap between letters
    letters = np.array([[[row >> bit & 1 for bit in bits] for row in glyph] for glyph in GLYPHS])
    ink = np.zeros((count, 1, height, width))
    for page in ink[:, 0]:
        for top in range(scale, height - 7 * scale + 1, 14 * scale):
            left = random.integers(scale, max(width // 4, scale + 1))
            words = letters[random.integers(len(GLYPHS), size=(width - left) // (6 * scale))]
            line = np.concatenate(words, axis=1).repeat(scale, axis=0).repeat(scale, axis=1)
            page[top : top + 7 * scale, left : left + line.shape[1]] = line
    return np.clip(0.9 - 1.7 * ink + random.normal(0, 0.03, shape), -1, 1).astype(np.float32)


def _audio(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A voiced sound at 16 kHz: float32 [N, T], each row 512 samples later than the one before."""
    step = 512
    time = (np.arange(shape[0])[:, None] * step + np.arange(shape[1])) / 16000
    pitch = random.uniform(90, 220)
    voice = sum(np.sin(2 * np.pi * pitch * k * time + random.uniform(0, 6.28)) / k for k in range(1, 20))
    noise = random.normal(0, 0.01, shape)
    return (0.15 * voice * (1 + 0.5 * np.sin(2 * np.pi * 4 * time)) + noise).astype(np.float32)


def _bytes(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A text of random length in printable ASCII; 256 where it is over: int32 in 0…256."""
    text = random.integers(32, 127, shape)
    length = random.integers(shape[-1] // 2, shape[-1])
    return np.where(np.arange(shape[-1]) < length, text, 256).astype(np.int32)


def _state(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """What a recurrent network may have come to: float32 in [-0.5, 0.5]."""
    return random.uniform(-0.5, 0.5, shape).astype(np.float32)


def _normal(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Standard normal float32."""
    return random.standard_normal(shape, np.float32)


def _indices(random: np.random.Generator, shape: tuple[int, ...], below: int | list[int]) -> Array:
    """int64 in 0…below-1; a list of bounds applies to the last axis."""
    return random.integers(0, below, shape, np.int64)


def _mask(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """int64 ones, then zeros: the first row full, the others of random length, at least 1."""
    lengths = random.integers(1, shape[-1], (*shape[:-1], 1), endpoint=True)
    lengths[0] = shape[-1]
    return (np.arange(shape[-1]) < lengths).astype(np.int64)


KINDS: dict[str, Callable[..., Array]] = {
    "image": _image,
    "audio": _audio,
    "bytes": _bytes,
    "state": _state,
    "normal": _normal,
    "indices": _indices,
    "mask": _mask,
}


if __name__ == "__main__":
    for each in samples(fetch=False):
        print(f"{each.name:20} {each.kind:10} {each.what}")
