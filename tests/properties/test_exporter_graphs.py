"""What exporters write keeps its answers: every preset, every pass, shuffled passes, and compiled."""

from __future__ import annotations

import functools
import random
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from checking import check_interface

import graphopt
from graphopt import passes
from graphopt.errors import LoweringError, UnsupportedError
from graphopt.ir.check import check_model
from graphopt.ir.io import load
from graphopt.ir.text import canonical
from graphopt.transform import Pipeline

sys.path.insert(0, str(Path(__file__).parent))
from exporter_graphs import Answers, Case, failed_in_onnxruntime
from exporter_odd import OddCase
from specified import is_specified, unwritten

Feeds = Mapping[str, np.ndarray]
PRESETS = ((None, 0), (None, 1), (None, 2), (None, 3), ("cuda", 2), ("xla-cpu", 2), ("tpu", 3), ("cpu", 2))
LEFT_OUT = (
    "narrow-float",
    "bind-dims",
    "quantize",
    "quantize-weights",
    "prune",
)  # they need options, or lose precision
KINDS: dict[str, Callable[[int], Any]] = {"exporters": Case, "odd": OddCase}
PASSES = [name for name in passes.names() if name not in LEFT_OUT]


def nudged(feeds: Feeds, seed: int) -> dict[str, np.ndarray]:
    """The feeds with every float moved in its last digits, up or down."""
    rng = np.random.default_rng(seed)
    return {
        k: np.asarray(
            v * (1 + rng.choice([-1, 1], v.shape) * (2e-3 if v.dtype == np.float16 else 5e-6)), v.dtype
        )
        if v.dtype.kind == "f"
        else v
        for k, v in feeds.items()
    }


class Expected:
    """What the original model gives for one set of feeds, and what it gives when they move a little.

    Attributes:
        left_open: outputs that depend on memory which nobody wrote.
    """

    def __init__(self, answers: Answers, feeds: Feeds) -> None:
        self.feeds = dict(feeds)
        self.outputs = answers(self.feeds)
        self.left_open = unwritten(answers, self.feeds)
        self.near = [answers(nudged(feeds, seed)) for seed in range(6)]

    def check(self, actual: Mapping[str, Any], context: object, left_out: Collection[str] = ()) -> None:
        """Same names, order, types and shapes; same numbers, but where they hang on the last digits."""
        assert list(actual) == list(self.outputs), context
        for name in self.outputs:
            assert name in left_out or self.agrees(name, actual[name]), (
                context,
                name,
                actual[name],
                self.outputs[name],
            )

    def agrees(self, name: str, actual: Any) -> bool:
        """Whether `actual` is what the output `name` is to be, as far as that is known."""
        found, wanted = np.asarray(actual), self.outputs[name]
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            return False
        if name in self.left_open or agree(found, wanted):
            return True
        return not all(n[name].shape == wanted.shape and agree(n[name], wanted) for n in self.near)


def agree(found: np.ndarray, wanted: np.ndarray) -> bool:
    if wanted.dtype.kind != "f":
        return np.array_equal(found, wanted)
    tolerance = 4e-3 if wanted.dtype == np.float16 else 2e-4
    scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-3))
    return np.allclose(
        found.astype(float), wanted.astype(float), tolerance, tolerance / 10 * scale, equal_nan=True
    )


@functools.lru_cache(maxsize=2)
def prepare(seed: int, make: Callable[[int], Any]) -> tuple[onnx.ModelProto, list[Expected]]:
    """The model of `seed`, and what it gives at each size that it takes (none: ONNX Runtime refuses it whole)."""
    case = make(seed)
    try:
        onnx.checker.check_model(case.proto, full_check=True)
    except onnx.shape_inference.InferenceError as error:
        pytest.skip(f"onnx's own inference refuses it: {error}")
    expected: list[Expected] = []
    try:
        answers = Answers(case.proto)
    except Exception as error:
        if not failed_in_onnxruntime(error):
            raise
        return case.proto, expected
    for feeds in case.every:
        try:
            one = Expected(answers, feeds)
        except Exception as error:  # the constants in it fix the size
            if not failed_in_onnxruntime(error):
                raise
        else:
            if is_specified(case.proto, feeds):
                expected.append(one)
    return case.proto, expected


@functools.lru_cache(maxsize=2)
def original(seed: int, make: Callable[[int], Any]) -> graphopt.Model:
    """The model of `seed` in canonical form; nobody may change it."""
    return load(prepare(seed, make)[0])


@functools.lru_cache(maxsize=len(PRESETS))
def optimised(seed: int, make: Callable[[int], Any], target: str | None, level: int) -> onnx.ModelProto:
    """What a preset makes of the model of `seed`, with the same interface and valid."""
    proto, _ = prepare(seed, make)
    model = graphopt.optimize(proto, target, level).model
    check_interface(original(seed, make), model)
    return check_valid(model)


def check_valid(model: graphopt.Model) -> onnx.ModelProto:
    check_model(model)
    proto = onnx_ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def check_answers(expected: list[Expected], model: onnx.ModelProto, context: object) -> None:
    answers = Answers(model)
    for one in expected:
        one.check(answers(one.feeds), context)


@pytest.mark.parametrize(
    ("seed", "make"), [*((s, Case) for s in range(25)), *((s, OddCase) for s in range(12))]
)
def test_presets(seed: int, make: Callable[[int], Any]) -> None:
    _, expected = prepare(seed, make)
    answered = set()
    for target, level in PRESETS:
        model = optimised(seed, make, target, level)
        if (data := model.SerializeToString()) not in answered:  # presets often make the same of it
            check_answers(expected, model, (seed, target, level))
            answered.add(data)


@pytest.mark.parametrize(
    ("seed", "make"), [*((s, Case) for s in range(400, 406)), *((s, OddCase) for s in range(400, 404))]
)
def test_composes_with_onnxruntime(seed: int, make: Callable[[int], Any]) -> None:
    """With all optimisations of ONNX Runtime on, the optimised model answers as the original does without.

    Outputs that they change of the original are left out, and those that DoubleQDQPairsRemover alone
    changes: it makes one pair of two that quantise differently, which is not exact, wherever it finds them.
    """
    proto, expected = prepare(seed, make)
    changed = changed_by_onnxruntime(proto, expected)
    if changed is None:
        pytest.skip("ONNX Runtime's own optimisations fail on the original")
    for target, level in ((None, 2), ("cpu", 2)):
        model = optimised(seed, make, target, level)
        answers, exact = optimised_by_onnxruntime(model), None
        for one, names in zip(expected, changed, strict=True):
            found = answers(one.feeds)
            if any(name not in names and not one.agrees(name, found[name]) for name in one.outputs):
                exact = exact or Answers(model, True, ("DoubleQDQPairsRemover",))
                found = exact(one.feeds)
            one.check(found, (seed, target, level, "composed"), names)


def optimised_by_onnxruntime(model: onnx.ModelProto) -> Answers:
    """The model with all of ONNX Runtime's optimisations, but for one where that makes an invalid model.

    Pad_Fusion puts a Pad into the pool behind it even where it is not smaller than the window, which pools
    refuse; there, the rest are on.
    """
    try:
        return Answers(model, True)
    except Exception as error:
        if not failed_in_onnxruntime(error) or "Pad should be smaller than kernel" not in str(error):
            raise
        return Answers(model, True, ("Pad_Fusion",))


def changed_by_onnxruntime(model: onnx.ModelProto, expected: list[Expected]) -> list[set[str]] | None:
    """The outputs that ONNX Runtime's optimisations change, for each set of feeds; None where they fail."""
    try:
        answers = Answers(model, True)
        found = [answers(one.feeds) for one in expected]
    except Exception as error:
        if not failed_in_onnxruntime(error):
            raise
        return None
    return [
        {name for name, value in outputs.items() if not one.agrees(name, value)}
        for one, outputs in zip(expected, found, strict=True)
    ]


@pytest.mark.parametrize(
    ("seed", "make"), [*((s, Case) for s in range(100, 115)), *((s, OddCase) for s in range(100, 106))]
)
def test_passes_alone_and_shuffled(seed: int, make: Callable[[int], Any]) -> None:
    _, expected = prepare(seed, make)
    shuffled = random.Random(seed).sample(PASSES, len(PASSES))
    untouched = without_fresh_names(original(seed, make))
    for text in (*PASSES, ",".join(shuffled), ",".join([*shuffled[:8], *shuffled[:4]])):
        model, report = Pipeline(text).run(original(seed, make).clone())
        if any(record.modified for record in report.passes):
            check_answers(expected, check_valid(model), (seed, text))
        else:
            assert without_fresh_names(model) == untouched, (seed, text)


def without_fresh_names(model: graphopt.Model) -> str:
    """The text of `model`, whatever the names are that inference gives to unknown dimensions."""
    return re.sub(r"\b_d\d+\b", "?", canonical(model))


@pytest.mark.parametrize("seed", range(6))
def test_unknown_operators_pass_untouched(seed: int) -> None:
    """Operators of a domain that nobody knows: each stays once, with its attributes, in its place among the others."""
    proto = OddCase(seed).proto
    rng = random.Random(seed)
    graph = proto.graph
    kept = [n for n in graph.node if not n.op_type.startswith("Odd")]
    for index, node in enumerate(rng.sample(kept, min(3, len(kept)))):
        result = node.output[0]
        node.output[0] = f"before{index}"
        position = list(graph.node).index(node) + 1
        custom = onnx.helper.make_node(
            "Twist", [f"before{index}", ""], [result, f"more{index}"], domain="org.odd", k=index
        )
        graph.node.insert(position, custom)
    proto.opset_import.append(onnx.helper.make_opsetid("org.odd", 3))
    before = load(proto)
    for target, level in PRESETS:
        model = graphopt.optimize(proto, target, level).model
        check_interface(before, model)
        check_model(model)
        twists = [n for n in model.graph.all_nodes() if n.domain == "org.odd"]
        known = {n.attributes["k"].as_int() for n in before.graph.all_nodes() if n.domain == "org.odd"}
        found = [n.attributes["k"].as_int() for n in twists]
        assert len(set(found)) == len(found), (target, level)
        assert set(found) <= known
        assert all(n.inputs[0] is not None and len(n.outputs) >= 1 for n in twists)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize("seed", range(200, 208))
def test_compiled_for_onnxruntime(seed: int, target: str) -> None:
    proto, expected = prepare(seed, Case)
    executable = graphopt.compile(proto, target)
    for one in expected:
        one.check(executable.run(one.feeds), (seed, target))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300, 330))
def test_compiled_for_xla(seed: int) -> None:
    proto, expected = prepare(seed, Case)
    try:
        executable = graphopt.compile(proto, "xla-cpu")
        for one in expected:
            one.check(executable.run(one.feeds), seed)
    except (LoweringError, UnsupportedError) as error:  # data-dependent shapes
        if not error.code.startswith("GO2"):
            raise
