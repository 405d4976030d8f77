"""Cases of the operators for which the backend suite has no one-node template: constants, draws, control flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.defs import OpSchema

VALUES = np.array([0, 1, 1, 0, 1, 1]).reshape(2, 3)
Made = tuple[list[onnx.NodeProto], dict[str, np.ndarray]]


def made_case(schema: OpSchema, variable: str, numpy_type: Any) -> Made | None:
    """Nodes that compute ``y``, and their feeds, where `variable` is of `numpy_type`; None where nothing is made."""
    maker = _MAKERS.get(schema.name)
    return None if maker is None else maker(schema, variable, np.dtype(numpy_type))


def _tensor(dtype: np.dtype, shape: tuple[int, ...] = (2, 3)) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(
        VALUES.astype(dtype).reshape(-1)[: int(np.prod(shape))].reshape(shape)
    )


def _number(dtype: np.dtype) -> int:
    return helper.np_dtype_to_tensor_dtype(dtype)


def _constant(schema: OpSchema, variable: str, dtype: np.dtype) -> Made | None:
    return [helper.make_node("Constant", [], ["y"], "node", value=_tensor(dtype))], {}


def _constant_of_shape(schema: OpSchema, variable: str, dtype: np.dtype) -> Made | None:
    shape = np.array([2, 3], np.int64)
    value = _tensor(dtype if variable == "T2" else np.dtype(np.float32), (1,))
    return [helper.make_node("ConstantOfShape", ["s"], ["y"], "node", value=value)], {"s": shape}


def _draw(schema: OpSchema, variable: str, dtype: np.dtype) -> Made | None:
    """Draws of a given shape."""
    return [helper.make_node(schema.name, [], ["y"], "node", dtype=_number(dtype), shape=[2, 3])], {}


def _draw_like(schema: OpSchema, variable: str, dtype: np.dtype) -> Made | None:
    result = dtype if variable == "T2" else np.dtype(np.float32)
    operand = VALUES.astype(dtype if variable == "T1" else np.float32)
    return [helper.make_node(schema.name, ["x"], ["y"], "node", dtype=_number(result))], {"x": operand}


def _multinomial(schema: OpSchema, variable: str, dtype: np.dtype) -> Made | None:
    result = dtype if variable == "T2" else np.dtype(np.int32)
    operand = np.zeros((2, 3), dtype if variable == "T1" else np.float32)
    return [helper.make_node("Multinomial", ["x"], ["y"], "node", dtype=_number(result), sample_size=4)], {
        "x": operand
    }


def _body(
    dtype: np.dtype, inputs: list[onnx.ValueInfoProto], nodes: list[onnx.NodeProto], outputs: list[str]
) -> onnx.GraphProto:
    infos = [
        helper.make_tensor_value_info(
            name,
            onnx.TensorProto.BOOL if name == "go_on" else _number(dtype),
            [] if name == "go_on" else None,
        )
        for name in outputs
    ]
    return helper.make_graph(nodes, "body", inputs, infos)


def _branches(schema: OpSchema, variable: str, dtype: np.dtype) -> Made | None:
    if variable == "B":
        dtype = np.dtype(np.float32)
    then = _body(dtype, [], [helper.make_node("Identity", ["x"], ["a"])], ["a"])
    other = _body(dtype, [], [helper.make_node("Identity", ["z"], ["b"])], ["b"])
    node = helper.make_node("If", ["c"], ["y"], "node", then_branch=then, else_branch=other)
    return [node], {"c": np.array(False), "x": VALUES.astype(dtype), "z": VALUES[:1].astype(dtype)}


def _loop(schema: OpSchema, variable: str, dtype: np.dtype) -> Made | None:
    if variable != "V":
        dtype = np.dtype(np.float32)
    body = _body(
        dtype,
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", _number(dtype), [2, 3]),
        ],
        [
            helper.make_node("Identity", ["on"], ["go_on"]),
            helper.make_node("Identity", ["x"], ["next"]),
            helper.make_node("Identity", ["state"], ["seen"]),
        ],
        ["go_on", "next", "seen"],
    )
    node = helper.make_node("Loop", ["n", "", "s"], ["last", "y"], "node", body=body)
    feeds = {"n": np.array(3, np.int64), "s": np.zeros((2, 3)).astype(dtype), "x": VALUES.astype(dtype)}
    return [node], feeds


def _scan(schema: OpSchema, variable: str, dtype: np.dtype) -> Made | None:
    if variable != "V" or schema.since_version < 9:  # the first Scan has a batch axis
        return None
    body = _body(
        dtype,
        [helper.make_tensor_value_info(name, _number(dtype), [3]) for name in ("state", "row")],
        [helper.make_node("Identity", ["row"], ["next"]), helper.make_node("Identity", ["state"], ["seen"])],
        ["next", "seen"],
    )
    node = helper.make_node("Scan", ["s", "x"], ["last", "y"], "node", body=body, num_scan_inputs=1)
    return [node], {"s": np.zeros(3).astype(dtype), "x": VALUES.astype(dtype)}


_MAKERS: dict[str, Callable[[OpSchema, str, np.dtype], Made | None]] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "If": _branches,
    "Loop": _loop,
    "Multinomial": _multinomial,
    "RandomNormal": _draw,
    "RandomNormalLike": _draw_like,
    "RandomUniform": _draw,
    "RandomUniformLike": _draw_like,
    "Scan": _scan,
}
