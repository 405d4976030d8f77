"""The interface as it was declared: what a written model says of the shapes of its inputs and outputs.

Inside, dimensions have names of their own and the shapes of outputs are recomputed, because passes rely on
them. Who reads the written model is to find the shapes that were declared, more precise only where a
dimension became known.
"""

from __future__ import annotations

import onnx

from graphopt.ir import Model, Value

_KEY = "graphopt.interface"
Dim = int | str | None
Declared = dict[str, tuple[Dim, ...]]


def record(model: Model) -> None:
    """Remember the declared shapes of the inputs and outputs of `model`, unless that was done before."""
    if _KEY in model.graph.meta:
        return
    values = [*model.graph.inputs, *model.graph.outputs]
    model.graph.meta[_KEY] = {v.name: _dims(v) for v in values if v.name and v.shape is not None}


def drop_inferred_shapes(proto: onnx.ModelProto) -> None:
    """Leave out the shapes between inputs and outputs that every reader infers by itself.

    ONNX Runtime takes sizes of the same name for equal and fuses on the strength of them what is slower
    fused: residual sums and normalizations, by 15 % of a small BERT. Results of operators that are not
    standard keep their types, as nobody can infer them.
    """
    custom = {name for node in proto.graph.node if node.domain not in ("", "ai.onnx") for name in node.output}
    kept = [info for info in proto.graph.value_info if info.name in custom]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)


def _dims(value: Value) -> tuple[Dim, ...]:
    assert value.shape is not None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape.dims)


def restore(proto: onnx.ModelProto, model: Model) -> None:
    """Give the inputs and outputs of `proto`, written from `model`, their declared shapes.

    A dimension that is known now stays known; a declaration of another rank is left out, it was false.
    """
    declared: Declared = model.graph.meta.get(_KEY, {})
    for info in (*proto.graph.input, *proto.graph.output):
        dims = declared.get(info.name)
        if dims is None or not info.type.tensor_type.HasField("shape"):
            continue
        written = info.type.tensor_type.shape.dim
        if len(written) != len(dims):
            continue
        for now, dim in zip(written, dims, strict=True):
            if now.HasField("dim_value"):
                continue
            if isinstance(dim, int):
                now.dim_value = dim
            elif dim:
                now.dim_param = dim
            else:
                now.ClearField("dim_param")
