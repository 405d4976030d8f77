"""What the optimiser leaves: operators and chains of operators that stay, over a folder of models.

    python benchmarks/zoo/remaining.py FOLDER [--target cpu] > REMAINING.md

A chain is a path of three or four nodes, each of whose results goes to the next alone. Who writes a
fusion sees here which one pays: a chain that stands in every layer of many models.
"""

from __future__ import annotations

import argparse
import collections
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx

import graphopt


def chains(graph: onnx.GraphProto, length: int) -> Iterator[str]:
    """Every path of `length` nodes whose inner results have one use."""
    uses = collections.Counter(name for node in graph.node for name in node.input)
    outputs = {each.name for each in graph.output}
    user = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        path = [node]
        while len(path) < length and len(path[-1].output) == 1:
            name = path[-1].output[0]
            if uses[name] != 1 or name in outputs:
                break
            path.append(user[name])
        if len(path) == length:
            yield " → ".join(each.op_type for each in path)


def optimized(path: Path, target: str | None) -> onnx.ModelProto:
    import onnx_ir

    return onnx_ir.to_proto(graphopt.optimize(path, target=target).model)


def table(title: str, total: collections.Counter[str], where: dict[str, set[str]], top: int) -> None:
    print(f"\n## {title}\n\n| count | models | what | for example |\n| ---: | ---: | --- | --- |")
    for what, count in total.most_common(top):
        models = sorted(where[what])
        print(f"| {count} | {len(models)} | {what} | {', '.join(models[:: max(1, len(models) // 3)][:3])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        sys.stdout.buffer.write(optimized(arguments.folder, arguments.target).SerializeToString())
        return
    totals = [collections.Counter[str]() for _ in range(3)]
    places: list[dict[str, set[str]]] = [collections.defaultdict(set) for _ in range(3)]
    rows = []
    for path in sorted(arguments.folder.glob("*.onnx")):
        target = ["--target", arguments.target] if arguments.target else []
        script = [sys.executable, str(Path(__file__)), str(path), "--one", *target]
        done = subprocess.run(script, capture_output=True, timeout=300, check=False)
        if done.returncode:
            rows.append(f"| {path.stem} | failed | | |")
            continue
        graph = onnx.load_from_string(done.stdout).graph
        raw = len(onnx.load(path).graph.node)
        histogram = collections.Counter(node.op_type for node in graph.node)
        for index, found in enumerate((histogram, *(collections.Counter(chains(graph, n)) for n in (3, 4)))):
            totals[index] += found
            for what in found:
                places[index][what].add(path.stem)
        most = ", ".join(f"{op} {count}" for op, count in histogram.most_common(12))
        rows.append(f"| {path.stem} | {raw} | {len(graph.node)} | {most} |")
    print(f"# What stays after optimizing (target {arguments.target or 'none'}), {len(rows)} models")
    for title, total, where, top in zip(
        ("Operators", "Chains of three", "Chains of four"), totals, places, (60, 60, 80), strict=True
    ):
        table(title, total, where, top)
    print("\n## Each model\n\n| model | raw | after | operators that stay |\n| --- | ---: | ---: | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
