"""The table of kernels that passes select by against what ONNX Runtime registers, and the CUDA table."""

from __future__ import annotations

import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as state

from graphopt.lowering.cuda.kernels import cuda_kernels
from graphopt.passes._onnxruntime import DOMAIN, KERNELS


def test_cpu_kernels_are_registered() -> None:
    registered: dict[str, set[str]] = {}
    for kernel in state.get_registered_ep_kernel_defs("CPUExecutionProvider"):
        if kernel.domain == DOMAIN:
            names = {
                t.removeprefix("tensor(").removesuffix(")").upper()
                for ts in kernel.type_constraints.values()
                for t in ts
            }
            registered.setdefault(kernel.op_name, set()).update(names)
    for op_type, types in KERNELS["cpu"].items():
        assert types <= registered[op_type], op_type


@pytest.mark.parametrize("op_type", KERNELS["cuda"])
def test_cuda_kernels_are_in_the_table_that_placement_reads(op_type: str) -> None:
    kernels = cuda_kernels()[DOMAIN, op_type]
    names = {name.upper() for kernel in kernels for types in kernel.types.values() for name in types}
    assert KERNELS["cuda"][op_type] <= names
