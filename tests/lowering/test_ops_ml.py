"""Features, linear models and support vector machines of ai.onnx.ml against ONNX Runtime and the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir
import pytest
from checking import make_model, run_onnxruntime, run_xla
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.errors import UnsupportedError

F32 = np.float32
RNG = np.random.default_rng(5)
NUMBERS = [F32, np.float64, np.int32, np.int64]


def normal(*shape: int, dtype: Any = F32) -> np.ndarray:
    return (RNG.normal(size=shape) * 3).astype(dtype)


def weights(*shape: int) -> list[float]:
    return [float(w) for w in RNG.normal(size=shape).astype(F32).reshape(-1)]


def check(
    op: str,
    *inputs: np.ndarray,
    outputs: int = 1,
    version: int = 3,
    oracle: str = "onnxruntime",
    expected: Any = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    **attributes: Any,
) -> None:
    named = {f"x{i}": x for i, x in enumerate(inputs)}
    model, feeds = make_model(op, named, outputs, domain="ai.onnx.ml", domain_version=version, **attributes)
    names = [v.name or "" for v in model.graph.outputs]
    if expected is not None:
        wanted = [expected]
    elif oracle == "onnx":
        wanted = ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, dict(feeds))
    else:
        wanted = list(run_onnxruntime(model, feeds).values())
    found = run_xla(model, feeds)
    for name, value in zip(names, wanted, strict=True):
        assert found[name].shape == value.shape
        if expected is not None or oracle != "onnx":  # the reference keeps the input's type
            assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("single", [False, True])
def test_scaler(dtype: Any, single: bool) -> None:
    count = 1 if single else 4
    check("Scaler", normal(3, 4, dtype=dtype), offset=weights(count), scale=weights(count))


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
@pytest.mark.parametrize("shape", [(5, 4), (4,)])
def test_normalizer(dtype: Any, norm: str, shape: tuple[int, ...]) -> None:
    x = normal(*shape, dtype=dtype)
    if len(shape) == 2:
        x[1] = 0  # of length 0: it stays
    check("Normalizer", x, norm=norm)


@pytest.mark.parametrize("single", [False, True])
def test_imputer(single: bool) -> None:
    x = np.array([[1, np.nan, 3], [np.nan, 1, -0.0]], F32)
    values = [9.5] if single else [7.0, 8.0, 9.0]
    check("Imputer", x, imputed_value_floats=values, replaced_value_float=float("nan"))
    check("Imputer", x, imputed_value_floats=values, replaced_value_float=1.0)
    whole = np.array([[1, -1, 3], [0, 1, -1]], np.int64)
    check("Imputer", whole, imputed_value_int64s=[int(v) for v in values], replaced_value_int64=-1)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("threshold", [0.0, -1.5, 2.0, 1e30, -1e30])
def test_binarizer(dtype: Any, threshold: float) -> None:
    x = np.array([[-3, -2, -1, 0, 1, 2, 3]]).astype(dtype)
    check("Binarizer", x, threshold=threshold, expected=(x > threshold).astype(dtype))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_array_feature_extractor(dtype: Any) -> None:
    check("ArrayFeatureExtractor", normal(3, 5, dtype=dtype), np.array([4, 0, 4], np.int64))
    check("ArrayFeatureExtractor", normal(2, 3, 5, dtype=dtype), np.array([[1, 2]], np.int64))
    check("ArrayFeatureExtractor", normal(5, dtype=dtype), np.array([1], np.int64))


def test_feature_vectorizer() -> None:
    inputs = [normal(3, 4), normal(3, 2), normal(3, 1)]
    check("FeatureVectorizer", *inputs, inputdimensions=[4, 2, 1])
    check("FeatureVectorizer", *inputs, normal(3), inputdimensions=[2, 3, 1, 1], oracle="onnx")


@pytest.mark.parametrize("dtype", NUMBERS)
def test_one_hot_encoder(dtype: Any) -> None:
    x = np.array([[1, 5, -2], [7, 1, 2**31 - 1]]).astype(dtype)
    categories = [5, 1, -2, 2**31 - 1]
    expected = (x.astype(np.int64)[..., None] == np.array(categories)).astype(F32)
    check("OneHotEncoder", x, cats_int64s=categories, expected=expected)
    check("OneHotEncoder", np.array([1.7, -2.5, 0.5], F32), cats_int64s=[1, -2])


@pytest.mark.parametrize(
    ("keys", "values"), [("int64s", "floats"), ("floats", "int64s"), ("floats", "floats")]
)
def test_label_encoder(keys: str, values: str) -> None:
    names = {"int64s": ([3, -1, 8], np.int64), "floats": ([3.5, -1.0, 0.25], F32)}
    listed, dtype = names[keys]
    x = np.array([[*listed, 77], [listed[1], 0, 2, -7]]).astype(dtype)
    attributes = {
        f"keys_{keys}": listed,
        f"values_{values}": [10, 20, 30] if values == "int64s" else [1.5, 2.5, 3.5],
    }
    for version in (2, 4):
        check("LabelEncoder", x, version=version, **attributes)
        check("LabelEncoder", x, version=version, default_int64=-5, default_float=0.5, **attributes)


def test_label_encoder_of_nan_and_of_equal_keys() -> None:
    """By the words of the specification: the last of equal keys, and NaN equals NaN."""
    x = np.array([1, np.nan, 2, -0.0], F32)
    attributes = {"keys_floats": [1.0, float("nan"), 1.0, 0.0], "values_int64s": [5, 6, 7, 8]}
    check("LabelEncoder", x, version=4, expected=np.array([7, 6, -1, 8], np.int64), **attributes)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float64])
def test_label_encoder_with_tensors(dtype: Any) -> None:
    x = np.array([4, 2, 9], dtype)
    attributes = {
        "keys_tensor": numpy_helper.from_array(np.array([9, 4], dtype)),
        "values_tensor": numpy_helper.from_array(np.array([1, 2], np.int16)),
        "default_tensor": numpy_helper.from_array(np.array([-7], np.int16)),
    }
    check("LabelEncoder", x, version=4, expected=np.array([2, -7, 1], np.int16), **attributes)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_linear_classifier(transform: str, dtype: Any) -> None:
    attributes = {"coefficients": weights(3, 4), "intercepts": weights(3), "classlabels_ints": [5, 2, 9]}
    check("LinearClassifier", normal(6, 4, dtype=dtype), outputs=2, post_transform=transform, **attributes)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_linear_classifier_with_one_score(transform: str) -> None:
    attributes = {"coefficients": weights(1, 4), "intercepts": weights(1), "classlabels_ints": [5, 2]}
    check("LinearClassifier", normal(9, 4), outputs=2, post_transform=transform, oracle="onnx", **attributes)


@pytest.mark.parametrize("targets", [1, 3])
def test_linear_regressor(targets: int) -> None:
    check(
        "LinearRegressor",
        normal(5, 4),
        targets=targets,
        coefficients=weights(targets, 4),
        intercepts=weights(targets),
    )


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("one_class", [0, 1])
def test_svm_regressor(kernel: str, one_class: int) -> None:
    check(
        "SVMRegressor",
        normal(6, 3) / 3,
        coefficients=weights(5),
        kernel_params=[0.3, 0.2, 3.0],
        kernel_type=kernel,
        n_supports=5,
        one_class=one_class,
        rho=[0.1],
        support_vectors=weights(5, 3),
    )


def test_linear_svm_regressor() -> None:
    check("SVMRegressor", normal(6, 3), coefficients=weights(3), rho=[0.4], kernel_params=[0.0] * 3)


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("probabilities", [False, True])
def test_svm_classifier(kernel: str, classes: int, probabilities: bool) -> None:
    pairs = classes * (classes - 1) // 2
    per_class = [3, 2, 4, 1][:classes]
    more = (
        {"prob_a": [-0.7, -0.2, -0.9, -1.1, -0.3, -0.5][:pairs], "prob_b": weights(pairs)}
        if probabilities
        else {}
    )
    check(
        "SVMClassifier",
        normal(12, 3) / 3,
        outputs=2,
        classlabels_ints=[4, 7, 1, 0][:classes],
        coefficients=weights(classes - 1, sum(per_class)),
        kernel_params=[0.3, 0.2, 3.0],
        kernel_type=kernel,
        rho=weights(pairs),
        support_vectors=weights(sum(per_class), 3),
        vectors_per_class=per_class,
        **more,
    )


def test_linear_svm_classifier() -> None:
    attributes = {"coefficients": weights(3, 4), "rho": [0.2], "classlabels_ints": [3, 1, 2]}
    check("SVMClassifier", normal(9, 4), outputs=2, kernel_params=[0.0] * 3, **attributes)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skip", [0, 1, 3])
@pytest.mark.parametrize("lengths", [(1, 1), (1, 2), (2, 3), (1, 3)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_tfidf(mode: str, skip: int, lengths: tuple[int, int], dtype: Any) -> None:
    pool = [1, 2, 3, 1, 2, 2, 3, 3, 1, 1, 2, 3, 2, 2, 2]
    attributes = {
        "pool_int64s": pool,
        "ngram_counts": [0, 3, 9],
        "ngram_indexes": list(range(8)),
        "weights": weights(8),
        "mode": mode,
        "min_gram_length": lengths[0],
        "max_gram_length": lengths[1],
        "max_skip_count": skip,
    }
    for x in (RNG.integers(0, 4, (3, 12)), RNG.integers(0, 4, (7,)), RNG.integers(0, 4, (2, 1))):
        model, feeds = make_model("TfIdfVectorizer", {"x": x.astype(dtype)}, **attributes)
        expected = run_onnxruntime(model, feeds)["y0"]
        np.testing.assert_allclose(run_xla(model, feeds)["y0"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("op", "outputs", "attributes", "message"),
    [
        ("OneHotEncoder", 1, {"cats_int64s": [1], "zeros": 0}, "cannot raise"),
        ("LinearRegressor", 1, {"coefficients": [1.0]}, "number of coefficients"),
        ("Scaler", 1, {"offset": [1.0, 2.0, 3.0], "scale": [1.0]}, "not of the number of features"),
        ("SVMRegressor", 1, {"coefficients": [1.0, 2.0], "post_transform": "SOFTMAX"}, "single score"),
    ],
)
def test_forms_that_are_refused(op: str, outputs: int, attributes: dict[str, Any], message: str) -> None:
    model, feeds = make_model(
        op, {"x": normal(3, 2)}, outputs, domain="ai.onnx.ml", domain_version=3, **attributes
    )
    with pytest.raises(UnsupportedError, match=message):
        run_xla(model, feeds)
