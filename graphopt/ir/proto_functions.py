"""How large a model becomes when its local functions are inlined, known before it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from graphopt.errors import ModelError

MAX_INLINED_NODES = 1_000_000
MAX_INLINED_NAME_CHARACTERS = 1 << 29
MAX_CALL_DEPTH = 100

Key = tuple[str, str, str]


def check_expansion(proto: onnx.ModelProto) -> None:
    """Check that functions do not call each other in circles and that inlining them stays bounded.

    Linear in the size of the model, however large the inlined model would be.

    Raises ModelError: GO105 for recursion and functions defined twice, GO108 for a limit exceeded.
    """
    functions: dict[Key, onnx.FunctionProto] = {}
    for function in proto.functions:
        key = (function.domain, function.name, function.overload)
        if key in functions:
            raise ModelError(
                "GO105", "the function is defined twice", where=_label(key), expected="one definition"
            )
        functions[key] = function
    if not functions:
        return
    calls = {key: [n for n in _nodes(f.node) if _key(n) in functions] for key, f in functions.items()}
    nodes: dict[Key, int] = {}
    characters: dict[Key, int] = {}
    depth: dict[Key, int] = {}
    for key in _callees_first(calls):
        depth[key] = 1 + max((depth[_key(n)] for n in calls[key]), default=0)
        own = sum(1 for _ in _nodes(functions[key].node))
        nodes[key] = own + sum(nodes[_key(n)] for n in calls[key])
        # Inlined names are made of the names of all calls on the way.
        names = sum(len(n.name) + 8 + sum(map(len, n.output)) for n in _nodes(functions[key].node))
        characters[key] = names + sum(
            characters[_key(n)] + 2 * nodes[_key(n)] * (len(n.name or n.op_type) + 8) for n in calls[key]
        )
        _check_limits(_label(key), nodes[key], characters[key], depth[key])
    used = [_key(n) for n in _nodes(proto.graph.node) if _key(n) in functions]
    _check_limits("the graph", sum(nodes[k] for k in used), sum(characters[k] for k in used), 0)


def _check_limits(where: str, nodes: int, characters: int, depth: int) -> None:
    if nodes > MAX_INLINED_NODES or characters > MAX_INLINED_NAME_CHARACTERS or depth > MAX_CALL_DEPTH:
        raise ModelError(
            "GO108",
            "inlining the model's functions would make it too large",
            where=where,
            found=f"{nodes if nodes < 1 << 40 else 'over 10^12'} nodes, calls nested {depth} deep",
            expected=f"at most {MAX_INLINED_NODES} nodes and {MAX_CALL_DEPTH} levels",
        )


def _nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of the graphs nested in them."""
    work = [nodes]
    while work:
        for node in work.pop():
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    work.append(attribute.g.node)
                work.extend(graph.node for graph in attribute.graphs)


def _key(node: onnx.NodeProto) -> Key:
    return node.domain, node.op_type, node.overload


def _label(key: Key) -> str:
    return f"function '{key[0]}::{key[1]}'" + (f" ({key[2]})" if key[2] else "")


def _callees_first(calls: dict[Key, list[onnx.NodeProto]]) -> Iterator[Key]:
    """The functions in an order in which callees come before callers; without recursion in Python."""
    done: set[Key] = set()
    for start, first in calls.items():
        path: dict[Key, Iterator[onnx.NodeProto]] = {} if start in done else {start: iter(first)}
        while path:
            key = next(reversed(path))
            callee = next((c for n in path[key] if (c := _key(n)) not in done), None)
            if callee is None:
                del path[key]
                done.add(key)
                yield key
            elif callee in path:
                cycle = [*list(path)[list(path).index(callee) :], callee]
                raise ModelError(
                    "GO105",
                    "functions call each other in a circle",
                    where=_label(callee),
                    found=" → ".join(_label(k) for k in cycle[:8]),
                    expected="functions without recursion",
                )
            else:
                path[callee] = iter(calls[callee])
