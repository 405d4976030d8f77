"""An XLA program: one model traced for given input shapes, not compiled yet.

The function's arguments are the weights (by initializer name) and the inputs (by name); its results
are the outputs by name. Nothing here touches the user's JAX configuration: 64-bit types and strict
promotion hold inside :func:`settings` only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from graphopt.errors import UnsupportedError, UsageError
from graphopt.ir import (
    DataType,
    Model,
    OptionalType,
    SequenceType,
    SymbolicDim,
    TensorProtocol,
    Value,
)
from graphopt.lowering.xla import bounded
from graphopt.lowering.xla.dtypes import NOT_IN_XLA, numpy_dtype
from graphopt.lowering.xla.emit import INLINE_ELEMENTS, Emitter, Operand, as_array

Dim = Any  # int, or a symbolic dimension of jax.export
Structs = Mapping[str, Any]
"""By name a ShapeDtypeStruct, of a sequence a list of them, of an absent optional None."""


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """64-bit types, strict promotion, and no source locations in what is traced (they name local files)."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.numpy_dtype_promotion("strict"))
        stack.enter_context(_no_locations())
        yield


@contextlib.contextmanager
def _no_locations() -> Iterator[None]:
    """Keep Python file names out of the program, so that it is the same wherever it is made."""
    limit = jax.config.values["jax_traceback_in_locations_limit"]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


@dataclasses.dataclass(frozen=True)
class Spec:
    """Name, element type and shape of one input, output or weight; dimensions may be names."""

    name: str
    dtype: str
    shape: tuple[Any, ...]

    def to_json(self) -> dict[str, Any]:
        """The spec as a JSON-ready dict."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": [d if isinstance(d, int) else str(d) for d in self.shape],
        }


@dataclasses.dataclass
class Program:
    """One traced model.

    Attributes:
        function: ``(weights, inputs) -> outputs``, all dicts by name.
        weights: the initializers that are arguments, by name.
        inputs: what must be fed.
    """

    model: Model
    function: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
    weights: dict[str, Value]
    inputs: dict[str, Any]
    constants: dict[str, np.ndarray]

    def weight_structs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of the weights, without their numbers."""
        return structs_of_weights(self.weights)

    def weight_arrays(self) -> dict[str, np.ndarray]:
        """The numbers of the weights (memory-mapped where they are on disk)."""
        return {n: v.const_value.numpy() for n, v in self.weights.items() if v.const_value is not None}


def build_program(
    model: Model,
    shapes: Mapping[str, Any],
    *,
    precision: str | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
) -> Program:
    """The program of `model` for inputs of `shapes`.

    Args:
        shapes: for every input that is fed, its dimensions (ints, or jax.export's symbolic ones);
            for a sequence a list of them, for an optional that is absent None.
        precision: matmul precision: ``fp32`` (exact float32 products everywhere), ``tf32``,
            ``bf16`` (single-pass), or None for fp32.
        constants: inputs whose values are known at compile time; they are not fed.
    """
    bound = dict(constants or {})
    weights = argument_weights(model)
    main_inputs = list(model.graph.inputs)
    inputs = {
        v.name or "": input_struct(v, shapes.get(v.name or "", _UNKNOWN))
        for v in main_inputs
        if v.name not in bound and xla_holds(v)
    }
    lax_precision = lax_precision_of(precision)

    def main(weights: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        emitter = Emitter(model, weights, precision=lax_precision)
        env: dict[Value, Operand] = {
            v: bound[v.name or ""] if v.name in bound else inputs[v.name or ""]
            for v in main_inputs
            if v.name in bound or v.name in inputs
        }
        emitter.run(model.graph, env)
        return {v.name or "": result_of(emitter.lookup(v, env)) for v in model.graph.outputs}

    return Program(model, main, weights, inputs, bound)


def argument_weights(model: Model) -> dict[str, Value]:
    """The initializers that are arguments of the program: all but the small ones, and used ones only.

    A small one that holds a NaN is an argument too: XLA's CPU compiler folds ``exp(x + NaN)`` of a
    constant NaN to numbers (seen with jaxlib 0.10), of an argument it does not.
    """
    return {
        name: value
        for name, value in sorted(model.graph.initializers.items())
        if value.const_value is not None
        and not value.is_graph_input()
        and value.const_value.dtype != DataType.STRING
        and (math.prod(value.const_value.shape.numpy()) > INLINE_ELEMENTS or _holds_nan(value.const_value))
        and (value.uses() or value.is_graph_output())
    }


def structs_of_weights(weights: Mapping[str, Value]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of weights, without their numbers."""
    return {
        name: jax.ShapeDtypeStruct(tuple(v.const_value.shape.numpy()), v.const_value.dtype.numpy())
        for name, v in weights.items()
        if v.const_value is not None
    }


def result_of(operand: Operand) -> Any:
    """What a program gives for `operand`: an array, or the two of a value as large as the data says."""
    return bounded.outside(operand) if isinstance(operand, bounded.Bounded) else as_array(operand)


def struct_of(operand: Any) -> Any:
    """Shape and type of an array or weight; of a sequence those of its items, of None None."""
    if bounded.is_bounded(operand):
        return bounded.struct_of(operand)
    if isinstance(operand, (list, tuple)):
        return [struct_of(item) for item in operand]
    return None if operand is None else jax.ShapeDtypeStruct(tuple(operand.shape), operand.dtype)


def _holds_nan(tensor: TensorProtocol) -> bool:
    array = tensor.numpy()
    return array.dtype.kind in "fcV" and bool((array != array).any())  # noqa: PLR0124  (true of NaN only)


_UNKNOWN: Any = object()  # the shape of an input whose rank the model does not say


def xla_holds(value: Value) -> bool:
    """Whether `value`, an input, is of a type that XLA programs take; others are no inputs of theirs."""
    return value.dtype is not None and value.dtype not in NOT_IN_XLA


def input_dtype(value: Value) -> np.dtype:
    """The element type an input is fed with. Raises UnsupportedError (GO202) for strings and maps."""
    where = f"input {value.name!r}"
    if value.dtype is None:
        raise UnsupportedError("GO202", "XLA has no such type", where=where, found=value.type)
    return numpy_dtype(value.dtype, where=where)


def input_struct(value: Value, shape: Any) -> Any:
    """The struct of an input of `shape` (of a sequence: a list of shapes, of an absent optional: None)."""
    if shape is None:
        return None
    if isinstance(shape, list):
        return [jax.ShapeDtypeStruct(tuple(item), input_dtype(value)) for item in shape]
    type_ = value.type.elem_type if isinstance(value.type, OptionalType) else value.type
    if shape is _UNKNOWN or isinstance(type_, SequenceType):
        raise UnsupportedError(
            "GO202",
            "its shape, or those of its items, are known only when it is fed",
            where=f"input {value.name!r}",
            found=value.type,
        )
    return jax.ShapeDtypeStruct(tuple(shape), input_dtype(value))


def lax_precision_of(precision: str | None) -> jax.lax.Precision:
    """JAX's contraction precision for a precision name. None means fp32."""
    table = {
        None: jax.lax.Precision.HIGHEST,
        "fp32": jax.lax.Precision.HIGHEST,
        "tf32": jax.lax.Precision.HIGH,
        "bf16": jax.lax.Precision.DEFAULT,
        "fp16": jax.lax.Precision.DEFAULT,
    }
    if precision not in table:
        raise UsageError(
            "GO701", "unknown precision", found=repr(precision), expected=", ".join(k for k in table if k)
        )
    return table[precision]


def symbolic_shapes(
    model: Model, constants: Mapping[str, np.ndarray], constraints: Sequence[str] = ()
) -> dict[str, tuple[Dim, ...]]:
    """The inputs' shapes with jax.export's symbolic dimensions for the free ones.

    Args:
        constants: inputs that are bound and left out.
        constraints: what may be assumed of the dimensions, such as ``sequence <= 128``.
    """
    from jax import export

    names = sorted(
        {
            str(d.value)
            for v in model.graph.inputs
            if v.shape is not None and v.name not in constants
            for d in v.shape.dims
            if isinstance(d, SymbolicDim)
        }
    )
    symbols = (
        dict(zip(names, export.symbolic_shape(",".join(names), constraints=list(constraints)), strict=True))
        if names
        else {}
    )
    return {
        v.name or "": tuple(d if isinstance(d, int) else symbols[str(d.value)] for d in v.shape.dims)
        for v in model.graph.inputs
        if v.shape is not None and v.name not in constants
    }


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` traced under :func:`settings`, whoever traces it."""

    def traced(*arguments: Any) -> Any:
        with settings():
            return function(*arguments)

    return traced
