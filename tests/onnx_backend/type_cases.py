"""Every version and element type of an operator that its schema allows, tried by the cases of the backend suite.

The suite has few element types for most operators, and only the newest version of each. Here the one-node
cases of the suite are templates: written for an older version of the operator (operands that were attributes
then become attributes), and with the operands of one type variable cast to each type that its schema allows.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.defs import OpSchema
from onnx_backend.backend_cases import Case, all_cases
from onnx_backend.type_cases_made import made_case

OLDEST = 7  # the opset from which on definitions are tried; older ones are upgraded when a model is read
DTYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
"""Attributes that name the element type of an output."""

NO_ZEROS = {"Div": 1, "Mod": 1}
"""Operands in which integer zeros end the process that ONNX Runtime runs in."""

MAX_ELEMENTS = 1 << 14


@dataclasses.dataclass(frozen=True)
class TypeCase:
    """A one-node model in which one type variable of the operator has one element type.

    Attributes:
        version: the since-version of the operator's definition.
        variable: the type variable of the schema, ``T``.
        dtype: the element type, as ``float16``.
        template: the suite's case that it is made from, if any.
    """

    op_type: str
    version: int
    variable: str
    dtype: str
    template: str
    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Template:
    name: str
    node: onnx.NodeProto
    operands: list[np.ndarray | None]


def schemas() -> dict[str, dict[int, OpSchema]]:
    """The definitions of the default domain's operators by since-version, of opset 7 or newer and in force."""
    found: dict[str, dict[int, OpSchema]] = defaultdict(dict)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found[schema.name][schema.since_version] = schema
    return {
        name: {
            v: versions[v] for v in sorted(versions) if v >= min(OLDEST, max(_before(versions), default=0))
        }
        for name, versions in sorted(found.items())
        if not versions[max(versions)].deprecated
    }


def _before(versions: Mapping[int, OpSchema]) -> list[int]:
    """The versions that a model of the oldest opset may mean."""
    return [v for v in versions if v <= OLDEST]


def variables(schema: OpSchema) -> dict[str, list[str]]:
    """The type variables of the schema with the tensor element types that each may be."""
    return {
        constraint.type_param_str: [
            name[len("tensor(") : -1]
            for name in sorted(constraint.allowed_type_strs)
            if name.startswith("tensor(")
        ]
        for constraint in schema.type_constraints
    }


@cache
def templates() -> dict[str, list[_Template]]:
    """The suite's cases of one default-domain node with tensors for operands, by operator, smallest first."""
    found: dict[str, list[_Template]] = defaultdict(list)
    for case in all_cases():
        made = _template(case)
        if made is not None:
            found[made.node.op_type].append(made)
    for cases in found.values():
        cases.sort(key=lambda t: (sum(x.size for x in t.operands if x is not None), t.name))
    return dict(found)


def _template(case: Case) -> _Template | None:
    if case.kind != "node" or (case.test.model is None and not case.test.model_dir):
        return None
    model = case.model
    if len(model.graph.node) != 1 or model.graph.node[0].domain or model.graph.initializer:
        return None
    node = model.graph.node[0]
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        return None
    inputs = next(iter(case.data_sets(model)), ([], []))[0]
    fed = dict(zip((v.name for v in model.graph.input), inputs, strict=False))
    operands = [fed.get(name) if name else None for name in node.input]
    if any(name and not isinstance(fed.get(name), np.ndarray) for name in node.input):
        return None
    if any(x is not None and x.size > MAX_ELEMENTS for x in operands):
        return None
    return _Template(case.name, node, operands)


def type_cases(op_type: str) -> Iterator[TypeCase | tuple[int, str, str]]:
    """A case for each version, type variable and element type of `op_type`.

    Where none can be written, just the three of them: version, variable and element type.
    """
    available = schemas()[op_type]
    newest = available[max(available)]
    for version, schema in available.items():
        for variable, allowed in variables(schema).items():
            for dtype in allowed:
                ways = (
                    _written(template, newest, schema, variable, dtype)
                    for template in _by_fit(templates().get(op_type, ()), newest, variable, dtype)
                )
                made = next((case for case in ways if case is not None), None) or _made(
                    schema, variable, dtype
                )
                yield (version, variable, dtype) if made is None else made


def _by_fit(available: Iterable[_Template], newest: OpSchema, variable: str, dtype: str) -> list[_Template]:
    """The templates, those first whose operands of that type variable are of the type already."""

    def foreign(template: _Template) -> bool:
        return not any(
            x is not None
            and _name_of(x.dtype) == dtype
            and newest.inputs[min(i, len(newest.inputs) - 1)].type_str == variable
            for i, x in enumerate(template.operands)
        )

    return sorted(available, key=foreign)


def _made(schema: OpSchema, variable: str, dtype: str) -> TypeCase | None:
    if dtype == "string":
        return None
    found = made_case(schema, variable, _numpy(dtype))
    if found is None:
        return None
    return _case("", schema, variable, dtype, found[0], found[1], ["y"])


def _written(
    template: _Template, newest: OpSchema, schema: OpSchema, variable: str, dtype: str
) -> TypeCase | None:
    """The template as a model of the version that `schema` is, with `variable` of type `dtype`."""
    attributes = {a.name: helper.get_attribute_value(a) for a in template.node.attribute}
    older = _for_version(template, newest, schema, attributes)
    if older is None:
        return None
    kept, operands = older
    allowed = variables(schema)
    places = [schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in range(len(operands))]
    chosen = any(place == variable and x is not None for place, x in zip(places, operands, strict=True))
    if not chosen and not _choose_result(schema, variable, dtype, kept):
        return None
    cast: list[np.ndarray | None] = []
    for index, (place, operand) in enumerate(zip(places, operands, strict=True)):
        if operand is None:
            cast.append(None)
            continue
        own = str(_name_of(operand.dtype))
        wanted = dtype if place == variable else own
        if wanted not in allowed.get(place, [place.removeprefix("tensor(").removesuffix(")")]):
            return None
        made = operand if wanted == own else _cast(operand, wanted)
        if made is None:
            return None
        if NO_ZEROS.get(schema.name) == index and made.dtype.kind in "iu":
            made = np.where(made == 0, made.dtype.type(1), made)
        cast.append(made)
    return _model(template, schema, variable, dtype, cast, kept)


def _for_version(
    template: _Template, newest: OpSchema, schema: OpSchema, attributes: Mapping[str, Any]
) -> tuple[dict[str, Any], list[np.ndarray | None]] | None:
    """Attributes and operands for the version that `schema` is; None if it cannot say this."""
    kept = dict(attributes)
    if any(name not in schema.attributes for name in kept):
        return None
    names = [formal.name for formal in schema.inputs]
    operands: list[np.ndarray | None] = []
    for index, operand in enumerate(template.operands):
        formal = newest.inputs[min(index, len(newest.inputs) - 1)]
        if formal.name in schema.attributes and formal.name not in names:
            if operand is not None and not operand.size:
                return None
            if operand is not None:
                kept[formal.name] = _as_attribute(operand, schema.attributes[formal.name])
        elif index < len(names) or schema.inputs[-1].option == OpSchema.FormalParameterOption.Variadic:
            operands.append(operand)
        elif operand is not None:
            return None
    while operands and operands[-1] is None:
        operands.pop()
    single = OpSchema.FormalParameterOption.Single
    if any(x is None and f.option == single for x, f in zip(operands, schema.inputs, strict=False)):
        return None
    if len(operands) < schema.min_input or len(template.node.output) > schema.max_output:
        return None
    if any(a.required and name not in kept for name, a in schema.attributes.items()):
        return None
    return kept, operands


def _as_attribute(operand: np.ndarray, attribute: Any) -> Any:
    """An operand as the attribute that it was in an older version."""
    values = operand.reshape(-1).tolist()
    lists = (OpSchema.AttrType.INTS, OpSchema.AttrType.FLOATS)
    return values if attribute.type in lists else values[0]


def _choose_result(schema: OpSchema, variable: str, dtype: str, attributes: dict[str, Any]) -> bool:
    """Set the attribute that makes the results of type `variable` a `dtype`; whether there is one."""
    if all(formal.type_str != variable for formal in schema.outputs):
        return False
    for name in DTYPE_ATTRIBUTES:
        if name in schema.attributes:
            attributes[name] = helper.np_dtype_to_tensor_dtype(np.dtype(_numpy(dtype)))
            return True
    return False


def _model(
    template: _Template,
    schema: OpSchema,
    variable: str,
    dtype: str,
    operands: list[np.ndarray | None],
    attributes: Mapping[str, Any],
) -> TypeCase:
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(operands)]
    node = helper.make_node(schema.name, names, list(template.node.output), "node")
    for key, value in attributes.items():
        kind = onnx.AttributeProto.AttributeType.Value(schema.attributes[key].type.name)
        node.attribute.append(helper.make_attribute(key, value, attr_type=kind))
    feeds = {name: x for name, x in zip(names, operands, strict=True) if x is not None}
    return _case(template.name, schema, variable, dtype, [node], feeds, [n for n in node.output if n])


def _case(
    template: str,
    schema: OpSchema,
    variable: str,
    dtype: str,
    nodes: list[onnx.NodeProto],
    feeds: dict[str, np.ndarray],
    outputs: list[str],
) -> TypeCase:
    inputs = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for k, x in feeds.items()
    ]
    graph = helper.make_graph(nodes, "types", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])
    imports = [helper.make_opsetid("", max(schema.since_version, OLDEST))]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=False)
    return TypeCase(schema.name, schema.since_version, variable, dtype, template, model, feeds)


def _numpy(name: str) -> Any:
    """The numpy type of an element type of the standard."""
    number = getattr(onnx.TensorProto, {"double": "DOUBLE", "float": "FLOAT"}.get(name, name.upper()))
    return helper.tensor_dtype_to_np_dtype(number)


def _name_of(dtype: Any) -> str:
    """The standard's name of a numpy type, as schemas write it."""
    return str(onnx.TensorProto.DataType.Name(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))).lower()


def _cast(operand: np.ndarray, name: str) -> np.ndarray | None:
    """`operand` in another type, its numbers brought into the type's range; None for no sensible one."""
    if name == "string" or operand.dtype.kind in "OUS":
        return None  # strings mean something of their own in each operator
    target = np.dtype(_numpy(name))
    wide = operand.astype(np.float64 if operand.dtype.kind != "c" else np.complex128)
    if name == "bool":
        return np.asarray(wide > 0.5)
    if target.kind == "c":
        return np.asarray(wide + 0.5j * wide).astype(target)
    if operand.dtype.kind == "c":
        return None
    low, high = _range(name)
    with np.errstate(all="ignore"):
        if low is None:
            return np.asarray(
                wide.astype(np.float32).astype(target) if target.itemsize < 4 else wide.astype(target)
            )
        if operand.dtype.kind not in "iub" and np.abs(wide).max(initial=0) <= 2:
            wide = wide * 4  # numbers between zero and one would all be zeros
        return np.asarray(np.clip(np.rint(np.nan_to_num(wide)), low, high)).astype(np.int64).astype(target)


def _range(name: str) -> tuple[int, int] | tuple[None, None]:
    """The least and greatest number of an integer type that cases use; None for the others."""
    if name.startswith("uint"):
        return 0, min(2 ** int(name[4:]) - 1, 100)
    if name.startswith("int"):
        bits = int(name[3:])
        return max(-(2 ** (bits - 1)), -100), min(2 ** (bits - 1) - 1, 100)
    return None, None
