"""Decision trees on XLA against ONNX Runtime and onnx.reference, on random ensembles."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir
import pytest
from checking import make_model, run_onnxruntime, run_xla
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.errors import UnsupportedError
from graphopt.ir import Model

F32 = np.float32
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


@dataclasses.dataclass
class Forest:
    """A random ensemble in the form of the older operators."""

    attributes: dict[str, list[Any]]
    leaves: list[tuple[int, int]]

    def weights(self, kind: str, ids: list[int], rng: np.random.Generator, low: float = -1) -> dict[str, Any]:
        """For each leaf a weight for each of `ids`."""
        pairs = [(tree, node, i) for tree, node in self.leaves for i in ids]
        return {
            f"{kind}_treeids": [p[0] for p in pairs],
            f"{kind}_nodeids": [p[1] for p in pairs],
            f"{kind}_ids": [p[2] for p in pairs],
            f"{kind}_weights": [float(w) for w in rng.uniform(low, 1, len(pairs)).astype(F32)],
        }


def forest(rng: np.random.Generator, trees: int, depth: int, features: int, modes: tuple[str, ...]) -> Forest:
    rows: list[tuple[int, int, int, float, str, int, int, int]] = []
    leaves = []
    for tree in range(trees):
        count = [0]

        def grow(level: int, tree: int = tree, count: list[int] = count) -> int:
            node, count[0] = count[0], count[0] + 1
            place = len(rows)
            rows.append((tree, node, 0, 0.0, "LEAF", 0, 0, 0))
            if level == depth or (level and rng.uniform() < 0.25):
                leaves.append((tree, node))
                return node
            yes, no = grow(level + 1), grow(level + 1)
            # Quarters, so that the data meets thresholds exactly.
            split = float(rng.integers(-4, 5)) / 4
            mode = str(rng.choice(modes))
            rows[place] = (
                tree,
                node,
                int(rng.integers(features)),
                split,
                mode,
                yes,
                no,
                int(rng.integers(2)),
            )
            return node

        grow(0)
    names = (
        "treeids nodeids featureids values modes truenodeids falsenodeids missing_value_tracks_true".split()
    )
    columns = [list(column) for column in zip(*rows, strict=True)]
    return Forest({f"nodes_{n}": c for n, c in zip(names, columns, strict=True)}, leaves)


def examples(rng: np.random.Generator, count: int, features: int, dtype: Any = F32) -> np.ndarray:
    return (rng.integers(-8, 9, (count, features)) / 4).astype(dtype)


def build(op: str, x: np.ndarray, outputs: int, version: int = 3, **attributes: Any) -> tuple[Model, Any]:
    model, feeds = make_model(
        op, {"x": x}, outputs, domain="ai.onnx.ml", opset=18, domain_version=version, **attributes
    )
    return model, feeds


def run_reference(model: Model, feeds: dict[str, Any]) -> dict[str, Any]:
    names = [v.name or "" for v in model.graph.outputs]
    return dict(zip(names, ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, feeds), strict=True))


def check(op: str, x: np.ndarray, outputs: int = 1, version: int = 3, **attributes: Any) -> None:
    """By ONNX Runtime; the regressor, which has no kernels for integers there, on the same numbers as floats."""
    model, feeds = build(op, x, outputs, version, **attributes)
    integers = x.dtype.kind == "i"
    expected = run_onnxruntime(*build(op, x.astype(F32) if integers else x, outputs, version, **attributes))
    compare(run_xla(model, feeds), expected)


def compare(found: dict[str, Any], expected: dict[str, Any], atol: float = 1e-5) -> None:
    for name, wanted in expected.items():
        assert found[name].dtype == wanted.dtype
        assert found[name].shape == wanted.shape
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=atol, err_msg=name)


@pytest.mark.parametrize("mode", [*MODES, "mixed"])
@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_regressor(mode: str, aggregate: str) -> None:
    rng = np.random.default_rng(len(mode) + len(aggregate))
    grown = forest(rng, 5, 4, 3, MODES if mode == "mixed" else (mode,))
    check(
        "TreeEnsembleRegressor",
        examples(rng, 40, 3),
        aggregate_function=aggregate,
        n_targets=2,
        base_values=[0.5, -1.0],
        **grown.attributes,
        **grown.weights("target", [0, 1], rng),
    )


@pytest.mark.parametrize("dtype", [F32, np.float64, np.int32, np.int64])
def test_types_of_the_input(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    grown = forest(rng, 3, 3, 4, ("BRANCH_LEQ",))
    more = grown.attributes | grown.weights("target", [0], rng)
    check("TreeEnsembleRegressor", examples(rng, 30, 4, dtype), version=1, n_targets=1, **more)


def test_tensors_of_float64() -> None:
    """Thresholds that float32 cannot tell apart."""
    grown = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
    }
    tensors = {
        "nodes_values_as_tensor": numpy_helper.from_array(np.array([1 + 1e-12, 0, 0])),
        "target_weights_as_tensor": numpy_helper.from_array(np.array([1.0, 2.0])),
    }
    x = np.array([[1.0], [1 + 1e-12], [1 + 2e-12]])
    check("TreeEnsembleRegressor", x, n_targets=1, **grown, **tensors)


def test_missing_values_go_where_the_attribute_says() -> None:
    rng = np.random.default_rng(4)
    grown = forest(rng, 6, 4, 3, MODES[:5])
    x = examples(rng, 40, 3)
    x[rng.uniform(size=x.shape) < 0.4] = np.nan
    check("TreeEnsembleRegressor", x, n_targets=1, **grown.attributes, **grown.weights("target", [0], rng))


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("base", [False, True])
def test_classifier(transform: str, classes: int, base: bool) -> None:
    """By the reference; ONNX Runtime takes two classes for one with an opposite, and labels them 0 and 1."""
    rng = np.random.default_rng(classes)
    grown = forest(rng, 4, 3, 3, ("BRANCH_LEQ", "BRANCH_GT"))
    # PROBIT takes probabilities.
    weights = grown.weights("class", list(range(classes)), rng, low=0)
    weights["class_weights"] = [w / 8 for w in weights["class_weights"]]
    more = {"base_values": [0.125, 0.25, 0.0625][:classes]} if base else {}
    model, feeds = build(
        "TreeEnsembleClassifier",
        examples(rng, 30, 3),
        2,
        classlabels_int64s=[7, 3, 5][:classes],
        post_transform=transform,
        **more,
        **grown.attributes,
        **weights,
    )
    found = run_xla(model, feeds)
    # The reference's formula of PROBIT cancels in float32.
    atol = 1e-4 if transform == "PROBIT" else 1e-5
    compare(found, run_reference(model, feeds), atol)
    if classes > 2:
        compare(found, run_onnxruntime(model, feeds), atol)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("given", [0, 1])
def test_two_classes_with_the_weights_of_one(transform: str, positive: bool, given: int) -> None:
    rng = np.random.default_rng(9)
    grown = forest(rng, 4, 3, 3, ("BRANCH_LEQ",))
    weights = grown.weights("class", [given], rng, low=0 if positive else -1)
    if positive:
        weights["class_weights"] = [w / 4 for w in weights["class_weights"]]
    check(
        "TreeEnsembleClassifier",
        examples(rng, 30, 3),
        2,
        classlabels_int64s=[4, 9],
        post_transform=transform,
        **grown.attributes,
        **weights,
    )


@pytest.mark.parametrize("transform", ["SOFTMAX", "SOFTMAX_ZERO", "PROBIT"])
def test_transforms_of_one_sided_weights_are_left_to_the_host(transform: str) -> None:
    rng = np.random.default_rng(1)
    grown = forest(rng, 2, 2, 2, ("BRANCH_LEQ",))
    more = grown.attributes | grown.weights("class", [0], rng)
    model, feeds = build(
        "TreeEnsembleClassifier",
        examples(rng, 4, 2),
        2,
        classlabels_int64s=[0, 1],
        post_transform=transform,
        **more,
    )
    with pytest.raises(UnsupportedError, match="not defined for the weights of one class"):
        run_xla(model, feeds)


def ensemble_5(rng: np.random.Generator, grown: Forest, dtype: Any, targets: int) -> dict[str, Any]:
    """The same trees with the numbering of TreeEnsemble-5: nodes and leaves apart."""
    old = grown.attributes
    rows = list(zip(*(old[f"nodes_{n}"] for n in ("treeids", "nodeids", "modes")), strict=True))
    inner = {(t, n): i for i, (t, n) in enumerate((t, n) for t, n, m in rows if m != "LEAF")}
    leaves = {pair: i for i, pair in enumerate(grown.leaves)}
    places = [i for i, (_, _, mode) in enumerate(rows) if mode != "LEAF"]
    made: dict[str, Any] = {
        "n_targets": targets,
        "tree_roots": [inner[t, 0] for t in sorted({r[0] for r in rows})],
    }
    for side in ("true", "false"):
        children = [(rows[i][0], old[f"nodes_{side}nodeids"][i]) for i in places]
        made[f"nodes_{side}leafs"] = [int(c in leaves) for c in children]
        made[f"nodes_{side}nodeids"] = [leaves[c] if c in leaves else inner[c] for c in children]
    made["nodes_featureids"] = [old["nodes_featureids"][i] for i in places]
    made["nodes_missing_value_tracks_true"] = [old["nodes_missing_value_tracks_true"][i] for i in places]
    made["leaf_targetids"] = [int(i) for i in rng.integers(0, targets, len(leaves))]
    tensors = {
        "nodes_modes": np.array([MODES.index(rows[i][2]) for i in places], np.uint8),
        "nodes_splits": np.array([old["nodes_values"][i] for i in places], dtype),
        "leaf_weights": rng.uniform(-1, 1, len(leaves)).astype(dtype),
    }
    return made | {name: numpy_helper.from_array(array) for name, array in tensors.items()}


@pytest.mark.parametrize("aggregate", range(4))
@pytest.mark.parametrize("dtype", [np.float16, F32, np.float64])
def test_ensemble_5(aggregate: int, dtype: Any) -> None:
    rng = np.random.default_rng(11 + aggregate)
    grown = forest(rng, 3, 3, 3, MODES[:5])
    x = examples(rng, 25, 3, dtype)
    attributes = ensemble_5(rng, grown, dtype, targets=1)
    model, feeds = build("TreeEnsemble", x, 1, 5, aggregate_function=aggregate, **attributes)
    expected = run_reference(model, feeds)["y0"].astype(dtype)  # it widens the lowest and the highest
    found = run_xla(model, feeds)["y0"]
    assert found.dtype == dtype
    tolerance = 5e-3 if dtype == np.float16 else 1e-6
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_membership() -> None:
    """Two nodes with sets, the second of which is empty; NaN is in no set."""
    attributes = {
        "n_targets": 1,
        "tree_roots": [0],
        "nodes_featureids": [0, 1],
        "nodes_truenodeids": [0, 1],
        "nodes_trueleafs": [1, 1],
        "nodes_falsenodeids": [1, 2],
        "nodes_falseleafs": [0, 1],
        "leaf_targetids": [0, 0, 0],
    }
    tensors = {
        "nodes_modes": np.array([6, 6], np.uint8),
        "nodes_splits": np.zeros(2, F32),
        "leaf_weights": np.array([1, 2, 3], F32),
        "membership_values": np.array([1.5, 4, np.nan, np.nan], F32),
    }
    attributes |= {name: numpy_helper.from_array(array) for name, array in tensors.items()}
    x = np.array([[1.5, 0], [4, 0], [2, 0], [np.nan, 1]], F32)
    model, feeds = build("TreeEnsemble", x, 1, 5, **attributes)
    np.testing.assert_array_equal(run_xla(model, feeds)["y0"], [[1], [1], [3], [3]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes_truenodeids": [0, 0, 0]}, "cycle"),
        ({"nodes_truenodeids": [9, 0, 0]}, "missing"),
        ({"nodes_featureids": [5, 0, 0]}, "feature is not in the input"),
        ({"nodes_modes": ["BRANCH_ODD", "LEAF", "LEAF"]}, "no such mode"),
        ({"nodes_values": [0.0]}, "differ in length"),
        ({"target_ids": [0, 4]}, "outside the number of targets"),
    ],
    ids=str,
)
def test_malformed_trees(change: dict[str, Any], message: str) -> None:
    attributes: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.0, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
    }
    model, feeds = build(
        "TreeEnsembleRegressor", np.zeros((2, 2), F32), 1, n_targets=1, **(attributes | change)
    )
    with pytest.raises(UnsupportedError, match=message):
        run_xla(model, feeds)
