"""Attention against onnx.reference, the standard's own words, and ONNX Runtime where its rules agree."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checking import check_op, make_model, run_xla

RANDOM = np.random.default_rng(0)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def normal(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)  # type: ignore[call-overload]


def attend(opset: int = 24, outputs: int = 1, reference: str = "onnx", **inputs: Any) -> dict[str, Any]:
    names = ["q", "k", "v", "mask", "past_k", "past_v", "lens"]
    operands = {n: inputs.pop(n, None) for n in names[: 7 if opset >= 24 else 6]}
    close = {k: inputs.pop(k, v) for k, v in CLOSE.items()}
    return check_op(
        "Attention", operands, outputs=outputs, opset=opset, reference=reference, **inputs, **close
    )


def heads(q: int = 4, kv: int = 2, s: int = 3, t: int = 5, d: int = 8, dv: int = 6) -> dict[str, np.ndarray]:
    return {"q": normal(2, q, s, d), "k": normal(2, kv, t, d), "v": normal(2, kv, t, dv)}


@pytest.mark.parametrize("reference", ["onnx", "onnxruntime"])
@pytest.mark.parametrize(("q", "kv"), [(4, 4), (4, 2), (4, 1)])
def test_shared_heads(q: int, kv: int, reference: str) -> None:
    attend(**heads(q, kv), reference=reference)


@pytest.mark.parametrize("reference", ["onnx", "onnxruntime"])
def test_three_axes(reference: str) -> None:
    inputs = {"q": normal(2, 3, 4 * 8), "k": normal(2, 5, 2 * 8), "v": normal(2, 5, 2 * 6)}
    attend(**inputs, q_num_heads=4, kv_num_heads=2, scale=0.3, reference=reference)


@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 5), (2, 1, 3, 5), (1, 4, 3, 5), (3, 4)])
@pytest.mark.parametrize("boolean", [False, True])
@pytest.mark.parametrize("causal", [0, 1])
def test_masks_of_every_rank_and_shorter_ones(shape: tuple[int, ...], boolean: bool, causal: int) -> None:
    mask = RANDOM.uniform(size=shape) < 0.7 if boolean else normal(*shape)
    attend(**heads(), mask=mask, is_causal=causal)


@pytest.mark.parametrize("boolean", [False, True])
def test_masks_of_one_axis(boolean: bool) -> None:  # the reference refuses them with is_causal
    attend(**heads(), mask=RANDOM.uniform(size=5) < 0.7 if boolean else normal(5))


@pytest.mark.parametrize("reference", ["onnx", "onnxruntime"])
@pytest.mark.parametrize("causal", [0, 1])
def test_a_cache(causal: int, reference: str) -> None:
    past = {"past_k": normal(2, 2, 4, 8), "past_v": normal(2, 2, 4, 6)}
    attend(**heads(t=3), **past, outputs=3, is_causal=causal, reference=reference)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("length", [1, 3])
def test_an_outer_cache_with_valid_lengths(causal: int, length: int) -> None:
    attend(**heads(s=length), lens=np.array([5, 2], np.int64), is_causal=causal)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_scores_at_every_stage(mode: int) -> None:
    attributes = {"qk_matmul_output_mode": mode, "is_causal": 1}
    attend(**heads(4, 4), mask=normal(3, 5), outputs=4, **attributes)
    if mode:  # in mode 0 the reference shows scores after the soft cap; the standard says before
        attend(**heads(4, 4), mask=normal(3, 5), outputs=4, softcap=0.7, **attributes)


def test_a_row_without_keys_is_zero() -> None:
    mask = np.ones((3, 5), bool)
    mask[1] = False
    y = attend(**heads(), mask=mask)["y0"]
    np.testing.assert_array_equal(y[:, :, 1], 0)


@pytest.mark.parametrize(("left", "right"), [(1, 0), (2, 1), (-1, 1), (0, -1)])
@pytest.mark.parametrize("causal", [0, 1])
def test_windows(left: int, right: int, causal: int) -> None:
    attributes = {"left_window_size": left, "right_window_size": right, "is_causal": causal}
    attend(opset=25, **heads(s=4, t=6), **attributes)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_types_round_once(dtype: Any) -> None:
    inputs = {k: v.astype(dtype) for k, v in heads().items()}
    exact = attend(**{k: v.astype(np.float64) for k, v in inputs.items()}, rtol=1e-9)["y0"]
    model, feeds = make_model("Attention", inputs, opset=23)
    found = run_xla(model, feeds)["y0"]
    assert found.dtype == dtype
    unit = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=4 * unit, atol=2 * unit)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("dim", [0, 4])
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_rotary_embedding(interleaved: int, dim: int, positions: bool, flat: bool) -> None:
    half = (dim or 8) // 2
    cache = (10, half) if positions else (2, 3, half)
    inputs = {
        "x": normal(2, 3, 32) if flat else normal(2, 4, 3, 8),
        "cos": normal(*cache),
        "sin": normal(*cache),
        "ids": RANDOM.integers(0, 10, (2, 3)) if positions else None,
    }
    attributes: dict[str, Any] = {"interleaved": interleaved, "rotary_embedding_dim": dim}
    if flat:
        attributes["num_heads"] = 4
    check_op("RotaryEmbedding", inputs, opset=23, reference="onnx", **attributes, **CLOSE)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("past", [True, False])
def test_linear_attention(rule: str, past: bool) -> None:
    inputs = {
        "q": normal(2, 3, 4 * 5),
        "k": normal(2, 3, 2 * 5) * np.float32(0.4),
        "v": normal(2, 3, 2 * 6),
        "past": normal(2, 2, 5, 6) if past else None,
        "decay": -np.abs(normal(2, 3, 2)) if "gated" in rule else None,
        "beta": RANDOM.uniform(size=(2, 3, 2)).astype(np.float32) if "delta" in rule else None,
    }
    attributes = {"q_num_heads": 4, "kv_num_heads": 2, "update_rule": rule}
    check_op("LinearAttention", inputs, 2, opset=27, reference="onnx", **attributes, **CLOSE)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("kind", ["bool", "-inf", "lowest", "triangle"])
def test_what_is_known_of_a_mask_changes_no_answer(kind: str, causal: int) -> None:
    """Whether rows may be closed is looked up in a constant; a mask that is fed may hold anything."""
    from rewriting import with_weights

    hidden = RANDOM.uniform(size=(2, 1, 5, 5)) < 0.4
    hidden[0, 0, 3] = kind != "triangle"
    if kind == "triangle":
        hidden = np.broadcast_to(np.triu(np.ones((5, 5), bool), 1), hidden.shape)
    fill = {"-inf": -np.inf, "triangle": -np.inf, "lowest": np.finfo(np.float32).min}.get(kind)
    mask = ~hidden if fill is None else np.where(hidden, np.float32(fill), np.float32(0.5))
    text = f"""g (float[2, 3, 5, 4] q, float[2, 3, 5, 4] k, float[2, 3, 5, 4] v,
               {"bool" if fill is None else "float"}[2, 1, 5, 5] m) => (float[2, 3, 5, 4] y)
               {{ y = Attention<is_causal = {causal}>(q, k, v, m) }}"""
    feeds = {name: normal(2, 3, 5, 4) for name in "qkv"}
    fed = run_xla(with_weights(text, {}, opset=23), {**feeds, "m": mask})["y"]
    known = run_xla(with_weights(text, {"m": mask}, opset=23), feeds)["y"]
    np.testing.assert_allclose(known, fed, rtol=1e-6, atol=1e-6)
    if kind in ("bool", "-inf"):
        assert not known[0, :, 3].any()


def test_a_choice_of_finite_numbers_closes_no_row() -> None:
    from rewriting import with_weights

    text = """g (float[2, 3, 5, 4] q, bool[2, 1, 1, 5] m, float zero, float low) => (float[2, 3, 5, 4] y)
        { w = Where(m, zero, low) y = Attention(q, q, q, w) }"""
    low = np.float32(-3e38)
    model = with_weights(text, {"zero": np.float32(0), "low": low}, opset=23)
    q, visible = normal(2, 3, 5, 4), np.zeros((2, 1, 1, 5), bool)
    visible[0, 0, 0, 2] = True
    found = run_xla(model, {"q": q, "m": visible})["y"]
    np.testing.assert_allclose(found[1], np.broadcast_to(q[1].mean(1, keepdims=True), (3, 5, 4)), rtol=1e-5)
    np.testing.assert_allclose(found[0], np.broadcast_to(q[0][:, 2:3], (3, 5, 4)), rtol=1e-6)
