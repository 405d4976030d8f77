"""Open a session that runs a model on XLA, host segments included."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import ModelError
from graphopt.ir import Model, OptionalType, SequenceType, Value
from graphopt.ir.io import save
from graphopt.runtime.feeds import FeedSpec

if TYPE_CHECKING:
    from graphopt.lowering.xla.partition import Partition, Segment
    from graphopt.runtime.xla import Plan, XlaSession

Note = Callable[["Partition"], None]


def open_xla_session(
    model: Model,
    *,
    specs: Sequence[FeedSpec],
    precision: str | None,
    exported: Callable[[Mapping[str, Any]], bytes | None] | None = None,
    partitioned: bool = False,
    strict: bool = False,
    platform: str = "cpu",
    on_partition: Note | None = None,
) -> XlaSession:
    """A session for `model` as it is, compiled for each combination of shapes that it meets.

    Args:
        exported: gives the portable program for inputs of exactly these shapes, if there is one.
        partitioned: whether it is known already that nodes run on the host.
        strict: refuse to run nodes on the host: the error that would send them there is raised.
        platform: the JAX platform to run on.
        on_partition: is told each partition that is made.
    """
    runtime = importlib.import_module("graphopt.runtime.xla")
    program = importlib.import_module("graphopt.lowering.xla.program")
    hosts = HostSegments()

    def program_for(shapes: Mapping[str, Any], known: Mapping[str, np.ndarray]) -> Any:
        # A portable program with free dimensions would run too, but it takes no empty ones, and
        # traced for the shapes at hand the compiler sees their sizes.
        made = None if exported is None or known else exported(shapes)
        if made is not None:
            return runtime.exported_call(made)
        built = program.build_program(model, shapes, precision=precision, constants=known)
        return program.quiet(built.function)

    def plan_for(shapes: Mapping[str, Any], known: Mapping[str, np.ndarray]) -> Plan:
        cut = cut_for(model, shapes, known, precision)
        if on_partition is not None:
            on_partition(cut)
        return _plan(cut, hosts, precision)

    def weights() -> dict[str, np.ndarray]:
        return {
            n: v.const_value.numpy()
            for n, v in program.argument_weights(model).items()
            if v.const_value is not None
        }

    session: XlaSession = runtime.XlaSession(
        specs,
        [v.name or "" for v in model.graph.outputs],
        weights,
        program_for,
        takes=frozenset(v.name or "" for v in model.graph.inputs if program.xla_holds(v)),
        plan_for=None if strict else plan_for,
        partitioned=partitioned,
        platform=platform,
        defaults=default_feeds(model),
    )
    return session


def default_feeds(model: Model) -> dict[str, np.ndarray]:
    """What inputs with an initializer are when they are not fed."""
    return {
        v.name or "": v.const_value.numpy()
        for v in model.graph.inputs
        if v.is_initializer() and v.const_value is not None
    }


def feed_specs(model: Model, described: Sequence[Mapping[str, Any]]) -> list[FeedSpec]:
    """What may be fed, from the inputs as an artifact's manifest describes them."""
    specs = []
    for value, row in zip(model.graph.inputs, described, strict=True):
        shape = None if row["shape"] is None else tuple(row["shape"])
        specs.append(
            FeedSpec(
                row["name"],
                row["dtype"],
                shape,
                value.is_initializer(),
                _holds(value, SequenceType),
                isinstance(value.type, OptionalType),
            )
        )
    return specs


def _holds(value: Value, kind: type) -> bool:
    type_ = value.type.elem_type if isinstance(value.type, OptionalType) else value.type
    return isinstance(type_, kind)


def cut_for(
    model: Model, shapes: Mapping[str, Any], known: Mapping[str, np.ndarray], precision: str | None
) -> Partition:
    """The partition of `model` for inputs of these shapes; those that XLA has no type for stay out."""
    partition = importlib.import_module("graphopt.lowering.xla.partition")
    program = importlib.import_module("graphopt.lowering.xla.program")
    structs = {}
    for value in model.graph.inputs:
        name = value.name or ""
        if name in shapes and name not in known and program.xla_holds(value):
            structs[name] = program.input_struct(value, shapes[name])
    cut: Partition = partition.partition(model, structs, constants=known, precision=precision)
    return cut


def _plan(cut: Partition, hosts: HostSegments, precision: str | None) -> Plan:
    """The steps of a partition; outputs and inputs that are constants are known before any runs."""
    runtime = importlib.import_module("graphopt.runtime.xla")
    program = importlib.import_module("graphopt.lowering.xla.program")
    partition = importlib.import_module("graphopt.lowering.xla.partition")
    control_flow = importlib.import_module("graphopt.runtime.control_flow")
    steps = []
    constants = list(cut.outputs)
    for segment in cut.segments:
        inputs = tuple(v.name or "" for v in segment.inputs)
        if segment.driven is not None:
            node = segment.driven.node
            bodies = tuple(_plan(body, hosts, precision) for body in segment.driven.bodies)
            given = dict.fromkeys((*inputs, *(v.name or "" for v in node.inputs if v is not None)))
            steps.append(runtime.Step("driven", control_flow.driver_of(node), tuple(given), bodies=bodies))
            constants.extend(v for v in node.inputs if v is not None)
            continue
        if segment.where == "host":
            steps.append(runtime.Step("host", hosts.open(cut, segment), inputs))
            continue
        built = partition.segment_program(cut, segment, precision=precision)
        steps.append(runtime.Step("xla", program.quiet(built.function), inputs, tuple(built.weights)))
    known: dict[str, Any] = {v.name or "": array for v, array in cut.known.items()}
    for value in constants:
        if value.is_initializer() and not value.is_graph_input() and value.const_value is not None:
            known.setdefault(value.name or "", value.const_value.numpy())
    outputs = tuple(v.name or "" for v in cut.outputs)
    return runtime.Plan(tuple(steps), known, outputs)  # type: ignore[no-any-return]


class HostSegments:
    """Host segments as callables: by ONNX Runtime, or by onnx.reference where that has no kernel.

    A segment that several partitions share is opened once. Models are written to a temporary folder.
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._opened: dict[Any, Callable[[Mapping[str, Any]], dict[str, Any]]] = {}

    def open(self, cut: Partition, segment: Segment) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """The function from the segment's inputs by name to its outputs by name."""
        key = (segment.nodes, segment.inputs, segment.outputs)
        if key not in self._opened:
            self._opened[key] = self._open(cut, segment)
        return self._opened[key]

    def _open(self, cut: Partition, segment: Segment) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        evaluators = importlib.import_module("graphopt.verification.evaluators")
        partition = importlib.import_module("graphopt.lowering.xla.partition")
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="graphopt-host-")
        path = Path(self._folder.name) / f"segment{len(self._opened)}" / "model.onnx"
        path.parent.mkdir()
        save(partition.host_model(cut, segment), path, external_data=True)
        try:
            run = evaluators.open_evaluator(str(path))
        except evaluators.EvaluationFailed as error:
            raise _failure(segment, error) from error

        def call(feeds: Mapping[str, Any]) -> dict[str, Any]:
            try:
                results: dict[str, Any] = run(feeds)
            except evaluators.EvaluationFailed as error:
                raise _failure(segment, error) from error
            return results

        return call


def _failure(segment: Segment, error: Exception) -> ModelError:
    names = ", ".join(f"{n.op_type} {n.name!r}" for n in segment.nodes[:3])
    more = f" and {len(segment.nodes) - 3} more" if len(segment.nodes) > 3 else ""
    return ModelError("GO604", "a host segment failed", where=names + more, found=str(error))
