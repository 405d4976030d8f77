"""What the docstrings of the passes show, exactly or nearly, amid the rest of a graph.

Every pass shows an example that it changes, so each is met, behind and in front of other operators.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
from exporter_graphs import Grower
from exporter_idioms import STEPS
from onnx import helper, numpy_helper

from graphopt import passes

sys.path.insert(0, str(Path(__file__).parent.parent / "passes"))
from examples import example_of, model_of

SHARE = 8
"""How often the step is among the others: there are as many examples as all of these."""


@functools.cache
def examples() -> list[onnx.ModelProto]:
    """The models that the passes change, without those that hold bodies, of which there are steps enough."""
    found = []
    for name in passes.names():
        example = example_of(passes.find(name))
        assert example is not None, name
        model = onnx_ir.to_proto(model_of(f"{example.get('given', '')}; {example['before']}"))
        nodes = model.graph.node
        if all("" not in n.output and not any(a.HasField("g") for a in n.attribute) for n in nodes):
            found.append(model)
    return found


def shown(g: Grower) -> None:
    """One example; at times with another number, another order of operands, or another user."""
    model = g.pick(*examples())
    g.need(g.opset >= next(o.version for o in model.opset_import if not o.domain))
    names: dict[str, str] = {"": ""}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and g.chance(0.05):
            array = np.asarray(array * g.pick(0.5, 1.5, -1), array.dtype)
        names[tensor.name] = g.const(array)
    sizes: dict[str, int] = {}
    for info in model.graph.input:
        if info.name not in names:
            names[info.name] = operand(g, info.type.tensor_type, sizes)
    for node in model.graph.node:
        inputs = [names[i] for i in node.input]
        if node.op_type in ("Add", "Mul") and g.chance(0.2):
            inputs.reverse()
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        count = len(node.output)
        made = g.op(node.op_type, *inputs, outputs=count, domain=node.domain, **attributes)
        names |= dict(zip(node.output, [made] if count == 1 else made, strict=True))
    inner = [names[o] for n in model.graph.node for o in n.output]
    if g.chance(0.15):
        g.op("Identity", g.pick(*inner))


STEPS.extend([shown] * SHARE)


def operand(g: Grower, declared: onnx.TypeProto.Tensor, sizes: dict[str, int]) -> str:
    """A value of the type and shape that are declared: one that is there, or one made of what is there."""
    dtype = helper.tensor_dtype_to_np_dtype(declared.elem_type)
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in declared.shape.dim]

    def fits(value: str) -> bool:
        array, bound = g.arrays[value], dict(sizes)
        return (
            (array.dtype, array.ndim) == (dtype, len(dims))
            and array.size > 0
            and all(n == (bound.setdefault(d, n) if d in bound or isinstance(d, str) else d)
                    for d, n in zip(dims, array.shape, strict=True))
        )  # fmt: skip

    fitting = [v for v in g.values if fits(v)]
    if fitting and g.chance(0.7):
        found = str(g.pick(*fitting))
        sizes.update({d: n for d, n in zip(dims, g.shape(found), strict=True) if isinstance(d, str)})
        return found
    shape = [sizes.setdefault(d, g.pick(2, 3)) if isinstance(d, str) else d for d in dims]
    return made(g, np.dtype(dtype), shape)


def made(g: Grower, dtype: np.dtype[Any], shape: list[int]) -> str:
    """A value of that type and shape which hangs on a value that is there."""
    if dtype.kind == "f":
        x = g.value("f", full=True)
        some = g.reduce("ReduceMean", x, list(range(g.arrays[x].ndim)), 0) if g.arrays[x].ndim else x
        result = g.commute("Add", some, g.const(g.rng.standard_normal(shape), np.float32))
    else:
        some = g.op("Size", g.value("winb"))
        result = g.commute("Mul", some, g.const(g.rng.integers(0, 2, shape), np.int64))
    to = helper.np_dtype_to_tensor_dtype(dtype)
    return result if g.arrays[result].dtype == dtype else str(g.op("Cast", result, to=to))
