"""Cases of the backend suite with one size made free: what is proven safe to pad holds beside garbage.

A case has fixed sizes. Here each size of an input, alone or with the equal ones of other inputs, becomes a free
dimension; where the proof succeeds the model runs with and without padding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir
import pytest
from backend_cases import Case, all_cases, assert_similar
from checking import run_onnxruntime
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.analysis.padding import prove_padding
from graphopt.errors import GraphoptError
from graphopt.ir import Model
from graphopt.ir.io import load
from graphopt.runtime.buckets import cut

CASES_PER_OPERATOR = 4
MORE = 2
LARGEST_GRAPH = 20
Places = frozenset[tuple[str, int]]


def chosen_cases() -> dict[str, list[Case]]:
    """A few node cases with tensors for inputs, by the operator of their first node."""
    found: dict[str, list[Case]] = defaultdict(list)
    for case in all_cases():
        model = case.test.model
        if case.kind != "node" or model is None or len(model.graph.node) > LARGEST_GRAPH:
            continue
        tensors = all(value.type.HasField("tensor_type") for value in model.graph.input)
        if tensors:
            found[model.graph.node[0].op_type].append(case)
    return {op: cases[:: -(-len(cases) // CASES_PER_OPERATOR)] for op, cases in found.items()}


CASES = chosen_cases()
NOT_PROVEN = set(
    """
    Adagrad Adam AffineGrid Bernoulli BitCast BlackmanWindow CausalConvWithState CenterCropPad Compress
    ConstantOfShape DFT DeformConv Det DynamicQuantizeLinear Einsum EyeLike FlexAttention HammingWindow
    HannWindow If ImageDecoder LabelEncoder LinearAttention Loop MaxUnpool MelWeightMatrix Momentum
    NegativeLogLikelihoodLoss NonMaxSuppression NonZero OptionalGetElement OptionalHasElement
    RandomUniformLike Range RegexFullMatch Resize RoiAlign Size SoftmaxCrossEntropyLoss SplitToSequence
    StringConcat StringNormalizer StringSplit SwiGLU TensorScatter TfIdfVectorizer Unique Upsample
    """.split()
)
"""Operators of whose cases here nothing is proven: there is no rule, or no size that could be a batch."""


def places_of(model: onnx.ModelProto) -> Iterator[tuple[Places, int]]:
    """Sets of input axes that could be one dimension, with their size."""
    axes = [
        (value.name, axis, dim.dim_value)
        for value in model.graph.input
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        if dim.dim_value
    ]
    seen = set()
    for name, axis, size in axes:
        equal = [(n, a) for n, a, s in axes if s == size]
        for places in ([(name, axis)], [(n, a) for n, a in equal if a == axis], equal):
            if frozenset(places) not in seen:
                seen.add(frozenset(places))
                yield frozenset(places), size


def freed(model: onnx.ModelProto, places: Places, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """`model` with these axes of size N; other inputs of whole numbers become constants."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    kept = []
    for value in changed.graph.input:
        if feeds[value.name].dtype.kind in "iu" and all(name != value.name for name, _ in places):
            changed.graph.initializer.append(numpy_helper.from_array(feeds[value.name], value.name))
            continue
        kept.append(value)
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if (value.name, axis) in places:
                dim.dim_param = "N"
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    for value in changed.graph.output:
        value.type.tensor_type.ClearField("shape")
    return changed


def grown(feeds: dict[str, np.ndarray], places: Places) -> dict[str, np.ndarray]:
    """`feeds` with garbage behind them along these axes; whole numbers are taken from those there are."""
    generator = np.random.default_rng(0)
    found = dict(feeds)
    for name, axis in sorted(places):
        array = found[name]
        shape = (*array.shape[:axis], MORE, *array.shape[axis + 1 :])
        numbers = np.array([np.nan, np.inf, -1e4]) if array.dtype.kind == "f" else array.reshape(-1)
        rows = generator.choice(numbers, shape).astype(array.dtype)
        found[name] = np.concatenate([array, rows], axis=axis)
    return found


def run(model: Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs under ONNX Runtime, or onnx.reference where that does not run."""
    try:
        return run_onnxruntime(model, feeds)
    except Exception:  # its errors have no common base
        names = [value.name or "" for value in model.graph.outputs]
        return dict(
            zip(names, ReferenceEvaluator(onnx_ir.to_proto(model)).run(names, dict(feeds)), strict=True)
        )


def check_case(case: Case) -> int:
    """How many proofs of the case held; fails where one did not."""
    held = 0
    assert case.test.model is not None
    model = case.test.model
    inputs, _ = next(case.data_sets(model))
    feeds = dict(zip((value.name for value in model.graph.input), inputs, strict=False))
    for places, size in places_of(model):
        if any(feeds[name].dtype.kind not in "fiub" for name, _ in places):
            continue
        try:
            freed_model = load(freed(model, places, feeds))
            proof = prove_padding(freed_model, "N", size + MORE)
        except GraphoptError:
            continue
        given = {value.name or "": feeds[value.name or ""] for value in freed_model.graph.inputs}
        try:
            wanted, found = run(freed_model, given), run(freed_model, grown(given, places))
        except Exception:  # neither has a kernel, or runs on such numbers: that is no wrong answer
            continue
        for name, expected in wanted.items():
            result = found[name]
            for axis in proof.outputs.get(name, ()):
                result = cut(result, axis, {"N": size + MORE}, "N", size)
            assert_similar(result, expected, 1e-5, 1e-6)
        held += 1
    return held


@pytest.mark.filterwarnings("ignore:::onnx.reference")  # of NaN and overflows, which are there on purpose
@pytest.mark.parametrize("op", sorted(CASES))
def test_what_is_proven_of_a_case_holds(op: str) -> None:
    held = sum(check_case(case) for case in CASES[op])
    assert bool(held) == (op not in NOT_PROVEN), held
