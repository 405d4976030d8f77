"""deduplicate-initializers: equal weights are stored once."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from graphopt.ir import DataType, Model, TensorProtocol, Value
from graphopt.ir.edit import Namer, make_node
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import constant_tensor, is_op
from graphopt.transform import Changes, Pass

SAMPLE_BYTES = 4096
MATRIX_BYTES = 1 << 20
"""Smaller matrices are not worth an operator."""


@dataclasses.dataclass(frozen=True)
class DeduplicateInitializers(Pass):
    """Let initializers of the same type, shape and bytes be one.

    Initializers that a caller may override are left alone, and those that are graph outputs keep
    their names. Only tensors of equal type and shape are read; those whose first and last pages
    differ are not read further.

    Options:
        transposed: also write a large matrix as a Transpose of another that it is the transposed of, as the
            last product of a language model is of its embedding. For compilers that read through it.

    given:  float[2] x; w1 = [1.0, 2.0]
    before: w2 = [1.0, 2.0]; y = Mul(Add(x, w1), w2)
    after:  y = Mul(Add(x, w1), w1)
    """

    transposed: bool = False

    def run(self, model: Model) -> Changes:
        """Redirect the users of every duplicate to the first of its kind, and drop the duplicate."""
        changes = Changes()
        graph = model.graph
        alike: dict[tuple[DataType, tuple[int, ...]], list[tuple[Value, TensorProtocol]]] = {}
        for value in graph.initializers.values():
            tensor = constant_tensor(value)
            if tensor is not None:
                alike.setdefault((tensor.dtype, tuple(tensor.shape.numpy())), []).append((value, tensor))
        for group in alike.values():
            for duplicates in _equal(group):
                # An initializer that is an output stays in any case, so it may as well be the one kept.
                kept = next((v for v in duplicates if v.is_graph_output()), duplicates[0])
                for value in duplicates:
                    if value is kept or value.is_graph_output() or value.name is None:
                        continue
                    value.replace_all_uses_with(kept)
                    del graph.initializers[value.name]
                    changes.counts["initializer"] += 1
        if self.transposed:
            _share_transposed(model, changes)
        return changes


def _share_transposed(model: Model, changes: Changes) -> None:
    """Keep one of two large matrices that are each other's transposed: one that is not only multiplied."""
    matrices: dict[tuple[DataType, tuple[int, int]], list[Value]] = {}
    for value in list(model.graph.initializers.values()):
        tensor = constant_tensor(value)
        if tensor is None or tensor.nbytes < MATRIX_BYTES or len(tensor.shape.numpy()) != 2:
            continue
        rows, columns = tensor.shape.numpy()
        others = matrices.get((tensor.dtype, (columns, rows)), [])
        other = next((v for v in others if _is_transposed(tensor, constant_tensor(v))), None)
        if other is None:
            matrices.setdefault((tensor.dtype, (rows, columns)), []).append(value)
            continue
        kept, gone = (value, other) if _is_multiplied(other) else (other, value)
        if gone.is_graph_output() or gone.name is None:
            continue
        _write_as_transposed(gone, kept, model)
        others.remove(other)
        changes.counts["transposed matrix"] += 1


def _is_transposed(a: TensorProtocol, b: TensorProtocol | None) -> bool:
    """Whether a = b', by the first row and the last before all is read."""
    if b is None:
        return False
    first, second = a.numpy(), b.numpy().T
    bits = f"u{first.dtype.itemsize}"
    return all(np.array_equal(first[i].view(bits), second[i].copy().view(bits)) for i in (0, -1)) and bool(
        np.array_equal(first.view(bits), np.ascontiguousarray(second).view(bits))
    )


def _is_multiplied(value: Value) -> bool:
    return all(is_op(use.node, "MatMul", "Gemm") for use in value.uses())


def _write_as_transposed(value: Value, source: Value, model: Model) -> None:
    graph, namer = model.graph, Namer(model.graph)
    name = namer.node(f"{value.name}/Transpose")
    node = make_node("Transpose", [source], {"perm": (1, 0)}, name=name, output_names=[namer.value(name)])
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    users = [use.node for use in value.uses()]
    merge_origins([node], users[:1])
    if value.name is not None:
        value.replace_all_uses_with(node.outputs[0])
        del graph.initializers[value.name]
    graph.insert_before(graph[0], node)


def _equal(group: list[tuple[Value, TensorProtocol]]) -> list[list[Value]]:
    """The classes of two and more equal tensors among those of one type and shape."""
    if len(group) < 2:
        return []
    sampled: dict[bytes, list[tuple[Value, TensorProtocol]]] = {}
    for value, tensor in group:
        sampled.setdefault(_digest(tensor, sample=True), []).append((value, tensor))
    classes: dict[bytes, list[Value]] = {}
    for similar in sampled.values():
        if len(similar) > 1:
            for value, tensor in similar:
                classes.setdefault(_digest(tensor, sample=False), []).append(value)
    return [values for values in classes.values() if len(values) > 1]


def _digest(tensor: TensorProtocol, *, sample: bool) -> bytes:
    """SHA-256 of the contents, or of their first and last page; memory-mapped data is not copied."""
    if tensor.dtype == DataType.STRING:
        parts = list(tensor.string_data())  # type: ignore[attr-defined]
        lengths = ",".join(str(len(part)) for part in parts).encode()
        return hashlib.sha256(lengths + b";" + b"".join(parts)).digest()
    data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data
    digest = hashlib.sha256()
    if sample and data.nbytes > 2 * SAMPLE_BYTES:
        digest.update(data[:SAMPLE_BYTES])
        digest.update(data[-SAMPLE_BYTES:])
    else:
        digest.update(data)
    return digest.digest()
