"""Exports small models with random weights: the zoo on which the optimiser is measured.

    python benchmarks/zoo/export.py FOLDER [--only bert,resnet] [--variants dynamo20-static] [--timeout 300]

Needs ``pip install 'graphopt[zoo]'``; fetches nothing. Each model is exported by both exporters of
torch, with static and with dynamic shapes, as ``NAME-EXPORTER-SHAPES.onnx``; ``raw`` is without the
exporter's own folding. Feeds are beside it: ``….npz``, and where shapes are dynamic ``….2.npz`` and
``….3.npz`` at a second and at a very small size. A file appears when it is whole, and a model that is
there already is not made again. Every model runs in a child process, so that one that fails leaves the
others alone; the failures are printed at the end and written to ``FAILURES.txt``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import language
import numpy as np
import onnx
import onnxruntime
import torch
import vision
from entry import Entry, Inputs, unsettle


@dataclass(frozen=True)
class Variant:
    """One way of exporting a model."""

    exporter: str
    opset: int
    dynamic: bool
    raw: bool = False
    """Without the exporter's own folding and clean-up: what other tools' graphs look like."""

    @property
    def suffix(self) -> str:
        return f"{self.exporter}{self.opset}{'raw' * self.raw}-{'dynamic' if self.dynamic else 'static'}"


VARIANTS = [
    Variant("script", 17, True),
    Variant("dynamo", 18, True),
    Variant("script", 13, False),
    Variant("dynamo", 20, False),
    Variant("dynamo", 18, True, raw=True),
    Variant("script", 15, False, raw=True),
]


def zoo() -> list[Entry]:
    """All models; the first of both lists first, as they are the most common."""
    networks, transformers = vision.entries(), language.entries()
    return transformers[:4] + networks[:4] + transformers[4:10] + networks[4:] + transformers[10:]


def feeds_of(session: onnxruntime.InferenceSession, inputs: Inputs) -> dict[str, np.ndarray]:
    """The values of the inputs that the exported graph kept."""
    kept = {each.name for each in session.get_inputs()}
    return {name: value.numpy() for name, value in inputs.items() if name in kept}


def export(entry: Entry, variant: Variant, module: torch.nn.Module, path: Path) -> None:
    """Writes the module to `path` as `variant` says."""
    inputs = entry.inputs(2 if variant.dynamic else 1, entry.sizes[0])
    names = list(inputs)
    common: dict[str, Any] = {
        "input_names": names,
        "output_names": list(entry.outputs),
        "opset_version": variant.opset,
    }
    arguments = tuple(inputs.values())
    if variant.exporter == "script":
        if variant.raw:
            common.update(do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE)
        axes = entry.dynamic if variant.dynamic else None
        torch.onnx.export(module, arguments, str(path), dynamo=False, dynamic_axes=axes, **common)
        return
    shapes: Any = None
    if variant.dynamic:
        shapes = tuple(dict(entry.dynamic.get(name, {})) for name in names)
        shapes = shape_tree(module, shapes)
    common.update(optimize=not variant.raw, external_data=False)
    torch.onnx.export(module, arguments, str(path), dynamo=True, dynamic_shapes=shapes, **common)


def shape_tree(module: torch.nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """`shapes` in the form of the arguments of ``forward``: those that it gathers are one tuple."""
    code = module.forward.__code__
    fixed = code.co_argcount - 1
    gathers = bool(code.co_flags & 0x04)
    return (*shapes[:fixed], shapes[fixed:]) if gathers else shapes


def publish(entry: Entry, variant: Variant, draft: Path, folder: Path) -> list[str]:
    """Checks that the draft runs, then moves it and its feeds into the folder; returns what was wrong."""
    onnx.checker.check_model(str(draft), full_check=False)
    problems = write_feeds(entry, variant, draft, folder)
    os.replace(draft, folder / f"{entry.name}-{variant.suffix}.onnx")
    return problems


def write_feeds(entry: Entry, variant: Variant, model: Path, folder: Path) -> list[str]:
    """Writes the feeds of each size that the model runs at; it has to at the first."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    stem = f"{entry.name}-{variant.suffix}"
    sizes = {"": (2 if variant.dynamic else 1, entry.sizes[0])}
    if variant.dynamic:
        sizes[".2"] = (3, entry.sizes[1] if entry.resize else entry.sizes[0])
        if entry.least is not None:
            sizes[".3"] = (1, entry.least)
    problems = []
    for suffix, (batch, size) in sizes.items():
        feeds = feeds_of(session, entry.inputs(batch, size))
        try:
            session.run(None, feeds)
            np.savez(folder / f"{stem}{suffix}.npz", **feeds)
        except Exception as error:
            if not suffix:
                raise
            problems.append(f"{stem} does not run at batch {batch}, size {size}: {first_line(error)}")
    return problems


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().replace("\n", " ")[:300]


def export_entry(entry: Entry, variants: list[Variant], folder: Path, problems: Any) -> None:
    """Exports one model in every variant; puts what failed on the queue."""
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no ONNX form
    warnings.filterwarnings("ignore")
    for variant in variants:
        stem = f"{entry.name}-{variant.suffix}"
        draft, made = folder / f".{stem}.onnx", folder / f"{stem}.onnx"
        try:
            if made.exists():
                for problem in write_feeds(entry, variant, made, folder):
                    problems.put(problem)
                continue
            torch.manual_seed(0)
            with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
                module = entry.build().eval()
                unsettle(module)
                export(entry, variant, module, draft)
            for problem in publish(entry, variant, draft, folder):
                problems.put(problem)
        except Exception as error:
            problems.put(f"{stem}: {first_line(error)}")
        finally:
            draft.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="names of models, separated by commas")
    parser.add_argument("--variants", help="ways of exporting, such as script17-dynamic, separated by commas")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one model")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    wanted = set(arguments.only.split(",")) if arguments.only else None
    ways = arguments.variants.split(",") if arguments.variants else [each.suffix for each in VARIANTS]
    variants = [each for each in VARIANTS if each.suffix in ways]
    context = multiprocessing.get_context("fork")
    failures = []
    for entry in zoo():
        if wanted is not None and entry.name not in wanted:
            continue
        problems = context.Queue()
        child = context.Process(target=export_entry, args=(entry, variants, arguments.folder, problems))
        child.start()
        child.join(arguments.timeout)
        if child.is_alive():
            child.kill()
            failures.append(f"{entry.name}: not exported within {arguments.timeout:.0f} s")
        elif child.exitcode:
            failures.append(f"{entry.name}: the exporter ended with {child.exitcode}")
        while not problems.empty():
            failures.append(problems.get())
        print(f"{entry.name}: {len(list(arguments.folder.glob(entry.name + '-*.onnx')))} files", flush=True)
    (arguments.folder / "FAILURES.txt").write_text("".join(line + "\n" for line in failures))
    print("\n".join(failures))


if __name__ == "__main__":
    main()
