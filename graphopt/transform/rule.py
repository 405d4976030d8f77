"""Rules: local rewrites rooted at one operator, and the worklist driver that applies them.

A rule looks at its root node and answers with the values that replace the root's outputs, or with
:class:`NoMatch` and the reason. It never changes the graph itself: it creates nodes through the
:class:`Rewriter`, and the driver inserts them, infers their shapes, redirects the users, removes
what became dead, and hands the provenance of everything that died to the new nodes.

The driver visits every node once, then only what changed around a rewrite: cost is linear.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from graphopt.errors import InvariantError
from graphopt.ir import Model, Node, Shape, TensorProtocol, Value
from graphopt.ir.edit import Namer, make_node, remove_dead, replace_value
from graphopt.ir.provenance import merge_origins
from graphopt.ir.query import walk_graphs
from graphopt.ir.shapes import Inference
from graphopt.transform.base import Changes, Pass


# Not frozen: a rule makes one for nearly every node, and a frozen class takes twice as long.
@dataclasses.dataclass(unsafe_hash=True, slots=True)
class NoMatch:
    """Why a rule does not apply: the predicate that failed, and the value it failed on."""

    reason: str
    value: str | None = None

    def __post_init__(self) -> None:
        watch = _WATCH.get()
        if watch is not None:
            watch.refused(self)

    def __str__(self) -> str:
        return self.reason + (f" ({self.value})" if self.value else "")


class Watch:
    """Sees what rules do while it is on (see :func:`watching`), and can stop them.

    Subclass it to see more than the number of applications; each method calls that of its parent.

    Attributes:
        limit: how many applications are allowed; None: as many as there are.
        count: the applications so far. A pass that has no rules, or does not use them, counts as one.
        trying: the rule that is being tried, and its root.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.count = 0
        self.trying: tuple[Rule, Node] | None = None

    @property
    def spent(self) -> bool:
        """Whether no more applications are allowed."""
        return self.limit is not None and self.count >= self.limit

    def begins(self, item: Rule, node: Node) -> None:
        """`item` is going to be tried at `node`."""
        self.trying = (item, node)

    def refused(self, miss: NoMatch) -> None:
        """`miss` was made: the answer, or what one of several orders of operands failed on."""

    def declined(self, item: Rule, node: Node, miss: NoMatch) -> None:
        """`item` does not apply at `node`."""
        self.trying = None

    def applied(self, item: Rule, node: Node, new: Sequence[Node], died: Sequence[Node]) -> None:
        """`item` was applied at `node`: it put `new` into the graph, and `died` are gone."""
        self.count += 1
        self.trying = None


_WATCH: contextvars.ContextVar[Watch | None] = contextvars.ContextVar("watch", default=None)


@contextlib.contextmanager
def watching(watch: Watch | None) -> Iterator[None]:
    """Show `watch` every rule that is tried inside; None leaves a watch that is on in its place."""
    if watch is None:
        yield
        return
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


Replacement = Value | Sequence[Value | None] | NoMatch
RuleFunction = Callable[[Node, "Rewriter"], Replacement]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A named rewrite rooted at some operators."""

    name: str
    op_types: tuple[str, ...]
    domain: str
    function: RuleFunction

    def __call__(self, node: Node, rewriter: Rewriter) -> Replacement:
        """The replacement of the outputs of `node`, or the reason why there is none."""
        return self.function(node, rewriter)

    @property
    def summary(self) -> str:
        """The first line of the docstring: the equation."""
        return (self.function.__doc__ or "").strip().splitlines()[0] if self.function.__doc__ else ""


def rule(*op_types: str, domain: str = "") -> Callable[[RuleFunction], Rule]:
    """Make a rule of a function ``(node, rewriter) -> Value | [Value, ...] | NoMatch``.

    Args:
        op_types: the operators that the root node may have.
        domain: their domain.
    """

    def decorate(function: RuleFunction) -> Rule:
        return Rule(function.__name__.replace("_", "-"), op_types, domain, function)

    return decorate


class Rewriter:
    """What a rule builds its replacement with. Nothing enters the graph until the rule returns."""

    def __init__(self, model: Model, namer: Namer | None = None, inference: Inference | None = None) -> None:
        self.model = model
        self._namer = namer
        self._inference = inference
        self._root: Node | None = None
        self._nodes: list[Node] = []
        self._constants: list[tuple[str, TensorProtocol, Value]] = []

    @property
    def namer(self) -> Namer:
        """Gives new names. Made when the first is asked for: it reads the whole graph."""
        if self._namer is None:
            self._namer = Namer(self.model.graph)
        return self._namer

    @property
    def inference(self) -> Inference:
        """Infers the nodes that are made. It too reads the whole graph, so it waits for the first of them."""
        if self._inference is None:
            self._inference = Inference(self.model)
        return self._inference

    @property
    def opset(self) -> int:
        """The version of the default operator set that the model imports."""
        return self.model.opset_imports.get("", 1)

    def begin(self, root: Node) -> None:
        """Forget what was built before and start on `root`."""
        self._root = root
        self._nodes = []
        self._constants = []

    def op(
        self,
        op_type: str,
        *inputs: Value | None,
        domain: str = "",
        stem: str | None = None,
        **attributes: Any,
    ) -> Value:
        """A new node with one output; returns the output with its type and shape inferred.

        Args:
            stem: what the node's name starts with; the root's name by default.
            attributes: plain Python values; None leaves an attribute out.
        """
        return self.ops(op_type, *inputs, outputs=1, domain=domain, stem=stem, **attributes)[0]

    def ops(
        self,
        op_type: str,
        *inputs: Value | None,
        outputs: int,
        domain: str = "",
        stem: str | None = None,
        **attributes: Any,
    ) -> Sequence[Value]:
        """A new node with several outputs, like :meth:`op`."""
        assert self._root is not None, "begin() comes first"
        base = stem or self._root.name or op_type
        name = self.namer.node(base if op_type == self._root.op_type else f"{base}/{op_type}")
        trimmed = list(inputs)
        while trimmed and trimmed[-1] is None:
            trimmed.pop()
        names = [self.namer.value(f"{name}:{i}" if outputs > 1 else f"{name}:out") for i in range(outputs)]
        node = make_node(op_type, trimmed, attributes, name=name, output_names=names, domain=domain)
        self._nodes.append(node)
        self.inference.infer_node(node)
        return node.outputs

    def const(self, data: np.ndarray | np.generic | TensorProtocol, stem: str = "const") -> Value:
        """A new constant; it becomes an initializer when the rule succeeds."""
        name = self.namer.value(f"{self._root.name if self._root else ''}/{stem}")
        if isinstance(data, (np.ndarray, np.generic)):
            import onnx_ir

            data = onnx_ir.tensor(np.asarray(data), name=name)
        value = Value(name=name, const_value=data)
        value.dtype = data.dtype
        value.shape = Shape(data.shape.numpy())
        self._constants.append((name, data, value))
        return value

    def commit(self, results: Sequence[Value | None]) -> tuple[list[Node], list[Node]]:
        """Put the replacement into the graph; return (new nodes, nodes that died)."""
        root = self._root
        assert root is not None
        graph = root.graph
        assert graph is not None
        if len(results) != len(root.outputs):
            raise InvariantError(
                "GO901", "a rule returned another number of values than its root has outputs"
            )
        self._register_constants(results)
        used = self._reachable(results)
        graph.insert_before(root, used)
        for old, new in zip(root.outputs, results, strict=True):
            if new is not None and new is not old:
                if old.type is not None and new.type is not None and old.type != new.type:
                    raise InvariantError(
                        "GO901",
                        "a rule changed a type",
                        where=f"{root.op_type} {root.name!r}",
                        found=new.type,
                        expected=old.type,
                    )
                if new.producer() in used:
                    _refine_shape(new, old)
                replace_value(old, new)
        died = remove_dead([root])
        if not died:
            raise InvariantError(
                "GO901", "a rule left its root in use", where=f"{root.op_type} {root.name!r}"
            )
        merge_origins(used, reversed(died))
        return used, died

    def abandon(self) -> None:
        """Throw away what was built for a rule that did not match."""
        for node in reversed(self._nodes):
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        self._nodes = []
        self._constants = []

    def _register_constants(self, results: Sequence[Value | None]) -> None:
        wanted = {v for n in self._nodes for v in n.inputs} | set(results)
        for name, _, value in self._constants:
            if value in wanted:
                value.name = name
                self.model.graph.register_initializer(value)

    def _reachable(self, results: Sequence[Value | None]) -> list[Node]:
        mine = set(self._nodes)
        needed: set[Node] = set()
        work = [p for v in results if v is not None and (p := v.producer()) in mine and p is not None]
        while work:
            node = work.pop()
            if node not in needed:
                needed.add(node)
                work.extend(
                    p for v in node.inputs if v is not None and (p := v.producer()) in mine and p is not None
                )
        unused = [n for n in self._nodes if n not in needed]
        for node in reversed(unused):
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        return [n for n in self._nodes if n in needed]


def _refine_shape(new: Value, old: Value) -> None:
    """Let `new`, which is about to stand for `old`, keep the dimensions that are known of `old` only.

    The inference of a whole model follows the elements of shapes; that of one new node does not.
    """
    if old.shape is None or (new.shape is not None and len(new.shape) != len(old.shape)):
        return
    found = old.shape.dims if new.shape is None else new.shape.dims
    dims = [b if isinstance(b, int) else a for a, b in zip(old.shape.dims, found, strict=True)]
    new.shape = Shape(dims)


def apply_rules(model: Model, rules: Sequence[Rule], *, limit: int | None = None) -> Changes:
    """Apply `rules` everywhere in `model`, subgraphs included, until none matches.

    Args:
        limit: stop after this many rewrites (for bisection).
    """
    changes = Changes()
    index: dict[tuple[str, str], list[Rule]] = {}
    for item in rules:
        for op_type in item.op_types:
            index.setdefault((item.domain, op_type), []).append(item)
    work = deque(n for g in walk_graphs(model.graph) for n in g if (n.domain or "", n.op_type) in index)
    if not work:
        return changes
    queued = set(work)
    rewriter = Rewriter(model)
    budget = limit if limit is not None else 20 * (len(work) + 50)
    clock = time.perf_counter
    watch = _WATCH.get()
    while work and budget > 0 and not (watch is not None and watch.spent):
        node = work.popleft()
        queued.discard(node)
        for item in index.get((node.domain or "", node.op_type), ()):
            if node.graph is None:
                break
            started = clock()
            rewriter.begin(node)
            if watch is not None:
                watch.begins(item, node)
            answer = item(node, rewriter)
            if isinstance(answer, NoMatch):
                rewriter.abandon()
                if watch is not None:
                    watch.declined(item, node, answer)
                changes.declined[f"{item.name}: {answer.reason}"] += 1
                changes.seconds[item.name] = changes.seconds.get(item.name, 0.0) + clock() - started
                continue
            results: list[Value | None] = [answer] if isinstance(answer, Value) else list(answer)
            new, died = rewriter.commit(results)
            if watch is not None:
                watch.applied(item, node, new, died)
            changes.counts[item.name] += 1
            changes.seconds[item.name] = changes.seconds.get(item.name, 0.0) + clock() - started
            budget -= 1
            for near in _neighbours(new, died, results):
                if near not in queued and (near.domain or "", near.op_type) in index:
                    queued.add(near)
                    work.append(near)
            break
    return changes


def _neighbours(new: Sequence[Node], died: Sequence[Node], results: Sequence[Value | None]) -> list[Node]:
    """The nodes whose matches may have changed: the new ones, their producers, their users and theirs."""
    near: dict[Node, None] = dict.fromkeys(new)
    ends = [v for v in results if v is not None]
    for source in (*ends, *(v for n in new for v in n.inputs if v is not None)):
        producer = source.producer()
        if producer is not None:
            near.setdefault(producer)
    for end in ends:
        for user in end.consumers():
            near.setdefault(user)
            for output in user.outputs:
                near.update(dict.fromkeys(output.consumers()))
    # What fed the dead nodes has fewer users now: a match that failed on a use count may succeed.
    for node in died:
        for value in node.inputs:
            if value is not None:
                above = value.producer()
                if above is not None:
                    near.setdefault(above)
                if len(value.uses()) <= 2:
                    near.update(dict.fromkeys(value.consumers()))
    return [n for n in near if n.graph is not None]


class RulePass(Pass):
    """A pass that consists of rules: subclass it, name the rules, and document the effect."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    def run(self, model: Model) -> Changes:
        """Apply the rules until none matches."""
        return apply_rules(model, self.rules)
