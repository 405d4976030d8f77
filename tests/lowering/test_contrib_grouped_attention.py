"""GroupQueryAttention and rotary embeddings against ONNX Runtime's kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checking import check_op, make_model, run_onnxruntime, run_xla

from graphopt.errors import UnsupportedError

RANDOM = np.random.default_rng(0)
DOMAIN = {"domain": "com.microsoft"}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
BATCH, HEADS, SHARED, SIZE = 2, 4, 2, 32
NAMES = (
    "query key value past_key past_value seqlens_k total cos_cache sin_cache position_ids attention_bias head_sink"
).split()


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)


def operands(
    length: int, past: int = 0, *, batch: int = BATCH, packed: bool = False, buffer: int = 0, **given: Any
) -> dict[str, Any]:
    """Operands for `length` new tokens after `past` ones, in a buffer that may be longer than these."""
    inputs: dict[str, Any] = dict.fromkeys(NAMES)
    if packed:
        inputs["query"] = normal(batch, length, (HEADS + 2 * SHARED) * SIZE)
    else:
        inputs |= {
            "query": normal(batch, length, HEADS * SIZE),
            "key": normal(batch, length, SHARED * SIZE),
            "value": normal(batch, length, SHARED * SIZE),
        }
    if past or buffer:
        shape = (batch, SHARED, max(buffer, past), SIZE)
        inputs |= {"past_key": normal(*shape), "past_value": normal(*shape)}
    inputs["seqlens_k"] = np.full(batch, past + length - 1, np.int32)
    inputs["total"] = np.array(past + length, np.int32)
    return inputs | given


def rotary(rows: int = 12, width: int = SIZE) -> dict[str, np.ndarray]:
    return {"cos_cache": normal(rows, width // 2), "sin_cache": normal(rows, width // 2)}


def check(inputs: dict[str, Any], outputs: Any = 3, **attributes: Any) -> dict[str, np.ndarray]:
    attributes = {"num_heads": HEADS, "kv_num_heads": SHARED, **attributes}
    return check_op("GroupQueryAttention", inputs, outputs, **DOMAIN, **CLOSE, **attributes)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"scale": 0.4}, {"softcap": 0.8}, {"local_window_size": 2}, {"smooth_softmax": 1}, {"causal": 0}],
)
@pytest.mark.parametrize(("length", "past", "batch"), [(5, 0, 2), (1, 6, 2), (3, 4, 1)])
def test_prompt_token_and_chunk(
    packed: bool, options: dict[str, Any], length: int, past: int, batch: int
) -> None:
    check(operands(length, past, batch=batch, packed=packed), **options)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("width", [SIZE, SIZE // 2])
@pytest.mark.parametrize(("length", "past", "batch"), [(5, 0, 2), (1, 6, 2), (3, 4, 1)])
def test_rotary(interleaved: int, packed: bool, width: int, length: int, past: int, batch: int) -> None:
    inputs = operands(length, past, batch=batch, packed=packed, **rotary(width=SIZE))
    if width != SIZE:
        inputs |= {k: inputs[k][:, : width // 2].copy() for k in ("cos_cache", "sin_cache")}
    check(inputs, do_rotary=1, rotary_interleaved=interleaved)


def test_rotary_at_given_positions() -> None:
    inputs = operands(1, 6, **rotary(), position_ids=np.array([[3], [9]], np.int64))
    check(inputs, do_rotary=1)


@pytest.mark.parametrize("buffer", [0, 9])
def test_rows_of_unlike_lengths(buffer: int) -> None:
    inputs = operands(1, 6, buffer=buffer, **rotary(), seqlens_k=np.array([3, 6], np.int32))
    check(inputs, do_rotary=1)
    check(inputs, do_rotary=1, local_window_size=3)


def test_a_padded_prompt() -> None:
    inputs = operands(5, buffer=8, **rotary(), seqlens_k=np.array([2, 4], np.int32))
    attributes = {"num_heads": HEADS, "kv_num_heads": SHARED, "do_rotary": 1}
    model, feeds = make_model("GroupQueryAttention", inputs, 3, **DOMAIN, **attributes)
    found, wanted = run_xla(model, feeds), run_onnxruntime(model, feeds)
    for row, valid in enumerate((3, 5)):  # the rest of a row is padding, whose answers mean nothing
        np.testing.assert_allclose(found["y0"][row, :valid], wanted["y0"][row, :valid], **CLOSE)
        for name in ("y1", "y2"):
            np.testing.assert_allclose(found[name][row, :, :valid], wanted[name][row, :, :valid], **CLOSE)
    assert all(np.isfinite(found[name]).all() and found[name].shape == wanted[name].shape for name in wanted)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 4), (2, 4)])
@pytest.mark.parametrize("options", [{}, {"softcap": 0.8, "local_window_size": 2}])
def test_a_score_bias(shape: tuple[int, int], options: dict[str, Any]) -> None:
    check(operands(5, attention_bias=normal(*shape, 5, 5)), **options)
    check(operands(1, 6, buffer=9, attention_bias=normal(*shape, 1, 7)), **options)


@pytest.mark.parametrize("options", [{}, {"softcap": 0.8, "local_window_size": 2}])
def test_sinks(options: dict[str, Any]) -> None:
    check(operands(5, head_sink=normal(4)), **options)
    check(operands(1, 6, head_sink=normal(4)), **options)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("options", [{}, {"softcap": 0.8, "local_window_size": 2}])
def test_scores_and_weights_as_outputs(stage: int, options: dict[str, Any]) -> None:
    check(operands(5, attention_bias=normal(1, 1, 5, 5)), 4, qk_output=stage, **options)
    check(operands(1, 6, buffer=9), 4, qk_output=stage, **options)


def test_forms_that_are_refused() -> None:
    for inputs, attributes in (
        (operands(3, k_scale=normal(1), v_scale=normal(1)), {}),
        (operands(3, 4), {"sliding_window_cache": 1}),
        (operands(3), {"do_rotary": 1}),
        (operands(3, total=np.array(5, np.int32)), {}),
    ):
        with pytest.raises(UnsupportedError):
            run_xla(
                *make_model(
                    "GroupQueryAttention",
                    inputs,
                    **DOMAIN,
                    num_heads=HEADS,
                    kv_num_heads=SHARED,
                    **attributes,
                )
            )


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(
    ("shape", "width", "heads"),
    [((2, 3, 32), 16, 0), ((2, 3, 32), 8, 2), ((2, 4, 3, 16), 16, 0), ((2, 4, 3, 16), 8, 4)],
)
@pytest.mark.parametrize("positions", [[[0, 1, 2], [7, 4, 5]], [6]])
def test_rotary_embedding(
    interleaved: int, shape: tuple[int, ...], width: int, heads: int, positions: list[Any]
) -> None:
    inputs = {"input": normal(*shape), "positions": np.array(positions), **rotary(9, width)}
    part = {"num_heads": heads, "rotary_embedding_dim": width} if heads else {}
    check_op("RotaryEmbedding", inputs, **DOMAIN, interleaved=interleaved, **part)


def test_gemma_rotary_embedding_is_its_definition() -> None:
    emb, states = normal(2, 3, 8), [normal(2, 4, 3, 8, dtype=np.float16) for _ in range(4)]
    names = ("emb", "q", "q_rot", "k", "k_rot")
    found = run_xla(
        *make_model("GemmaRotaryEmbedding", dict(zip(names, (emb, *states), strict=True)), 2, **DOMAIN)
    )
    cos, sin = (f(emb).astype(np.float16)[:, None] for f in (np.cos, np.sin))
    for name, x, turned in (("y0", states[0], states[1]), ("y1", states[2], states[3])):
        np.testing.assert_allclose(found[name], x * cos + turned * sin, rtol=2e-3, atol=2e-3)
