"""Running XLA programs on the device that is here (the CPU, unless JAX finds an accelerator)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np

from graphopt.errors import GraphoptError, LoweringError, UnsupportedError
from graphopt.runtime.feeds import FeedSpec, check_feeds

Call = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """64-bit types for the length of a call; the user's own JAX settings stay as they are."""
    with jax.enable_x64(True):
        yield


@cache
def cpu_compiler_options() -> dict[str, str]:
    """What XLA's CPU compiler is told, as far as the installed one knows it.

    Its fusions for the YNNPACK library are off: where one holds a reduction that starts from a constant
    that the fusion uses elsewhere too, jaxlib 0.10 reads memory that nobody wrote (a 1x1 convolution, Relu
    and global pooling gave 0 or infinity by turns). Without them convolutions and products are as fast.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # an older or newer XLA without the option
        return {}
    return options


def jitted(function: Call, platform: str = "cpu") -> Call:
    """`function` compiled for `platform` at its first call for each combination of shapes."""
    call: Call = jax.jit(function, compiler_options=cpu_compiler_options() if platform == "cpu" else None)
    return call


class XlaSession:
    """One model on XLA. Compiles on the first call for each combination of shapes, then reuses it.

    Safe to call from several threads.

    Args:
        inputs: what may be fed.
        outputs: the names of the outputs, in order (JAX sorts them).
        weights: the program's weight arguments by name; read when the first call is made.
        program_for: gives the function ``(weights, inputs) -> outputs`` for the shapes of the feeds
            and the values of the inputs that it must know; it is asked once for each.
        platform: the JAX platform to run on.
        defaults: what inputs are when they are not fed.
    """

    def __init__(
        self,
        inputs: Sequence[FeedSpec],
        outputs: Sequence[str],
        weights: Callable[[], Mapping[str, np.ndarray]],
        program_for: Callable[[Mapping[str, tuple[int, ...]], Mapping[str, np.ndarray]], Call],
        *,
        platform: str = "cpu",
        defaults: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.platform = platform
        self._defaults = dict(defaults or {})
        self._load_weights = weights
        self._program_for = program_for
        self._device = jax.local_devices(backend=platform)[0]
        self._weights: dict[str, Any] | None = None
        self._calls: dict[Any, Call] = {}
        self._static_names: set[str] = set()
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The outputs by name. Raises FeedError when the feeds do not match the inputs."""
        arrays = {**self._defaults, **check_feeds(self.inputs, feeds)}
        with self._lock:
            if self._weights is None:
                self._weights = self._device_weights()
        while True:
            known = {n: a for n, a in arrays.items() if n in self._static_names}
            try:
                return self._call({n: a for n, a in arrays.items() if n not in known}, known)
            except LoweringError as error:
                # An input that the program must know: specialise on its value, and remember to.
                needed = set(getattr(error, "inputs", ())) & set(arrays) - self._static_names
                if not needed:
                    raise
                self._static_names |= needed

    def _call(self, arrays: dict[str, np.ndarray], known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        key = (
            tuple(sorted(shapes.items())),
            tuple((n, a.shape, a.tobytes()) for n, a in sorted(known.items())),
        )
        with self._lock:
            call = self._calls.get(key)
            if call is None:
                call = self._calls[key] = jitted(self._program_for(shapes, known), self.platform)
        with _settings(), jax.default_device(self._device):
            try:
                results = call(self._weights or {}, arrays)
                return {name: _on_host(results[name]) for name in self.outputs}
            except GraphoptError:
                with self._lock:
                    self._calls.pop(key, None)
                raise
            except jax.errors.JaxRuntimeError as error:
                raise UnsupportedError("GO604", f"XLA failed: {str(error).splitlines()[0][:400]}") from error

    def _device_weights(self) -> dict[str, Any]:
        with _settings(), jax.default_device(self._device):
            return {name: jax.device_put(array, self._device) for name, array in self._load_weights().items()}


def _on_host(result: Any) -> Any:
    """Arrays as numpy; sequences item by item; an absent optional as None."""
    if isinstance(result, (list, tuple)):
        return [_on_host(item) for item in result]
    return None if result is None else np.asarray(result)


def exported_call(data: bytes) -> Call:
    """The function of a program that ``jax.export`` serialised."""
    from jax import export

    call: Call = export.deserialize(bytearray(data)).call
    return call
