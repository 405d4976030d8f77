"""Signal processing: Fourier transforms, windows and the mel filter bank."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.lowering.xla.dtypes import from_onnx
from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers
from graphopt.lowering.xla.ops.matmul import accumulator

Array = Any


def _complex(x: Array) -> Array:
    """[..., 1 or 2] (real, or real and imaginary part) as a complex (or real) [...]."""
    wide = x.astype(accumulator(x.dtype))
    return wide[..., 0] if x.shape[-1] == 1 else lax.complex(wide[..., 0], wide[..., 1])


def _parts(y: Array, dtype: Any) -> Array:
    """A complex [...] as [..., 2]."""
    return jnp.stack((jnp.real(y), jnp.imag(y)), -1).astype(dtype)


def _scalar(value: np.ndarray) -> int:
    return int(value.reshape(-1)[0])


def _transform(
    ctx: Context, input: Array, axis: int, dft_length: np.ndarray | None, inverse: int, onesided: int
) -> Array:
    axis %= input.ndim
    if axis == input.ndim - 1:
        raise ctx.unsupported("the last axis holds the parts of complex numbers", found=f"axis {axis}")
    x = _complex(input)
    length = None if dft_length is None else _scalar(dft_length)
    if inverse and onesided:
        y = jnp.fft.irfft(x.astype(_complex_type(x)), length, axis)
        return y[..., None].astype(input.dtype)
    if onesided:
        if jnp.iscomplexobj(x):
            raise ctx.unsupported("a one-sided transform needs real input")
        return _parts(jnp.fft.rfft(x, length, axis), input.dtype)
    count = x.shape[axis] if length is None else length
    if not jnp.iscomplexobj(x) and isinstance(count, int):
        y = _of_real(x, count, axis)
        return _parts(jnp.conj(y) / count if inverse else y, input.dtype)
    x = x.astype(_complex_type(x))
    y = jnp.fft.ifft(x, length, axis) if inverse else jnp.fft.fft(x, length, axis)
    return _parts(y, input.dtype)


def _of_real(x: Array, count: int, axis: int) -> Array:
    """The transform of real numbers: the second half mirrors the first, so that what must be real is.

    A complex transform would cost twice as much, and leave rounding errors in imaginary parts that cancel.
    """
    half = jnp.fft.rfft(x, count, axis)
    mirrored = jnp.conj(jnp.flip(lax.slice_in_dim(half, 1, (count + 1) // 2, axis=axis), axis))
    return jnp.concatenate((half, mirrored), axis)


def _complex_type(x: Array) -> np.dtype:
    return np.dtype(np.complex128 if x.dtype in (np.float64, np.complex128) else np.complex64)


@lowers("DFT", since=(17,), static=("dft_length",))
def dft_17(
    ctx: Context,
    input: Array,
    dft_length: np.ndarray | None,
    *,
    axis: int = 1,
    inverse: int = 0,
    onesided: int = 0,
) -> Array:
    """The discrete Fourier transform along one axis; the last axis holds real and imaginary parts.

    Spec: https://onnx.ai/onnx/operators/onnx__DFT.html
    """
    return _transform(ctx, input, axis, dft_length, inverse, onesided)


@lowers("DFT", since=(20,), static=("dft_length", "axis"))
def dft(
    ctx: Context,
    input: Array,
    dft_length: np.ndarray | None,
    axis: np.ndarray | None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Array:
    """The discrete Fourier transform along one axis; the last axis holds real and imaginary parts.

    Spec: https://onnx.ai/onnx/operators/onnx__DFT.html
    """
    return _transform(ctx, input, -2 if axis is None else _scalar(axis), dft_length, inverse, onesided)


@lowers("STFT", since=(17,), static=("frame_step", "frame_length"))
def stft(
    ctx: Context,
    signal: Array,
    frame_step: np.ndarray,
    window: Array | None,
    frame_length: np.ndarray | None,
    *,
    onesided: int = 1,
) -> Array:
    """The Fourier transforms of windowed frames of the signal, each frame_step after the last.

    Shapes: ``signal: [B, T, 1 or 2]``; the result is ``[B, frames, bins, 2]``.
    Spec: https://onnx.ai/onnx/operators/onnx__STFT.html
    """
    step = _scalar(frame_step)
    if frame_length is not None:
        length = _scalar(frame_length)
    else:
        length = signal.shape[1] if window is None else window.shape[0]
    if step <= 0 or length <= 0:
        raise ctx.unsupported("frames need a positive length and step", found=f"{length} and {step}")
    x = _complex(signal)
    frames = (signal.shape[1] - length) // step + 1
    index = lax.iota(np.int32, frames)[:, None] * jnp.int32(step) + lax.iota(np.int32, length)[None, :]
    pieces = jnp.take(x, index, axis=1, mode="clip")
    if window is not None:
        pieces = pieces * window.astype(pieces.dtype)
    if onesided and not jnp.iscomplexobj(pieces):
        return _parts(jnp.fft.rfft(pieces, axis=-1), signal.dtype)
    y = jnp.fft.fft(pieces.astype(_complex_type(pieces)), axis=-1)
    return _parts(y[..., : length // 2 + 1] if onesided else y, signal.dtype)


def _cosine_window(
    size: np.ndarray, periodic: int, output_datatype: int, coefficients: tuple[float, ...]
) -> Array:
    """The sum of coefficients[k] * cos(2 pi k n / N), with N = size, or size - 1 if not periodic.

    A symmetric window of one point is NaN, as the schema's function says: its point is at 0 / 0.
    """
    dtype = from_onnx(output_datatype)
    count = _scalar(size)
    period = count if periodic else count - 1
    if period == 0:
        return jnp.full((count,), np.nan, dtype)
    n = jnp.arange(count, dtype=np.float64)
    terms = [c * jnp.cos(n * (2 * math.pi * k / period)) for k, c in enumerate(coefficients)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total.astype(dtype)


@lowers("HannWindow", since=(17,), static=("size",))
def hann_window(size: np.ndarray, *, output_datatype: int = 1, periodic: int = 1) -> Array:
    """0.5 - 0.5 cos(2 pi n / N).

    Spec: https://onnx.ai/onnx/operators/onnx__HannWindow.html
    """
    return _cosine_window(size, periodic, output_datatype, (0.5, -0.5))


@lowers("HammingWindow", since=(17,), static=("size",))
def hamming_window(size: np.ndarray, *, output_datatype: int = 1, periodic: int = 1) -> Array:
    """25/46 - 21/46 cos(2 pi n / N).

    Spec: https://onnx.ai/onnx/operators/onnx__HammingWindow.html
    """
    return _cosine_window(size, periodic, output_datatype, (25 / 46, -21 / 46))


@lowers("BlackmanWindow", since=(17,), static=("size",))
def blackman_window(size: np.ndarray, *, output_datatype: int = 1, periodic: int = 1) -> Array:
    """0.42 - 0.5 cos(2 pi n / N) + 0.08 cos(4 pi n / N).

    Spec: https://onnx.ai/onnx/operators/onnx__BlackmanWindow.html
    """
    return _cosine_window(size, periodic, output_datatype, (0.42, -0.5, 0.08))


@lowers(
    "MelWeightMatrix",
    since=(17,),
    static=("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz"),
)
def mel_weight_matrix(
    num_mel_bins: np.ndarray,
    dft_length: np.ndarray,
    sample_rate: np.ndarray,
    lower_edge_hertz: np.ndarray,
    upper_edge_hertz: np.ndarray,
    *,
    output_datatype: int = 1,
) -> Array:
    """Triangular filters, evenly spaced on the mel scale, over the bins of a spectrum: [bins, filters].

    Spec: https://onnx.ai/onnx/operators/onnx__MelWeightMatrix.html
    """
    filters, length = _scalar(num_mel_bins), _scalar(dft_length)
    low, high = (
        2595 * math.log10(1 + float(edge.reshape(-1)[0]) / 700)
        for edge in (lower_edge_hertz, upper_edge_hertz)
    )
    mels = jnp.arange(filters + 2, dtype=np.float64) * ((high - low) / (filters + 2)) + low
    hertz = 700 * (jnp.power(jnp.float64(10), mels / 2595) - 1)
    edges = jnp.floor((length + 1) * hertz / _scalar(sample_rate)).astype(np.int64)
    begin, center, end = edges[:-2], edges[1:-1], edges[2:]
    bins = lax.iota(np.int64, length // 2 + 1)[:, None]

    def share(part: Array, whole: Array) -> Array:
        return part.astype(np.float64) / jnp.maximum(whole, 1).astype(np.float64)

    rising = jnp.where((bins >= begin) & (bins <= center), share(bins - begin, center - begin), 0.0)
    rising = jnp.where((begin == center) & (bins == center), 1.0, rising)
    falling = (bins >= center) & (bins < end)
    return jnp.where(falling, share(end - bins, end - center), rising).astype(from_onnx(output_datatype))
