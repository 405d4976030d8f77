"""What a model file says of itself as a whole: versions, opsets, and how large its graph is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from graphopt.errors import ModelError, UnsupportedError
from graphopt.ir.proto_tensors import check_text

MAX_GRAPH_NESTING = 64
MAX_NODES = 2_000_000
OLDEST_IR_VERSION = 3


def check_header(proto: onnx.ModelProto) -> None:
    """Check versions, metadata and opset imports; the default domain is spelled "" afterwards."""
    newest = int(onnx.IR_VERSION)
    if not proto.ir_version:
        raise ModelError(
            "GO102",
            "the model does not say which IR version it is of",
            found="no ir_version",
            expected=f"{OLDEST_IR_VERSION} to {newest}",
            next_step="The file may be another kind of protobuf, such as a TensorFlow graph; export to ONNX.",
        )
    if not OLDEST_IR_VERSION <= proto.ir_version <= newest:
        raise ModelError(
            "GO106",
            "this ONNX IR version is not supported",
            found=proto.ir_version,
            expected=f"{OLDEST_IR_VERSION} to {newest}",
            next_step="Install a newer onnx."
            if proto.ir_version > newest
            else "Export the model again with a newer exporter.",
        )
    if proto.training_info:
        raise UnsupportedError(
            "GO112",
            "the model holds training information, which would be lost",
            next_step="Export the model for inference.",
        )
    for text in (proto.producer_name, proto.producer_version, proto.domain, proto.doc_string):
        check_text(text, "the model's header")
    check_metadata(proto.metadata_props, "the model's metadata")
    _normalize_imports(proto.opset_import, "the model")
    for function in proto.functions:
        _normalize_imports(function.opset_import, f"function '{function.name}'")


def check_metadata(entries: Iterable[onnx.StringStringEntryProto], where: str) -> None:
    """Check that `entries` are text."""
    for entry in entries:
        check_text(entry.key, where)
        check_text(entry.value, where)


def _normalize_imports(imports: Sequence[onnx.OperatorSetIdProto], where: str) -> None:
    """One import for each domain, the default one spelled ""."""
    seen: dict[str, int] = {}
    for entry in imports:
        domain = domain_name(check_text(entry.domain, where))
        if seen.setdefault(domain, entry.version) != entry.version:
            raise ModelError(
                "GO106",
                f"opset domain '{domain or 'ai.onnx'}' is imported in two versions",
                where=where,
                found=f"{seen[domain]} and {entry.version}",
                expected="one version of each domain",
            )
    if len(seen) != len(imports) or any(e.domain == "ai.onnx" for e in imports):
        del imports[:]  # type: ignore[attr-defined]
        for domain, version in seen.items():
            imports.add(domain=domain, version=version)  # type: ignore[attr-defined]


def domain_name(domain: str) -> str:
    """`domain`, the default one always spelled ""."""
    return "" if domain == "ai.onnx" else domain


def check_sizes(proto: onnx.ModelProto) -> None:
    """Bound nesting and node count first, by a walk that does not recurse itself."""
    count = 0
    work: list[tuple[Sequence[onnx.NodeProto], int]] = [(proto.graph.node, 0)]
    work.extend((function.node, 0) for function in proto.functions)
    while work:
        nodes, depth = work.pop()
        count += len(nodes)
        if depth > MAX_GRAPH_NESTING or count > MAX_NODES:
            raise ModelError(
                "GO108",
                "subgraphs are nested too deeply" if count <= MAX_NODES else "the model has too many nodes",
                where="the graph",
                found=f"depth {depth}" if count <= MAX_NODES else f"over {MAX_NODES} nodes",
                expected=f"at most {MAX_GRAPH_NESTING} levels and {MAX_NODES} nodes",
            )
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    work.append((attribute.g.node, depth + 1))
                work.extend((inner.node, depth + 1) for inner in attribute.graphs)
