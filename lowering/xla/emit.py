"""Emission: walk the graph once and trace each node's lowering under a scope that names it.

Three kinds of operands travel through the walk:

* ``np.ndarray``: known at compile time. Shape arithmetic stays here and never becomes HLO. Under
  symbolic dimensions such an array holds the dimensions' expressions (dtype object).
* :class:`Weight`: an initializer. It is an argument of the compiled function, so that executables
  carry no weights; its numbers can still be read where an operand must be known.
* a JAX array: computed on the device.

Sequences are Python lists of operands, an absent optional value is None.
"""

from __future__ import annotations

import dataclasses
import re
from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from graphopt.errors import GraphoptError, LoweringError, UnsupportedError
from graphopt.ir import AttributeType, Graph, Model, Node, TensorProtocol, Value
from graphopt.ir.evaluate import EvaluationError, evaluate
from graphopt.ir.query import captured_values
from graphopt.lowering.registry import Lowering
from graphopt.lowering.xla import bounded, functions
from graphopt.lowering.xla.dtypes import NOT_IN_XLA, numpy_dtype
from graphopt.lowering.xla.ops import load_all

INLINE_ELEMENTS = 32
"""Constants up to this size are written into the program; larger ones are arguments."""

STATIC_BYTES = 1 << 16
"""Integer constants up to this size take part in compile-time evaluation."""

UNROLLED_NODES = 20_000
"""How many nodes loops of one model may unroll to: nested loops multiply."""

SCOPE = re.compile(r"\bgo(\d+)_\w+")


class StaticOperandRequired(LoweringError):
    """An operand must be known at compile time but is computed or fed.

    Attributes:
        inputs: the graph inputs that it depends on; binding their values may help.
        specialisable: whether a session may make a program for each value that it meets: where a
            result is as large as its operand's numbers say, every run would need a new one.
    """

    def __init__(
        self, message: str, *, inputs: frozenset[str], specialisable: bool = True, **fields: Any
    ) -> None:
        super().__init__("GO203", message, **fields)
        self.inputs = inputs
        self.specialisable = specialisable


@dataclasses.dataclass(frozen=True)
class Weight:
    """An initializer: the traced argument, and its numbers on demand."""

    name: str
    tensor: TensorProtocol
    array: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The static shape."""
        return tuple(self.tensor.shape.numpy())

    @property
    def dtype(self) -> np.dtype:
        """The element type."""
        return np.dtype(self.array.dtype)


Operand = Any  # np.ndarray | Weight | jax.Array | list | None


def scope_names(model: Model) -> dict[str, Node]:
    """The scope of every node, nested ones included: what HLO metadata is mapped back by."""
    return {scope_name(index, node): node for index, node in enumerate(model.graph.all_nodes())}


def node_scopes(model: Model) -> dict[Node, str]:
    """:func:`scope_names` by node."""
    return {node: name for name, node in scope_names(model).items()}


def scope_name(index: int, node: Node) -> str:
    """The named scope of the node at `index` of the model's walk: ``go12_Conv``."""
    return f"go{index}_{re.sub(r'[^A-Za-z0-9]', '', node.op_type)}"


@dataclasses.dataclass
class Context:
    """What an op lowering may ask besides its operands and attributes.

    Attributes:
        node: the node.
        version: the since-version of its schema.
        precision: for contractions: what the user asked, never a backend's default.
    """

    emitter: Emitter
    node: Node
    version: int
    env: MutableMapping[Value, Operand]

    @property
    def outputs(self) -> int:
        """The number of outputs the node lists (absent ones in between included)."""
        return len(self.node.outputs)

    @property
    def precision(self) -> jax.lax.Precision | None:
        """Matmul and convolution precision."""
        return self.emitter.precision

    def wants(self, index: int) -> bool:
        """Whether output `index` exists and is used."""
        if index >= len(self.node.outputs):
            return False
        value = self.node.outputs[index]
        return bool(value.name) and (bool(value.uses()) or value.is_graph_output())

    def output_dtype(self, index: int = 0) -> np.dtype | None:
        """The inferred element type of output `index`, if known."""
        dtype = self.node.outputs[index].dtype
        return None if dtype is None else numpy_dtype(dtype, where=describe(self.node))

    def operand(self, index: int) -> Operand:
        """Input `index` as it travels: numpy where it is known, a list for a sequence, None if absent."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return None if value is None else self.emitter.lookup(value, self.env)

    def known(self, index: int) -> np.ndarray | None:
        """The numbers of input `index` if they are known at compile time, else None."""
        operand = self.operand(index)
        if isinstance(operand, Weight):
            return operand.tensor.numpy()
        return operand if isinstance(operand, np.ndarray) and operand.dtype != object else None

    def charge_unrolled(self, graph: Graph) -> None:
        """Count one unrolled copy of `graph`. Raises UnsupportedError (GO205) beyond the budget."""
        self.emitter.unrolled_nodes += len(graph)
        if self.emitter.unrolled_nodes > UNROLLED_NODES:
            raise UnsupportedError(
                "GO205", f"loops unroll to more than {UNROLLED_NODES} nodes", where=describe(self.node)
            )

    def captured(self) -> list[tuple[Value, Operand]]:
        """The outer values that the node's subgraphs use, with their operands."""
        return [(v, self.emitter.lookup(v, self.env)) for v in captured_values(self.node)]

    def subgraph(self, graph: Graph, operands: Sequence[Operand]) -> list[Operand]:
        """Emit `graph` with `operands` for its inputs; return its outputs (static ones as numpy)."""
        # Layered, not copied: a copy for every branch would be quadratic in the size of the model.
        inner = ChainMap(dict(zip(graph.inputs, operands, strict=True)), self.env)
        self.emitter.run(graph, inner)
        return [self.emitter.lookup(v, inner) for v in graph.outputs]

    def unsupported(self, message: str, **fields: Any) -> UnsupportedError:
        """An error that this form of the operator is not supported, naming the node."""
        return UnsupportedError("GO202", message, where=describe(self.node), **fields)


class Emitter:
    """Traces one model. Make one per trace.

    Args:
        weights: the traced arguments by initializer name.
        precision: matmul precision.
        scope: that of all nodes, instead of one for each.
        scopes: of each node; of the whole model by default, which is walked for them.
    """

    def __init__(
        self,
        model: Model,
        weights: Mapping[str, jax.Array],
        *,
        precision: jax.lax.Precision | None = None,
        scope: str | None = None,
        scopes: Mapping[Node, str] | None = None,
    ) -> None:
        self.model = model
        self.weights = weights
        self.precision = precision
        self.registry = load_all()
        self.unrolled_nodes = 0
        self.bounds: dict[str, int] = {}  # how often each node gave a result as large as the data says
        if scopes is None:
            scopes = {node: scope or name for node, name in node_scopes(model).items()}
        self.scopes = scopes

    def run(self, graph: Graph, env: MutableMapping[Value, Operand]) -> None:
        """Emit every node of `graph`; `env` maps values to operands and is filled in place."""
        for node in graph:
            self.emit(node, env)

    def lookup(self, value: Value, env: Mapping[Value, Operand]) -> Operand:
        """The operand of `value`: from `env`, or the initializer."""
        if value in env:
            return env[value]
        tensor = value.const_value
        if tensor is None:
            raise LoweringError("GO105", "a value has no producer", where=f"value {value.name!r}")
        if tensor.dtype in NOT_IN_XLA:
            numpy_dtype(tensor.dtype, where=f"initializer {value.name!r}")
        name = value.name or ""
        if name in self.weights:
            return Weight(name, tensor, self.weights[name])
        return tensor.numpy()

    def emit(self, node: Node, env: MutableMapping[Value, Operand]) -> None:
        """Emit one node: its results join `env`. Raises GraphoptError if this form cannot be lowered."""
        operands = [None if v is None else self.lookup(v, env) for v in node.inputs]
        try:
            results = self._static_results(node, operands)
            if results is None:
                with jax.named_scope(self.scopes[node]):
                    results = self._lower(node, operands, env)
        except GraphoptError:
            raise
        except jax.errors.InconclusiveDimensionOperation as error:
            raise LoweringError(
                "GO204",
                f"the operator needs to know a dimension: {_first_line(error)}",
                where=describe(node),
                found=", ".join(_describe_operand(o) for o in operands),
                next_step="Bind it with --dim or --shape.",
            ) from error
        except (
            TypeError,
            ValueError,
            NotImplementedError,
            IndexError,
            ZeroDivisionError,
            jax.errors.JAXTypeError,
        ) as error:
            raise LoweringError(
                "GO202",
                f"this form of the operator cannot be lowered: {_first_line(error)}",
                where=describe(node),
                found=", ".join(_describe_operand(o) for o in operands),
            ) from error
        for value, result in zip(node.outputs, results, strict=False):
            env[value] = result

    def _static_results(self, node: Node, operands: Sequence[Operand]) -> Sequence[Operand] | None:
        """The outputs as numpy if they follow from what is known at compile time."""
        if (node.domain or "") == "" and node.op_type in ("Shape", "Size") and operands[0] is not None:
            if isinstance(operands[0], list):
                return None
            data = operands[0]
            dims = data.dims if isinstance(data, bounded.Bounded) else tuple(data.shape)
            return [_shape_operator(node, dims)]
        if any(a.type in (AttributeType.GRAPH, AttributeType.GRAPHS) for a in node.attributes.values()):
            return None
        known: list[np.ndarray | None] = []
        for operand in operands:
            if operand is None or isinstance(operand, np.ndarray):
                known.append(operand)
            elif (
                isinstance(operand, Weight)
                and operand.dtype.kind in "iub"
                and operand.tensor.nbytes <= STATIC_BYTES
            ):
                known.append(operand.tensor.numpy())
            else:
                return None
        try:
            return evaluate(
                node, known, opset=self.model.opset_imports.get(node.domain or "", 1), max_bytes=STATIC_BYTES
            )
        except EvaluationError:
            return None  # too large, random or without a numpy form: it is computed on the device

    def _lower(
        self, node: Node, operands: Sequence[Operand], env: MutableMapping[Value, Operand]
    ) -> Sequence[Operand]:
        domain = node.domain or ""
        opset = self.model.opset_imports.get(domain, 1)
        lowering = self.registry.find(domain, node.op_type, opset)
        results = bounded.emit_by_rule(Context(self, node, 0, env), lowering, operands)
        if results is not None:
            return results
        if lowering is None:
            body = functions.emit_body(self, node, operands, opset, self.scopes[node])
            if body is None:
                raise LoweringError("GO201", "XLA has no lowering for this operator", where=describe(node))
            return body
        return self.apply(node, lowering, operands, env)

    def apply(
        self,
        node: Node,
        lowering: Lowering,
        operands: Sequence[Operand],
        env: MutableMapping[Value, Operand],
    ) -> Sequence[Operand]:
        """The results of the operator's lowering."""
        domain = node.domain or ""
        opset = self.model.opset_imports.get(domain, 1)
        names = list(lowering.operands)
        if lowering.variadic:
            names += [names[-1]] * (len(operands) - len(names))
        arguments = [
            self._static(node, index, name, operand) if name in lowering.static else as_array(operand)
            for index, (name, operand) in enumerate(zip(names, operands, strict=False))
        ]
        if not lowering.variadic:
            arguments += [None] * (len(names) - len(arguments))
        if lowering.wants_context:
            arguments.insert(0, Context(self, node, _version(lowering, domain, node, opset), env))
        result = lowering.function(*arguments, **attributes(node, lowering))
        return (
            result
            if isinstance(result, (tuple, list)) and not _is_sequence_output(node, result)
            else [result]
        )

    def _static(self, node: Node, index: int, name: str, operand: Operand) -> np.ndarray | None:
        if operand is None or isinstance(operand, np.ndarray):
            return operand
        if isinstance(operand, Weight):
            return operand.tensor.numpy()
        value = node.inputs[index]
        inputs = graph_inputs_behind(value, self.model.graph)
        source = ", ".join(repr(i) for i in sorted(inputs)) or "computed data"
        if (node.domain or "") == "" and node.op_type in bounded.SHAPED_BY_DATA:
            raise StaticOperandRequired(
                f"the shape of its output depends on the numbers in input {index} {name!r}, which come from "
                f"{source}; XLA has no such shapes",
                inputs=inputs,
                specialisable=False,
                where=describe(node),
                next_step="The targets cpu, cuda and tensorrt run it.",
            )
        raise StaticOperandRequired(
            f"input {index} {name!r} must be known at compile time, but comes from {source}",
            inputs=inputs,
            where=describe(node),
            next_step="Bind it with --dim or --constant NAME=VALUE." if inputs else None,
        )


def as_array(operand: Operand) -> Any:
    """`operand` as a JAX array (lists stay lists of arrays, None stays None).

    Raises:
        UnsupportedError: GO202, only the data says how large it is.
    """
    if operand is None:
        return None
    if isinstance(operand, bounded.Bounded):
        raise UnsupportedError("GO202", "a value whose size only the data says is not taken here")
    if isinstance(operand, list):
        return [as_array(item) for item in operand]
    if isinstance(operand, Weight):
        return operand.array
    if isinstance(operand, np.ndarray) and operand.dtype == object:
        items = [
            x.number
            if isinstance(x, bounded.Count)
            else jnp.asarray(jax.numpy.asarray(x) if not isinstance(x, int) else x, np.int64)
            for x in operand.reshape(-1)
        ]
        return jnp.stack(items).reshape(operand.shape) if items else jnp.zeros(operand.shape, np.int64)
    return jnp.asarray(operand)


def attributes(node: Node, lowering: Lowering) -> dict[str, Any]:
    """The node's attributes as Python values: str, int, float, tuple, numpy array or graph."""
    values: dict[str, Any] = dict(lowering.defaults)
    for name, attr in node.attributes.items():
        if name not in lowering.attributes:
            continue
        if attr.type == AttributeType.STRING:
            values[name] = attr.as_string()
        elif attr.type == AttributeType.STRINGS:
            values[name] = tuple(attr.as_strings())
        elif attr.type == AttributeType.TENSOR:
            values[name] = attr.as_tensor().numpy()
        else:
            values[name] = attr.value
    return values


def graph_inputs_behind(value: Value | None, main: Graph) -> frozenset[str]:
    """The names of the inputs of `main` that `value` is computed from (not just shaped by)."""
    found: set[str] = set()
    seen: set[Value] = set()
    work = [value] if value is not None else []
    while work:
        current = work.pop()
        if current in seen:
            continue
        seen.add(current)
        producer = current.producer()
        if producer is not None:
            if producer.op_type not in ("Shape", "Size"):  # these look at the shape only
                work.extend(v for v in producer.inputs if v is not None)
                work.extend(captured_values(producer))
        elif current.is_graph_input() and current.graph is main:
            found.add(current.name or "")
    return frozenset(found)


def describe(node: Node) -> str:
    """How messages name a node."""
    domain = f"{node.domain}." if node.domain else ""
    return f"{domain}{node.op_type} {node.name!r}"


def _version(lowering: Lowering, domain: str, node: Node, opset: int) -> int:
    from graphopt.lowering.registry import schema_version

    return schema_version(domain, node.op_type, opset) or lowering.since[-1]


def _is_sequence_output(node: Node, result: Any) -> bool:
    """Whether a list returned for a one-output node is itself the output (an ONNX sequence)."""
    return isinstance(result, list) and len(node.outputs) == 1


def _shape_operator(node: Node, shape: tuple[Any, ...]) -> np.ndarray:
    """Shape and Size from the operand's shape, symbolic dimensions included."""
    if node.op_type == "Size":
        total: Any = 1
        for dim in shape:
            total = total * dim
        return np.array(total, dtype=np.int64 if isinstance(total, int) else object)
    rank = len(shape)
    start, end = (
        int(node.attributes[k].value) if k in node.attributes else d for k, d in (("start", 0), ("end", rank))
    )
    start, end = (min(max(x + rank if x < 0 else x, 0), rank) for x in (start, end))
    dims = shape[start:end] if end > start else ()
    if all(isinstance(d, int) for d in dims):
        return np.array(dims, dtype=np.int64)
    array = np.empty(len(dims), dtype=object)
    array[:] = dims
    return array


def _describe_operand(operand: Operand) -> str:
    if operand is None:
        return "none"
    if isinstance(operand, list):
        return f"sequence of {len(operand)}"
    if isinstance(operand, bounded.Bounded):
        return f"{operand.dtype}[{','.join(map(str, operand.dims))}]"
    return f"{operand.dtype}[{','.join(map(str, operand.shape))}]"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
