"""Runs with buffers that stay where they are: no allocation in a run, and what CUDA graphs need."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.runtime.feeds import FeedSpec


class Binding:
    """One set of input and output buffers of a session, on its device; one run at a time.

    Args:
        session: of ONNX Runtime.
        specs: the inputs that are not optional; each of a fixed shape and a type that numpy has.
        outputs: name, numpy dtype and shape of each output.
        device: ``cpu`` or ``cuda``.

    Raises:
        UnsupportedError: GO202, a shape is not fixed or a type has no buffer.
    """

    def __init__(
        self,
        session: Any,
        specs: Sequence[FeedSpec],
        outputs: Sequence[tuple[str, str | None, Sequence[Any] | None]],
        device: str = "cpu",
        device_id: int = 0,
    ) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._io = session.io_binding()
        self._inputs, self._outputs = {}, {}
        for spec in specs:
            self._inputs[spec.name] = _buffer(spec.name, spec.dtype, spec.shape, device, device_id)
            self._io.bind_ortvalue_input(spec.name, self._inputs[spec.name])
        for name, dtype, shape in outputs:
            self._outputs[name] = _buffer(name, dtype, shape, device, device_id)
            self._io.bind_ortvalue_output(name, self._outputs[name])

    def run(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs for `arrays`, which are checked, as copies that later runs leave alone."""
        with self._lock:
            for name, value in self._inputs.items():
                value.update_inplace(np.ascontiguousarray(arrays[name]))
            self._session.run_with_iobinding(self._io)
            return [np.array(value.numpy()) for value in self._outputs.values()]


def _buffer(name: str, dtype: str | None, shape: Sequence[Any] | None, device: str, device_id: int) -> Any:
    from onnxruntime import OrtValue

    fixed = shape is not None and all(isinstance(dim, int) for dim in shape)
    plain = dtype is not None and dtype != "string" and np.dtype(dtype).kind in "biufc"
    if not fixed or not plain:
        raise UnsupportedError(
            "GO202",
            "a run with fixed buffers needs fixed shapes and plain numbers",
            where=repr(name),
            found=f"{dtype} {list(shape) if shape is not None else 'of unknown rank'}",
            next_step="Bind the free dimensions with --dim when you compile.",
        )
    return OrtValue.ortvalue_from_shape_and_type(list(shape or ()), np.dtype(dtype), device, device_id)
