"""An engine as an ONNX model: one EPContext node that ONNX Runtime's TensorRT-RTX provider runs.

Source: ONNX Runtime, "EP Context Cache Feature Design", and the provider's own onnx_ctx_model_helper.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx_ir
from onnx import helper

from graphopt.ir import Model

PROVIDER = "NvTensorRTRTXExecutionProvider"
_OPSET, _IR_VERSION = 18, 10


def context_model(
    model: Model, *, engine_file: str, model_file: str, capabilities: Sequence[str], sdk_version: str
) -> bytes:
    """The serialised ONNX model around an engine that lies in a file beside it.

    The node's inputs and outputs are those of `model`, by name and in order.

    Args:
        engine_file: its name; the provider takes no path that leads elsewhere.
        model_file: the name of the ONNX model that the engine was built from.
        capabilities: ``sm89``, …. The node names a single one; where there are several it names none, as
            the provider would warn on every other GPU.
        sdk_version: of TensorRT-RTX.
    """
    inputs = [_info(v) for v in model.graph.inputs if not v.is_initializer()]
    outputs = [_info(v) for v in model.graph.outputs]
    attributes: dict[str, Any] = {
        "main_context": 1,
        "embed_mode": 0,
        "ep_cache_context": engine_file,
        "source": PROVIDER,
        "ep_sdk_version": sdk_version,
        "onnx_model_filename": model_file,
        "partition_name": "graphopt_engine",
    }
    if len(capabilities) == 1:
        attributes["hardware_architecture"] = capabilities[0].removeprefix("sm")
    node = helper.make_node(
        "EPContext",
        [info.name for info in inputs],
        [info.name for info in outputs],
        name="graphopt_engine",
        domain="com.microsoft",
        **attributes,
    )
    graph = helper.make_graph([node], model.graph.name or "graphopt", inputs, outputs)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    wrapped = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="graphopt")
    return bytes(wrapped.SerializeToString(deterministic=True))


def _info(value: onnx_ir.Value) -> onnx.ValueInfoProto:
    return onnx_ir.to_proto(value)
