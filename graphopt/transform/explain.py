"""Explain why a rule applies at a node, or what it failed on: the nearest miss.

The pipeline runs up to the pass in question, which is then watched. Of everything that one attempt of a rule
refused (it may try several orders of operands), what lies furthest from the root got furthest.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import onnx_ir.passes

from graphopt.ir import Model, Node, Value
from graphopt.ir.provenance import origins
from graphopt.ir.query import constant_tensor
from graphopt.ir.text import node_line, tensor_digest, value_type
from graphopt.transform.base import Pass
from graphopt.transform.pipeline import PassRecord, Pipeline
from graphopt.transform.rule import NoMatch, Rule, Watch

MAX_NODES = 64
"""How many nodes above the root are looked at to tell how far an attempt got."""
MAX_BELOW = 8
"""How far below a node the root of a pattern that it is part of is looked for."""
MAX_USERS = 6
MAX_LOOKED_AT = 8
SMALL_ELEMENTS = 16


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a value or a node when a rule looked at it.

    Attributes:
        name: of the value, or of the node.
        text: its type and shape; the whole line of a node.
        made_by: what makes a value: a node, ``an input``, ``a constant``.
        constant: the numbers of a small constant, a digest of a large one.
        users: the nodes that use it (the first few), and ``the graph's output``.
        more_users: how many more there are.
    """

    name: str
    text: str
    made_by: str | None = None
    constant: str | None = None
    users: tuple[str, ...] = ()
    more_users: int = 0


@dataclasses.dataclass(frozen=True)
class Miss:
    """What an attempt failed on.

    Attributes:
        reason: the predicate, in words.
        value: what it failed on, where the rule says so.
        depth: how many nodes lie between the root and what was looked at.
        step: how many lines into its function the rule was: what tells misses of one depth apart.
        looked_at: what the rule had found so far, by its own names, the root first.
    """

    reason: str
    value: Facts | None
    depth: int
    step: int = 0
    looked_at: tuple[tuple[str, Facts], ...] = ()


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One rule, tried at one node.

    Attributes:
        pass_index, pass_name: the pass; the same one may stand in a pipeline several times.
        node: the root, as a line.
        miss: the nearest miss; None if the rule applied.
        other_misses: what else it failed on, in other orders of operands.
        removed, added: the lines of the nodes that an application took away and put there.
    """

    pass_index: int
    pass_name: str
    rule: str
    node: str
    op_type: str
    line: str
    origins: tuple[str, ...]
    miss: Miss | None
    other_misses: tuple[Miss, ...] = ()
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    names: frozenset[str] = dataclasses.field(default=frozenset(), repr=False)

    outputs: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    def is_called(self, name: str) -> bool:
        """Whether the root answers to `name`."""
        return name in (self.node, *self.origins, *self.outputs)

    @property
    def applied(self) -> bool:
        """Whether the rule applied."""
        return self.miss is None


@dataclasses.dataclass(frozen=True)
class Visit:
    """One run of a pass that was asked about.

    Attributes:
        record: what the pass did as a whole.
        present: the lines of the nodes that were asked about, as they stood before the pass.
        left: those lines as they stood after it.
    """

    index: int
    record: PassRecord
    present: tuple[str, ...]
    left: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why a rule, or the rules of a pass, apply or do not.

    Attributes:
        subject: the rule or pass asked about.
        node: the node asked about; None: all of them.
        attempts: what was tried, applications first, then the misses, the nearest first.
        visits: the runs of the passes concerned.
        removed_by: the pass that took the node away before it could be tried, if one did.
        notes: what else to know.
    """

    subject: str
    node: str | None
    attempts: tuple[Attempt, ...]
    visits: tuple[Visit, ...]
    removed_by: str | None = None
    notes: tuple[str, ...] = ()
    known_names: frozenset[str] = dataclasses.field(default=frozenset(), repr=False)

    @property
    def applied(self) -> bool:
        """Whether a rule applied anywhere."""
        return any(attempt.applied for attempt in self.attempts)

    @property
    def nearest(self) -> Attempt | None:
        """The application, else the attempt that got furthest."""
        return self.attempts[0] if self.attempts else None

    def to_json(self) -> dict[str, Any]:
        """The explanation as a JSON-ready dict (schema ``graphopt.explain/1``)."""
        attempts = []
        for attempt in self.attempts:
            row = dataclasses.asdict(attempt)
            del row["names"]
            attempts.append({"applied": attempt.applied, **row})
        return {
            "schema": "graphopt.explain/1",
            "subject": self.subject,
            "node": self.node,
            "applied": self.applied,
            "removed_by": self.removed_by,
            "notes": list(self.notes),
            "attempts": attempts,
            "passes": [
                {
                    "index": visit.index,
                    "name": visit.record.name,
                    "counts": visit.record.counts,
                    "declined": visit.record.declined,
                    "before": list(visit.present),
                    "after": list(visit.left),
                }
                for visit in self.visits
            ],
        }


class _Attempts(Watch):
    """Keeps the last attempt of each rule at each node.

    Args:
        wanted: whether a rule is asked about.
    """

    def __init__(self, index: int, pass_name: str, wanted: Callable[[Rule], bool]) -> None:
        super().__init__()
        self.found: dict[tuple[str, str], Attempt] = {}
        self._index, self._pass_name, self._wanted = index, pass_name, wanted
        self._misses: list[Miss] = []
        self._near: dict[str, tuple[int, Node | Value]] | None = None
        self._line = ""
        self._outputs: list[str] = []

    def begins(self, item: Rule, node: Node) -> None:
        super().begins(item, node)
        self._misses, self._near = [], None
        if self._wanted(item):
            self._line = node_line(node)
            self._outputs = [value.name or "" for value in node.outputs]

    def refused(self, miss: NoMatch) -> None:
        if self.trying is None or not self._wanted(self.trying[0]):
            return
        if self._near is None:
            self._near = _nearby(self.trying[1])
        frame = _maker(sys._getframe(1))
        step = 0 if frame is None else frame.f_lineno - frame.f_code.co_firstlineno
        self._misses.append(_miss(miss, self._near, _looked_at(frame), step))

    def declined(self, item: Rule, node: Node, miss: NoMatch) -> None:
        super().declined(item, node, miss)
        if not self._wanted(item):
            return
        answers = self._misses or [_miss(miss, _nearby(node), {}, 0)]
        nearest = max(answers, key=lambda m: (m.depth, m.step, m.reason == miss.reason))
        # What was made before anything was looked at is a default answer.
        others = tuple(
            dict.fromkeys(m for m in answers if m.reason != nearest.reason and (m.value or m.looked_at))
        )
        seen = {name for m in answers for _, facts in m.looked_at for name in (facts.name,)}
        self._keep(item, node, Attempt(**self._head(item, node, seen), miss=nearest, other_misses=others))

    def applied(self, item: Rule, node: Node, new: Sequence[Node], died: Sequence[Node]) -> None:
        super().applied(item, node, new, died)
        if not self._wanted(item):
            return
        seen = {name for gone in died for name in (gone.name or "", *origins(gone))}
        removed = (self._line, *(f"{n.op_type}  # {n.name}" for n in died if n is not node))
        head = self._head(item, node, seen)
        self._keep(
            item,
            node,
            Attempt(**head, miss=None, removed=removed, added=tuple(node_line(n) for n in new)),
        )

    def _head(self, item: Rule, node: Node, seen: set[str]) -> dict[str, Any]:
        return {
            "pass_index": self._index,
            "pass_name": self._pass_name,
            "rule": item.name,
            "node": node.name or "",
            "op_type": node.op_type,
            "line": self._line,
            "origins": origins(node),
            "outputs": tuple(self._outputs),
            "names": frozenset({node.name or "", *origins(node), *self._outputs, *seen}),
        }

    def _keep(self, item: Rule, node: Node, attempt: Attempt) -> None:
        key = (item.name, node.name or "")
        if key not in self.found or not self.found[key].applied:
            self.found[key] = attempt


def _nearby(root: Node) -> dict[str, tuple[int, Node | Value]]:
    """The nodes and values above `root`, by name, with their distance from it."""
    found: dict[str, tuple[int, Node | Value]] = {}
    edge: list[tuple[int, Node]] = [(0, root)]
    seen = {root}
    while edge and len(seen) <= MAX_NODES:
        distance, node = edge.pop(0)
        found.setdefault(node.name or "", (distance, node))
        for value in node.outputs:
            found.setdefault(value.name or "", (distance, value))
        for operand in node.inputs:
            if operand is None:
                continue
            found.setdefault(operand.name or "", (distance + 1, operand))
            producer = operand.producer()
            if producer is not None and producer not in seen:
                seen.add(producer)
                edge.append((distance + 1, producer))
    return found


def _maker(frame: FrameType | None) -> FrameType | None:
    """The function that made a NoMatch: the first one outside of its class."""
    while frame is not None and frame.f_code.co_name in ("__init__", "__post_init__"):
        frame = frame.f_back
    return frame


def _looked_at(frame: FrameType | None) -> dict[str, Node | Value]:
    """The nodes and values that the rule had in hand, by the names of its variables."""
    names: dict[str, Node | Value] = {}
    while frame is not None and frame.f_globals.get("__name__") != Rule.__module__:
        for name, item in frame.f_locals.items():
            if isinstance(item, (Node, Value)):
                names.setdefault(name, item)
        frame = frame.f_back
    return names


def _miss(
    miss: NoMatch,
    near: dict[str, tuple[int, Node | Value]],
    held: dict[str, Node | Value],
    step: int,
) -> Miss:
    """What `miss` says, with the facts as they are now: the graph will change."""
    place = near.get(miss.value or "")
    failed: Node | Value | None = None if place is None else place[1]
    if failed is None and miss.value is not None:
        failed = next((item for item in held.values() if item.name == miss.value), None)
    value = facts(failed) if failed is not None else Facts(miss.value, "") if miss.value else None
    distances = {name: near.get(item.name or "", (0, item))[0] for name, item in held.items()}
    depth = place[0] if place is not None else max(distances.values(), default=0)
    shown = {id(failed), *(id(item) for distance, item in near.values() if distance == 0)}
    if isinstance(failed, Value):
        shown.add(id(failed.producer()))
    looked_at = []
    for name in sorted(held, key=distances.__getitem__):
        if id(held[name]) not in shown:
            shown.add(id(held[name]))
            looked_at.append((name, facts(held[name])))
    return Miss(miss.reason, value, depth, step, tuple(looked_at[:MAX_LOOKED_AT]))


def facts(item: Node | Value) -> Facts:
    """What there is to know of a value or a node."""
    if isinstance(item, Node):
        users = [f"{u.op_type} {u.name!r}" for value in item.outputs for u in value.consumers()]
        users += ["the graph's output"] * any(value.is_graph_output() for value in item.outputs)
        line = node_line(item)
        return Facts(item.name or "", line, None, None, tuple(users[:MAX_USERS]), len(users[MAX_USERS:]))
    producer = item.producer()
    tensor = constant_tensor(item)
    made_by = "an input"
    if producer is not None:
        made_by = f"{producer.op_type} {producer.name!r}"
    elif tensor is not None:
        made_by = "a constant"
    elif item.is_initializer():
        made_by = "a default that callers may override"
    users = [f"{u.op_type} {u.name!r}" for u in item.consumers()]
    users += ["the graph's output"] * item.is_graph_output()
    small = tensor is not None and tensor.size <= SMALL_ELEMENTS
    return Facts(
        item.name or "",
        value_type(item),
        made_by,
        tensor_digest(tensor) if small else None,
        tuple(users[:MAX_USERS]),
        len(users[MAX_USERS:]),
    )


def explain_pipeline(
    model: Model,
    pipeline: Pipeline,
    subject: str,
    *,
    rule: bool,
    node: str | None = None,
    notes: Sequence[str] = (),
) -> Explanation:
    """Watch a rule, or the rules of a pass, wherever they stand in `pipeline`.

    Args:
        model: in canonical form; it is changed.
        subject: the name of a rule or, if not `rule`, of a pass.
        node: a node's name, an output's, or that of a node in the file it stands for; None: all.
    """
    last = max((i for i, p in enumerate(pipeline) if _concerns(p, subject, rule)), default=-1)
    attempts: dict[tuple[str, str], Attempt] = {}
    below: dict[str, int] = {}
    visits: list[Visit] = []
    known = _names(model)
    alive, removed_by = _lines(model, node), None
    for index, pass_ in enumerate(list(pipeline)[: last + 1]):
        text = str(pass_) if isinstance(pass_, Pass) else type(pass_).__name__
        if _concerns(pass_, subject, rule):
            known |= _names(model)
            watch = _Attempts(index, text, lambda item: not rule or item.name == subject)
            present = _lines(model, node)
            below |= _below(model, node)
            model, report = Pipeline([pass_]).run(model, watch=watch)
            visits.append(Visit(index, report.passes[0], present, _lines(model, node)))
            for key, attempt in watch.found.items():
                if key not in attempts or not attempts[key].applied:
                    attempts[key] = attempt
        else:
            model, _ = Pipeline([pass_]).run(model)
        if node is not None and removed_by is None and alive:
            alive = _lines(model, node)
            removed_by = None if alive else text
    chosen = [a for a in attempts.values() if node is None or node in a.names]
    notes = list(notes)
    if node is not None and (exact := [a for a in chosen if a.applied or a.is_called(node)]):
        chosen = exact
    elif node is not None and not chosen:
        nearest = min((below[a.node] for a in attempts.values() if a.node in below), default=None)
        chosen = [a for a in attempts.values() if nearest is not None and below.get(a.node) == nearest]
        if chosen:
            notes.append("no rule starts at this node or came across it: these start at the nearest below")
    # Only what an earlier pass took away is not to be found.
    gone = removed_by if node is not None and not any(v.present for v in visits) else None
    return Explanation(
        subject,
        node,
        tuple(sorted(chosen, key=_rank)),
        tuple(visits),
        gone,
        tuple(notes),
        frozenset(known),
    )


def _rank(attempt: Attempt) -> tuple[int, int, int]:
    """Applications first, then what got furthest."""
    miss = attempt.miss
    return (0, 0, 0) if miss is None else (1, -miss.depth, -miss.step)


def _concerns(pass_: onnx_ir.passes.PassBase, subject: str, rule: bool) -> bool:
    if rule:
        return any(item.name == subject for item in getattr(pass_, "rules", ()))
    return (pass_.pass_name() if isinstance(pass_, Pass) else type(pass_).__name__) == subject


def _is_called(node: Node, name: str) -> bool:
    return node.name == name or name in origins(node) or any(v.name == name for v in node.outputs)


def _lines(model: Model, name: str | None) -> tuple[str, ...]:
    """The lines of the nodes called `name`, or standing for a node called that."""
    if name is None:
        return ()
    return tuple(node_line(node) for node in model.graph.all_nodes() if _is_called(node, name))


def _below(model: Model, name: str | None) -> dict[str, int]:
    """The nodes that use what the node called `name` makes, directly or not, with their distance."""
    edge = [n for n in model.graph.all_nodes() if name is not None and _is_called(n, name)]
    found: dict[str, int] = {}
    for distance in range(1, MAX_BELOW + 1):
        edge = [user for node in edge for value in node.outputs for user in value.consumers()]
        edge = [user for user in dict.fromkeys(edge) if user.name not in found][:MAX_NODES]
        found.update((user.name or "", distance) for user in edge)
    return found


def _names(model: Model) -> set[str]:
    """Every name that a node answers to, and op types with how many there are for messages."""
    return {
        name
        for node in model.graph.all_nodes()
        for name in (node.name, *origins(node), *(v.name for v in node.outputs))
        if name
    }


def reasons(attempts: Sequence[Attempt]) -> Counter[tuple[str, str]]:
    """How often each rule gave each reason, over `attempts`."""
    return Counter((a.rule, a.miss.reason) for a in attempts if a.miss is not None)


def nearest_of_each(attempts: Sequence[Attempt]) -> list[Attempt]:
    """One attempt for each rule and reason, first those with reasons that the rule gives seldom.

    Most nodes fail on a rule's first predicate: what few fail on comes later in it.
    """
    counts = reasons(attempts)
    totals = Counter(a.rule for a in attempts)
    first: dict[tuple[str, str], Attempt] = {}
    for attempt in attempts:
        if attempt.miss is not None:
            first.setdefault((attempt.rule, attempt.miss.reason), attempt)
    return [first[key] for key in sorted(first, key=lambda key: counts[key] / totals[key[0]])]
