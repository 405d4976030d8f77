"""The prediction of kernels over the backend suite: for the CPU provider, and for CUDA on a double of its libraries."""

from __future__ import annotations

import functools
from typing import Any

import onnx_ir
import pytest
from cuda_double import assigned, why_impossible
from onnx_backend.backend_cases import all_cases

from graphopt.errors import GraphoptError
from graphopt.ir import Model, Node
from graphopt.ir.io import load
from graphopt.ir.query import subgraphs
from graphopt.lowering.cuda import installed
from graphopt.lowering.cuda.kernels import INLINED_FUNCTIONS, table_of, why_no_kernel
from graphopt.lowering.cuda.placement import CPU, predict, summarize
from graphopt.platforms import onnxruntime_version
from graphopt.runtime.ort import OrtSession
from graphopt.target import Target

EVERY = 7
"""One case of so many is asked about: they come in families."""
NEWEST_IR, NEWEST_OPSET = 13, 26
"""What ONNX Runtime 1.31 reads without a complaint."""
CUDA_TARGET = Target.parse("cuda")


@functools.cache
def models() -> dict[str, Model]:
    found = {}
    for case in [c for c in all_cases() if c.kind == "node"][::EVERY]:
        try:
            model = load(case.model)
        except GraphoptError:
            continue
        opsets = dict(model.opset_imports)
        if set(opsets) <= {"", "ai.onnx.ml"} and opsets.get("", 18) <= NEWEST_OPSET:
            model.ir_version = min(model.ir_version or NEWEST_IR, NEWEST_IR)
            found[case.name] = model
    return found


def test_the_cpu_provider_has_the_kernels_that_are_predicted() -> None:
    """By the kernels that ONNX Runtime registers, with the code that predicts for CUDA, against its sessions."""
    rows = installed.cpu_kernels()
    if rows is None:
        pytest.skip("this ONNX Runtime does not list its kernels")
    table = table_of(rows)
    assert sum(map(len, table.values())) > 1000
    right, wrong = 0, {}
    for name, model in models().items():
        nodes = list(model.graph)
        if any(node.op_type in INLINED_FUNCTIONS or any(subgraphs(node)) for node in nodes):
            continue
        lacking = [r for node in nodes if (r := why_no_kernel(node, model, table, "CPU")) is not None]
        try:
            session = OrtSession(
                onnx_ir.to_proto(model).SerializeToString(),
                {
                    "schema": "graphopt.ort-plan/1",
                    "providers": [[CPU, {}]],
                    "session_options": {"graph_optimization_level": "ORT_DISABLE_ALL"},
                },
                record_assignment=True,
            )
        except GraphoptError as error:
            if "Could not find an implementation" not in str(error):
                continue  # it has a kernel, and that refuses the model for another reason
            loaded = False
        else:
            # What is not in the assignment was replaced by its definition, or cast to a type that has one.
            loaded = {node.name for node in nodes} <= set(session.assignment())
            if not loaded or _has_half(nodes):
                continue
        if loaded == (not lacking):
            right += 1
        else:
            wrong[name] = lacking
    assert wrong == {}
    assert right > 100


def _has_half(nodes: list[Node]) -> bool:
    """Whether a node works with float16, which ONNX Runtime casts where it has no kernel."""
    values = [v for node in nodes for v in (*node.inputs, *node.outputs) if v is not None]
    return any(v.dtype is not None and v.dtype.name == "FLOAT16" for v in values)


@pytest.mark.skipif(why_impossible() is not None, reason=f"no double of CUDA: {why_impossible()}")
@pytest.mark.skipif(onnxruntime_version()[:2] != (1, 31), reason="the table is of ONNX Runtime 1.31")
def test_cuda_takes_the_nodes_that_are_predicted() -> None:
    plan: dict[str, Any] = {
        "schema": "graphopt.ort-plan/1",
        "providers": [["CUDAExecutionProvider", {}], [CPU, {}]],
        "session_options": {"graph_optimization_level": "ORT_ENABLE_BASIC"},
    }
    asked = {
        name: m
        for name, m in models().items()
        if "lstm" not in name and "gru" not in name and "rnn" not in name
    }
    found = assigned([(onnx_ir.to_proto(m).SerializeToString(), plan) for m in asked.values()])
    wrong, right = {}, 0
    for (name, model), actual in zip(asked.items(), found, strict=True):
        if "error" in actual:
            continue
        placement = predict(model, CUDA_TARGET)
        predicted = {p.node: p.provider for p in placement if p.kind != "folded"}
        differing = {n: p for n, p in actual["nodes"].items() if predicted.get(n, p) != p}
        if differing or actual["copies"] != summarize(model, placement).copies:
            wrong[name] = (differing, actual["copies"])
        right += not differing
    # An optional that is absent is known only to ONNX Runtime's own shape inference.
    assert set(wrong) <= {"test_if_opt", "test_affine_grid_2d_expanded", "test_affine_grid_3d_expanded"}
    assert right > 150
