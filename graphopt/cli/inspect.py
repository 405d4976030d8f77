"""graphopt inspect: what is in a model or an artifact, and what it costs by its shapes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import options, values
from graphopt.cli.output import Output, shape, short, size

if TYPE_CHECKING:
    from graphopt.analysis.amount import Amount
    from graphopt.analysis.cost import ModelCost, NodeCost
    from graphopt.ir import DataType, Model, Value


def inspect(
    model: options.SourceOrArtifact,
    *,
    shape: options.Shapes,
    dim: options.Dims,
    constant: options.Constants,
    top: Annotated[
        int, typer.Option("--top", metavar="N", min=0, help="How many dearest nodes to list.")
    ] = 10,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Show what is in a model or an artifact, and what it costs.

    Costs come from shapes alone; bind free dimensions with --dim or --shape to see numbers.
    """
    output = Output(json, verbose, quiet)
    from graphopt import artifact
    from graphopt.cli.progress import Progress

    if values.is_artifact(model):
        _show_artifact(output, model, artifact.read_artifact(model))
        return
    from graphopt import driver
    from graphopt.analysis.cost import model_cost
    from graphopt.ir.io import read

    sizes: dict[str, Any] = {
        "shapes": values.shapes(shape),
        "dims": values.fixed_dims(dim),
        "constants": values.constants(constant),
    }
    with Progress(output) as progress:
        progress.say("read the model")
        written = read(model)
        loaded = driver.optimize(written, pipeline="", say=progress.say, **sizes).model
        progress.say("count operations and bytes")
        cost = model_cost(loaded)
    described = describe(written, loaded)
    output.document(
        "graphopt.inspect/1", {"kind": "model", "model": model, **described, "cost": cost.to_json()}
    )
    if not output.json:
        _show_model(output, described)
        _show_cost(output, cost, top)


def describe(written: Model, model: Model) -> dict[str, Any]:
    """Interface, operators and weights, JSON-ready.

    Args:
        written: the model as its file has it: its nodes, opsets and functions are shown.
        model: its canonical form with dimensions bound: its interface is shown, and its weights, which
            count what the file has in Constant nodes.
    """
    weights = [v for g in model.graphs() for v in g.initializers.values() if v.const_value is not None]
    nodes = list(written.graph.all_nodes())
    histogram = Counter((f"{n.domain}." if n.domain else "") + n.op_type for n in nodes)
    return {
        "name": written.graph.name,
        "producer": " ".join(filter(None, (written.producer_name, written.producer_version))) or None,
        "ir_version": written.ir_version,
        "opsets": dict(written.opset_imports),
        "functions": sorted(f"{f.domain}.{f.name}" for f in written.functions.values()),
        "inputs": [_spec(v) for v in model.graph.inputs],
        "outputs": [_spec(v) for v in model.graph.outputs],
        "free_dims": _free_dims(model),
        "nodes": len(nodes),
        "nodes_in_subgraphs": len(nodes) - len(list(written.graph)),
        "operators": dict(sorted(histogram.items(), key=lambda item: (-item[1], item[0]))),
        "initializers": len(weights),
        "parameters": sum(v.const_value.size for v in weights if v.const_value is not None),
        "weights_bytes": sum(_stored_bytes(v) for v in weights),
        "weights_by_type": _by_type(weights),
        "external_data": _external(weights),
    }


def _spec(value: Value) -> dict[str, Any]:
    dims = (
        None if value.shape is None else [d if isinstance(d, int) else str(d.value) for d in value.shape.dims]
    )
    return {
        "name": value.name,
        "type": "?" if value.dtype is None else _type(value.dtype),
        "shape": dims,
    }


def _type(dtype: DataType) -> str:
    """The type by numpy's name, as feeds have it."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def _free_dims(model: Model) -> dict[str, list[str]]:
    """The inputs' free dimensions by name, with the places where they stand."""
    found: dict[str, list[str]] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape.dims if value.shape is not None else ()):
            if not isinstance(dim, int):
                found.setdefault(str(dim.value), []).append(f"{value.name}.{axis}")
    return found


def _stored_bytes(value: Value) -> int:
    tensor = value.const_value
    return 0 if tensor is None or tensor.dtype.name == "STRING" else int(tensor.nbytes)


def _by_type(weights: list[Value]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for value in weights:
        if value.const_value is not None:
            found[_type(value.const_value.dtype)] += _stored_bytes(value)
    return dict(found.most_common())


def _external(weights: list[Value]) -> dict[str, int]:
    """Bytes by external file."""
    from graphopt.ir import ExternalTensor

    found: Counter[str] = Counter()
    for value in weights:
        if isinstance(value.const_value, ExternalTensor):
            found[str(value.const_value.location)] += _stored_bytes(value)
    return dict(sorted(found.items()))


def _show_model(output: Output, facts: dict[str, Any]) -> None:
    nested = f" ({facts['nodes_in_subgraphs']} in subgraphs)" if facts["nodes_in_subgraphs"] else ""
    types = ", ".join(f"{name} {size(count)}" for name, count in facts["weights_by_type"].items())
    external = ", ".join(f"{name} {size(count)}" for name, count in facts["external_data"].items())
    output.facts(
        [
            ("graph", facts["name"] or None),
            ("producer", facts["producer"]),
            ("opset", ", ".join(f"{domain or 'ai.onnx'} {v}" for domain, v in facts["opsets"].items())),
            *((("input", _shown(v))) for v in facts["inputs"]),
            *((("output", _shown(v))) for v in facts["outputs"]),
            (
                "free dims",
                ", ".join(f"{n} ({', '.join(at)})" for n, at in facts["free_dims"].items()) or None,
            ),
            ("nodes", f"{facts['nodes']}{nested}"),
            ("functions", ", ".join(facts["functions"]) or None),
            (
                "weights",
                f"{facts['initializers']} tensors, {short(facts['parameters'])} numbers, {types or '0 B'}",
            ),
            ("external data", external or None),
            ("operators", ", ".join(f"{name} {count}" for name, count in facts["operators"].items())),
        ]
    )


def _shown(spec: dict[str, Any]) -> str:
    return f"{spec['name']} {spec['type']}{shape(spec['shape'])}"


def _show_cost(output: Output, cost: ModelCost, top: int) -> None:
    ratio = f", {cost.intensity:.3g} operations per byte" if cost.intensity is not None else ""
    output.facts(
        [
            ("operations", count(cost.flops)),
            ("bytes moved", f"{moved(cost.moved_bytes)} without fusion{ratio}"),
            (
                "not counted",
                f"{len(cost.unknown)} nodes of unknown shape or operator" if cost.unknown else None,
            ),
        ]
    )
    for title, key in (("operations", _by_flops), ("bytes moved", _by_bytes)):
        ranked = sorted(cost.nodes, key=key, reverse=True)[:top]
        rows = [
            (
                n.node,
                n.op_type,
                count(n.flops),
                moved(n.moved_bytes),
                "" if n.intensity is None else f"{n.intensity:.3g}",
            )
            for n in ranked
            if key(n) > 0
        ]
        if rows:
            output.table(
                ["node", "op", ">operations", ">bytes", ">ops/byte"],
                rows,
                title=f"top {len(rows)} nodes by {title}",
            )


def _by_flops(node: NodeCost) -> int:
    return -1 if node.flops is None else node.flops.least


def _by_bytes(node: NodeCost) -> int:
    return -1 if node.moved_bytes is None else node.moved_bytes.least


def count(amount: Amount | None) -> str:
    """Operations for people: a number, an expression, or a question mark."""
    if amount is None:
        return "?"
    return short(amount.number) if amount.number is not None else str(amount)


def moved(amount: Amount | None) -> str:
    """Bytes for people: a number, an expression, or a question mark."""
    if amount is None:
        return "?"
    return size(amount.number) if amount.number is not None else f"{amount} B"


def _show_artifact(output: Output, folder: str, manifest: dict[str, Any]) -> None:
    from graphopt.cli.compile import show_placement
    from graphopt.cli.costs import cost_facts, show_buckets, show_cost
    from graphopt.target import Target

    target = Target.parse(manifest["target"])
    sizes = (manifest.get("buckets") or {}).get("programs") or []
    output.document("graphopt.inspect/1", {"kind": "artifact", "artifact": folder, "manifest": manifest})
    listed = {f"input {i + 1}": s for i, s in enumerate(manifest["inputs"])} | {
        f"output {i + 1}": s for i, s in enumerate(manifest["outputs"])
    }
    output.facts(
        [
            ("artifact", folder),
            ("target", manifest["target"]),
            *((k, f"{s['name']} {str(s['dtype']).lower()}{shape(s['shape'])}") for k, s in listed.items()),
            ("made with", ", ".join(f"{n} {v}" for n, v in manifest.get("versions", {}).items())),
            ("pipeline", manifest.get("pipeline") or "(no passes)"),
            ("options", ", ".join(f"{k}={v}" for k, v in manifest.get("options", {}).items())),
            ("exactness", manifest.get("exactness")),
            *(("file", f"{name}  {size(entry['bytes'])}") for name, entry in manifest["files"].items()),
            *([] if sizes else cost_facts(target, manifest.get("cost"), manifest.get("memory"))),
        ]
    )
    show_buckets(output, target, sizes)
    show_cost(output, manifest.get("cost"), manifest.get("memory"))
    show_placement(output, manifest.get("placement") or [], manifest.get("onnxruntime"), listed=10)
    output.notes(manifest.get("notes") or [])
