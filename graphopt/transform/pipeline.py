"""Pipelines: passes in order, as text or as objects, with instruments and a report."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import time
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import onnx_ir.passes

from graphopt.errors import (
    GraphoptError,
    ModelError,
    OutputError,
    PassError,
    UnsupportedError,
    UsageError,
)
from graphopt.ir import ExternalTensor, Model
from graphopt.ir.text import listing
from graphopt.transform.base import Changes, Exactness, Pass
from graphopt.transform.calibration import CalibratedPass, Observer
from graphopt.transform.rule import Watch, watching


@dataclasses.dataclass
class PassRecord:
    """One pass of one pipeline run, as it went.

    Attributes:
        name: pipeline text of the pass, options included.
        seconds: wall time.
        nodes_before, nodes_after: nodes in all graphs, nested ones included.
        bytes_before, bytes_after: bytes of all initializers.
        counts: how often each rule or change was applied.
        declined: the reasons why candidates were left alone, with their number.
        rolled_back: why the pass was undone, or None.
        details: a row for each changed part, of passes that tell them.
    """

    name: str
    exactness: str
    seconds: float
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    modified: bool
    counts: dict[str, int]
    declined: dict[str, int]
    rule_seconds: dict[str, float]
    rolled_back: str | None = None
    details: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Report:
    """What a pipeline did to a model, pass by pass.

    Attributes:
        page: writes the HTML report to a path; set by who ran the pipeline.
    """

    passes: list[PassRecord] = dataclasses.field(default_factory=list)
    nodes_before: int = 0
    nodes_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    page: Callable[..., None] | None = dataclasses.field(default=None, repr=False, compare=False)

    def __call__(self, path: str | os.PathLike[str], *, title: str | None = None) -> None:
        """Write the run as an HTML page that shows the graph pass by pass.

        Args:
            title: the heading; the graph's name by default.

        Raises:
            UsageError: GO701, the path does not end in ``.html``, or nothing is known but this report.
            OutputError: GO111, the file cannot be written.
        """
        if self.page is None:
            raise UsageError(
                "GO701",
                "the page of a report is made by graphopt.optimize",
                next_step="Of a pipeline of your own a graphopt.viz.Timeline makes one.",
            )
        self.page(path, title=title)

    @property
    def seconds(self) -> float:
        """Wall time of all passes."""
        return sum(record.seconds for record in self.passes)

    @property
    def exactness(self) -> Exactness:
        """The loosest exactness among the passes that changed the model."""
        order = [Exactness.BIT_EXACT, Exactness.REASSOCIATES, Exactness.LOSSY]
        used = [Exactness(r.exactness) for r in self.passes if r.modified and r.rolled_back is None]
        return max(used, key=order.index, default=Exactness.BIT_EXACT)

    def to_json(self, *, times: bool = True) -> dict[str, Any]:
        """The report as a JSON-ready dict (schema ``graphopt.report/1``).

        Args:
            times: leave out wall times, so that equal work gives equal bytes.
        """
        rows = []
        for record in self.passes:
            row = dataclasses.asdict(record)
            if not times:
                del row["seconds"], row["rule_seconds"]
            rows.append(row)
        return {
            "schema": "graphopt.report/1",
            "nodes_before": self.nodes_before,
            "nodes_after": self.nodes_after,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "exactness": self.exactness.value,
            **({"seconds": self.seconds} if times else {}),
            "passes": rows,
        }


class Instrument(Protocol):
    """Something that watches a pipeline run: progress, dumps, timing."""

    def before_pass(self, index: int, total: int, pass_: onnx_ir.passes.PassBase, model: Model) -> None:
        """Called before each pass."""

    def after_pass(self, index: int, total: int, record: PassRecord, model: Model) -> None:
        """Called after each pass, also when it was rolled back."""


class Dump(Instrument):
    """Writes a listing of the graph after every pass that changed it: ``03-fold-constants.txt``."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def before_pass(self, index: int, total: int, pass_: onnx_ir.passes.PassBase, model: Model) -> None:
        """Write the graph as it was before the first pass."""
        if index == 0:
            self._write("00-before.txt", model)

    def after_pass(self, index: int, total: int, record: PassRecord, model: Model) -> None:
        """Write the graph if the pass changed it."""
        if record.modified:
            name = re.sub(r"[^\w-].*", "", record.name)
            self._write(f"{index + 1:02}-{name}.txt", model)

    def _write(self, name: str, model: Model) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(listing(model), encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise OutputError(
                "GO111", f"the dump cannot be written: {error}", where=str(self.folder)
            ) from error


Checker = Callable[[Model, "Model | Exception", onnx_ir.passes.PassBase], str | None]
"""Given the model before and after a pass (or what the pass raised): None when they agree, else what is
different."""


class Pipeline:
    """Passes in order. Any onnx-ir pass fits in beside graphopt's own."""

    def __init__(self, passes: Sequence[onnx_ir.passes.PassBase] | str = ()) -> None:
        self.passes: tuple[onnx_ir.passes.PassBase, ...] = (
            tuple(parse_pipeline(passes)) if isinstance(passes, str) else tuple(passes)
        )

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """The pipeline that `text` describes, such as ``fold-constants{max-bytes=64K},fuse-conv-bn``."""
        return cls(text)

    def __str__(self) -> str:
        return ",".join(str(p) if isinstance(p, Pass) else type(p).__name__ for p in self.passes)

    def __iter__(self) -> Iterator[onnx_ir.passes.PassBase]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def run(
        self,
        model: Model,
        *,
        instruments: Sequence[Instrument] = (),
        check: Checker | None = None,
        watch: Watch | None = None,
        observe: Observer | None = None,
    ) -> tuple[Model, Report]:
        """Run every pass on `model` in place.

        Args:
            check: compares the model before and after each pass; a pass that it faults, or that
                raises, is rolled back and named in the report. Costs a copy of the graph for each pass.
            watch: sees every application of a rule; once its limit is reached, no further pass runs.
            observe: runs the model on calibration feeds, for the passes that decide by what they find.

        Returns:
            The model (another object only if a pass was rolled back or is functional) and the report.

        Raises:
            PassError: a pass raised; the pass is named.
        """
        nodes, size = count_nodes(model), initializer_bytes(model)
        report = Report(nodes_before=nodes, bytes_before=size)
        for index, pass_ in enumerate(self.passes):
            if watch is not None and watch.spent:
                break
            for instrument in instruments:
                instrument.before_pass(index, len(self.passes), pass_, model)
            before = model.clone() if check is not None else None
            started = time.perf_counter()
            outcome: Model | Exception
            try:
                model, changes = _run_watched(pass_, model, watch, observe)
                outcome = model
            except (ModelError, UnsupportedError, UsageError):
                raise
            except Exception as error:
                if check is None or isinstance(error, MemoryError):
                    raise
                outcome, changes = error, Changes(changes_counter(True))
            seconds = time.perf_counter() - started
            fault = (
                check(before, outcome, pass_)
                if check is not None and before is not None and changes.modified
                else None
            )
            if fault is not None and before is not None:
                model = before
            elif isinstance(outcome, Exception):
                raise outcome
            nodes_after, size_after = (
                (count_nodes(model), initializer_bytes(model)) if changes.modified else (nodes, size)
            )
            record = PassRecord(
                name=str(pass_) if isinstance(pass_, Pass) else type(pass_).__name__,
                exactness=_exactness(pass_).value,
                seconds=seconds,
                nodes_before=nodes,
                nodes_after=nodes_after,
                bytes_before=size,
                bytes_after=size_after,
                modified=changes.modified,
                counts=dict(sorted(changes.counts.items())),
                declined=dict(sorted(changes.declined.items())),
                rule_seconds=changes.seconds,
                rolled_back=fault,
                details=changes.details,
            )
            nodes, size = nodes_after, size_after
            report.passes.append(record)
            for instrument in instruments:
                instrument.after_pass(index, len(self.passes), record, model)
        report.nodes_after, report.bytes_after = nodes, size
        return model, report


def _run_watched(
    pass_: onnx_ir.passes.PassBase, model: Model, watch: Watch | None, observe: Observer | None
) -> tuple[Model, Changes]:
    """Run `pass_`, and see that it leaves the interface alone and is counted by `watch`."""
    promised = _interface(model)
    seen = watch.count if watch is not None else 0
    with watching(watch):
        model, changes = _run_pass(pass_, model, observe)
    _check_interface(pass_, promised, _interface(model))
    if watch is not None and changes.modified and watch.count == seen:
        watch.count += 1
    return model, changes


def _interface(model: Model) -> list[tuple[str, str | None, str]]:
    """What callers rely on: inputs and outputs, their names, order and types."""
    graph = model.graph
    return [
        (kind, value.name, str(value.type))
        for kind, values in (("input", graph.inputs), ("output", graph.outputs))
        for value in values
    ]


def _check_interface(
    pass_: onnx_ir.passes.PassBase,
    before: list[tuple[str, str | None, str]],
    after: list[tuple[str, str | None, str]],
) -> None:
    if before == after:
        return
    changed = next((pair for pair in zip(before, after, strict=False) if pair[0] != pair[1]), (before, after))
    raise PassError(
        "GO302",
        f"the pass {pass_} changed the model's interface",
        found=changed[1],
        expected=changed[0],
        next_step="Leave it out with --pipeline, and report this.",
    )


def _exactness(pass_: onnx_ir.passes.PassBase) -> Exactness:
    return pass_.exactness if isinstance(pass_, Pass) else Exactness.REASSOCIATES


def _run_pass(
    pass_: onnx_ir.passes.PassBase, model: Model, observe: Observer | None
) -> tuple[Model, Changes]:
    try:
        if isinstance(pass_, CalibratedPass) and observe is not None:
            wanted = pass_.wanted(model)
            return model, pass_.run_with(model, observe(model, wanted) if wanted else {})
        if isinstance(pass_, Pass):
            return model, pass_.run(model)
        result = pass_(model)
        return result.model, Changes(changes_counter(result.modified))
    except (ModelError, UnsupportedError, UsageError):  # the model or an option is wrong, not the pass
        raise
    except GraphoptError as error:
        raise PassError(
            "GO301",
            f"the pass {pass_} failed: {error}",
            next_step="Leave it out with --pipeline, and report this.",
        ) from error
    except RecursionError as error:
        raise PassError("GO301", f"the pass {pass_} met nesting that is too deep") from error


def changes_counter(modified: bool) -> Any:
    """The count record of a foreign pass, which only says whether it changed anything."""
    from collections import Counter

    return Counter({"changed": 1} if modified else {})


def count_nodes(model: Model) -> int:
    """Nodes in the main graph and every nested one."""
    return sum(1 for _ in model.graph.all_nodes())


def initializer_bytes(model: Model) -> int:
    """Bytes of all initializers, without reading them."""
    return sum(
        value.const_value.nbytes
        if not isinstance(value.const_value, ExternalTensor)
        else (value.const_value.length or value.const_value.nbytes)
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype.name != "STRING"
    )


_ITEM = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:\{((?:[^{}\"]|\"(?:[^\"\\]|\\.)*\")*)\})?\s*(?:,|$)")
_OPTION = re.compile(r"\s*([A-Za-z][\w-]*)\s*=\s*(\"(?:[^\"\\]|\\.)*\"|[^\s,\"]+)\s*,?")


def parse_pipeline(text: str) -> list[Pass]:
    """The passes that `text` names: ``name{option=value other=value},name``.

    Sizes may be written ``64K``, ``10M``. Raises UsageError (GO303) with the position and the choices.
    """
    find = importlib.import_module("graphopt.passes").find
    passes: list[Pass] = []
    position = 0
    while position < len(text):
        match = _ITEM.match(text, position)
        if match is None:
            raise UsageError(
                "GO303",
                "the pipeline text cannot be parsed",
                where=f"character {position + 1}",
                found=repr(text[position : position + 30]),
                expected="name{option=value},name,…",
            )
        cls = find(match.group(1))
        options = _parse_options(cls, match.group(2) or "")
        passes.append(cls(**options))
        position = match.end()
    return passes


def _parse_options(cls: type[Pass], text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    fields = {f.name.replace("_", "-"): f for f in cls.options()}
    hints = typing.get_type_hints(cls)  # slow: only where there are options
    options: dict[str, Any] = {}
    position = 0
    while position < len(text.rstrip()):
        match = _OPTION.match(text, position)
        if match is None:
            raise UsageError(
                "GO303",
                "the options cannot be parsed",
                where=cls.pass_name(),
                found=repr(text),
                expected="option=value",
            )
        name, raw = match.group(1), match.group(2)
        if raw.startswith('"'):
            raw = re.sub(r"\\(.)", r"\1", raw[1:-1])
        field = fields.get(name)
        if field is None:
            raise UsageError(
                "GO303",
                f"the pass {cls.pass_name()} has no option {name!r}",
                expected=", ".join(fields) or "no options",
            )
        options[field.name] = _convert(raw, hints[field.name], f"{cls.pass_name()}{{{name}}}")
        position = match.end()
    return options


def _convert(text: str, hint: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if text == "none" and type(None) in args:
            return None
        hint = next(a for a in args if a is not type(None))
        return _convert(text, hint, where)
    if origin is tuple:
        parts = re.findall(r"(?:[^:\\]|\\.)+", text)  # a colon inside an item is written \:
        return tuple(_convert(re.sub(r"\\(.)", r"\1", part), args[0], where) for part in parts)
    try:
        if hint is bool:
            return {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}[
                text.lower()
            ]
        if hint is int:
            scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 1)
            return int(text[:-1]) * scale if scale > 1 else int(text)
        if hint is float:
            return float(text)
    except (KeyError, ValueError) as error:
        raise UsageError(
            "GO303", "a wrong option value", where=where, found=repr(text), expected=hint.__name__
        ) from error
    return text
