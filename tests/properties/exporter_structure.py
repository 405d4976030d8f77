"""What is legal but odd about a whole model: names, interfaces, claims, functions, versions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def pick(rng: np.random.Generator, *options: object) -> object:
    return options[int(rng.integers(len(options)))]


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and all graphs inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs_of(attribute.g)


def rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Rename values everywhere in `model`."""
    for graph in graphs_of(model.graph):
        for group in (graph.input, graph.output, graph.value_info, graph.initializer):
            for item in group:
                item.name = names.get(item.name, item.name)
        for node in graph.node:
            for field in (node.input, node.output):
                field[:] = [names.get(n, n) for n in field]


def clashing_names(model: onnx.ModelProto, rng: np.random.Generator) -> dict[str, str]:
    """Names such as passes make up, odd characters, and nodes without names or with the same one."""
    nodes = [n for g in graphs_of(model.graph) for n in g.node]
    values = list(dict.fromkeys(
        name for g in graphs_of(model.graph)
        for name in [*(i.name for i in g.input), *(t.name for t in g.initializer), *(o for n in g.node for o in n.output)]
        if name
    ))  # fmt: skip
    labels = [n.name for n in nodes if n.name] or ["n"]
    taken, names = set(values), {}
    for value in values:
        if rng.random() > 0.35:
            continue
        stem = str(pick(rng, value, *labels[:20], *(n.op_type for n in nodes[:20])))
        other = str(pick(rng, *values))
        new = str(pick(
            rng, f"{stem}/const", f"{stem}:out", f"{stem}:0", f"{stem}_1", f"{stem}/output", f"{other}_folded", f"{stem}/axis",
            f"{stem}/empty", f"{stem}/iteration", stem, f"{other}_2", f"{stem}/stack:out", "const", "axis", "v", "0", " ",
            f"{other} ", "é✓", "a\"b'c", "x{y}", "a\nb", "graph_output", "Identity", f"{other}/output0",
        ))  # fmt: skip
        if new and new not in taken:
            taken.add(new)
            names[value] = new
    rename(model, names)
    for graph in graphs_of(model.graph):
        own = {n.name for n in graph.node}  # within one graph they must differ
        for node in graph.node:
            new = str(
                pick(
                    rng, "", "same", str(pick(rng, *values)), f"{pick(rng, *labels)}/output", "odd\tname", "é"
                )
            )
            if rng.random() < 0.5 and (not new or new not in own):
                own.add(new)
                node.name = new
    return names


def false_claims(model: onnx.ModelProto, rng: np.random.Generator, arrays: dict[str, np.ndarray]) -> None:
    """Shapes of inner values as some exporters leave them: stale, or with one symbol for unequal sizes."""
    for node in model.graph.node:
        for name in node.output:
            if name in arrays and rng.random() < 0.4 and arrays[name].dtype != object:
                array = arrays[name]
                kind = pick(rng, "symbol", "none", "true")
                shape = [
                    "batch" if kind == "symbol" else None if kind == "none" or rng.random() < 0.3 else n
                    for n in array.shape
                ]
                element = helper.np_dtype_to_tensor_dtype(array.dtype)
                model.graph.value_info.append(helper.make_tensor_value_info(name, element, shape))


DIMENSIONS = ("{} + 1", "2*{}", "{}/2", "3", "-1", "?", "None", "max({}, b)", "{} ", "Б{}", "{} b", "")


def odd_dimensions(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Names of dimensions that look like expressions or numbers, and sizes that are equal by no name."""
    used: dict[str, str] = {}
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and rng.random() < 0.5:
                old, new = dim.dim_param, str(pick(rng, *DIMENSIONS)).format(dim.dim_param)
                # One name stands for one size.
                if not new:
                    dim.Clear()
                elif used.setdefault(new, old) == old:
                    dim.dim_param = new


def overridable(
    model: onnx.ModelProto, rng: np.random.Generator, arrays: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Make initializers of any type inputs with defaults; return other values for some of them."""
    fed: dict[str, np.ndarray] = {}
    kept = {i.name for i in model.graph.input}
    for graph in graphs_of(model.graph):
        # Of a loop without a turn the shape of what is stacked is the runtime's guess.
        kept.update(name for n in graph.node if n.op_type == "Loop" for name in n.input[:2])
        # A dropout that trains with a share above 0 is random.
        kept.update(name for n in graph.node if n.op_type == "Dropout" for name in n.input[1:])
    for tensor in model.graph.initializer:
        if (
            tensor.name in kept
            or rng.random() > 0.35
            or tensor.name not in arrays
            or tensor.data_type in (TensorProto.STRING, TensorProto.INT4)
        ):
            continue
        array = arrays[tensor.name]
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, array.shape))
        if array.dtype.kind == "f":
            fed[tensor.name] = np.asarray(array * 0.5 + 0.25, array.dtype)
        elif array.dtype == bool:
            fed[tensor.name] = np.asarray(~array)
        elif array.dtype.kind in "iu" and rng.random() < 0.3:
            fed[tensor.name] = array[::-1].copy() if array.ndim else np.asarray(array)
    return fed


def odd_outputs(model: onnx.ModelProto, rng: np.random.Generator, arrays: dict[str, np.ndarray]) -> None:
    """More outputs: inputs, constants, inner values, one value under several names, chains of copies."""
    graph = model.graph
    given = {o.name for o in graph.output}
    known = [
        *(i.name for i in graph.input), *(t.name for t in graph.initializer), *(o for n in graph.node for o in n.output if o),
    ]  # fmt: skip
    known = [n for n in known if n in arrays and arrays[n].dtype != object]
    for index in range(int(rng.integers(1, 4))):
        name = str(pick(rng, *known))
        if name in given or rng.random() < 0.5:
            copy = f"copy{index}"
            source = str(pick(rng, name, *sorted(given & set(known))))
            graph.node.append(helper.make_node("Identity", [source], [copy]))
            arrays[copy] = arrays[source]
            name = copy
        given.add(name)
        array = arrays[name]
        graph.output.append(
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
            )
        )


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node and its bodies read from outside."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            own = {t.name for t in attribute.g.initializer} | {i.name for i in attribute.g.input}
            for inner in attribute.g.node:
                found |= reads(inner) - own
                own |= set(inner.output)
            found |= {o.name for o in attribute.g.output} - own
    return found - {""}


def functions(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Put runs of nodes into local functions, one of them perhaps inside another, attributes as parameters."""
    for level in range(int(rng.integers(1, 3))):
        graph = model.graph
        if len(graph.node) < 2:
            return
        first = int(rng.integers(0, len(graph.node)))
        last = min(len(graph.node), first + int(rng.integers(1, 5)))
        group = [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node[first:last]]
        made = {o for n in group for o in n.output if o}
        later = {o.name for o in graph.output}.union(*(reads(n) for n in graph.node[last:]), set())
        inputs = sorted(set().union(*(reads(n) for n in group)) - made)
        outputs = [o for n in group for o in n.output if o in later]
        if not outputs or any(_reads_in_bodies(n) & set(inputs) for n in group):
            continue  # what bodies capture is no formal input of a function in every runtime
        parameters = _parameters(group, rng)
        name = f"Odd {level}" if rng.random() < 0.1 else f"Odd{level}"
        model.functions.append(
            helper.make_function(
                "local.odd", name, inputs, outputs, group, list(model.opset_import), list(parameters)
            )
        )
        call = helper.make_node(
            name, inputs, outputs, name=str(pick(rng, "", f"call{level}")), domain="local.odd"
        )
        call.attribute.extend(parameters.values())
        rest = [*graph.node[:first], call, *graph.node[last:]]
        rest = [onnx.NodeProto.FromString(n.SerializeToString()) for n in rest]
        del graph.node[:]
        graph.node.extend(rest)
        if not any(i.domain == "local.odd" for i in model.opset_import):
            model.opset_import.append(helper.make_opsetid("local.odd", 1))


def _reads_in_bodies(node: onnx.NodeProto) -> set[str]:
    return reads(node) - set(node.input)


def _parameters(group: list[onnx.NodeProto], rng: np.random.Generator) -> dict[str, onnx.AttributeProto]:
    found: dict[str, onnx.AttributeProto] = {}
    scalars = (onnx.AttributeProto.INT, onnx.AttributeProto.FLOAT, onnx.AttributeProto.INTS)
    for node in group:
        for attribute in node.attribute:
            if attribute.type in scalars and rng.random() < 0.5:
                label = f"p{len(found)}"
                value = onnx.AttributeProto.FromString(attribute.SerializeToString())
                value.name = label
                found[label] = value
                kept, kind = attribute.name, attribute.type
                attribute.Clear()
                attribute.name, attribute.type, attribute.ref_attr_name = kept, kind, label
    return found


def old_ir(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Other IR versions; in the oldest every initializer is listed as an input and is none."""
    version = int(pick(rng, 3, 4, 6, 7, 9, 10))  # type: ignore[call-overload]
    if version == 3:
        if len(list(graphs_of(model.graph))) > 1 or model.functions:
            return
        listed = {i.name for i in model.graph.input}
        for tensor in model.graph.initializer:
            if tensor.name not in listed:
                model.graph.input.append(
                    helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
    model.ir_version = version


def texts(model: onnx.ModelProto) -> None:
    """Descriptions and properties, which are to be kept."""
    model.doc_string, model.producer_name = "a model", "odd"
    helper.set_model_props(model, {"key": "value"})
    model.graph.doc_string = "a graph"
    for node in model.graph.node:
        node.doc_string = "a node"


def constants_as(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Some initializers stored in their typed field and not as raw bytes."""
    for tensor in model.graph.initializer:
        if (
            tensor.data_type in (TensorProto.FLOAT, TensorProto.INT64, TensorProto.DOUBLE, TensorProto.INT32)
            and rng.random() < 0.3
        ):
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(
                helper.make_tensor(tensor.name, tensor.data_type, array.shape, array.reshape(-1).tolist())
            )
