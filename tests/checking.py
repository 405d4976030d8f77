"""What tests are written with: one call that checks a pass, one that checks an operator's lowering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 and the float8 types with numpy)
import numpy as np
import onnx
import onnx_ir
import onnxruntime

from graphopt.ir import Model, text
from graphopt.ir.ingest import normalize
from graphopt.ir.io import load
from graphopt.transform import Changes, Exactness, Pass

HEADER = '<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'


def model_from(source: str, opset: int = 18) -> Model:
    """The model in ONNX text, in canonical form; the header may be left out."""
    full = source if source.lstrip().startswith("<") else HEADER.format(opset=opset) + source
    return load(full)


def run_onnxruntime(model: Model | onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The outputs under ONNX Runtime without any of its optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    proto = onnx_ir.to_proto(model) if isinstance(model, Model) else model
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}
    return dict(zip(names, session.run(names, {k: v for k, v in feeds.items() if k in wanted}), strict=True))


def random_feeds(model: Model, dims: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Feeds for the inputs of `model`: normal floats, small non-negative integers, both booleans.

    Symbolic dimensions take their size from `dims`, else 3.
    """
    generator = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        assert value.shape is not None and value.dtype is not None, value
        shape = [d if isinstance(d, int) else (dims or {}).get(str(d.value), 3) for d in value.shape.dims]
        dtype = value.dtype.numpy()
        if dtype.kind in "iu":
            feeds[value.name or ""] = generator.integers(0, 3, shape).astype(dtype)
        elif dtype.kind == "b":
            feeds[value.name or ""] = generator.integers(0, 2, shape).astype(bool)
        else:
            feeds[value.name or ""] = generator.standard_normal(shape).astype(dtype)
    return feeds


def check_pass(
    pass_: Pass,
    before: str | Model,
    after: str | Model | None = None,
    *,
    dims: Mapping[str, int] | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    opset: int = 18,
    run: bool = True,
    rtol: float | None = None,
) -> Changes:
    """Run `pass_` on `before` and check everything that a pass promises.

    * The result equals `after` structurally (`after=None`: the pass must leave the model alone).
    * It says whether it changed anything, and says so truly.
    * A second run changes nothing.
    * The interface is the same and the model is valid.
    * ONNX Runtime gives the same answers before and after: the same bits when the pass is
      bit-exact, within rounding when it reassociates.
    """
    model = model_from(before, opset) if isinstance(before, str) else normalize(before.clone())
    expected = model_from(after, opset) if isinstance(after, str) else after
    return check_change(pass_, model, expected, dims=dims, feeds=feeds, run=run, rtol=rtol)


def check_change(
    pass_: Pass,
    before: Model,
    after: Model | None,
    *,
    dims: Mapping[str, int] | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    run: bool = True,
    rtol: float | None = None,
) -> Changes:
    """What :func:`check_pass` checks, of models in canonical form: `before` is taken as it is."""
    model = before.clone()
    changes = pass_.run(model)
    if after is None:
        assert text.canonical(model) == text.canonical(before), "the pass changed a model it must leave alone"
        assert not changes.modified, f"it claims changes: {changes.counts}"
        return changes
    assert text.canonical(model) == text.canonical(after)
    assert changes.modified, "the pass changed the model without saying so"
    assert not pass_.run(model).modified, "the pass is not idempotent"
    check_interface(before, model)
    onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)
    if run:
        check_same_results(before, model, feeds or random_feeds(before, dims), pass_.exactness, rtol=rtol)
    return changes


def check_interface(before: Model, after: Model) -> None:
    """Inputs and outputs have the same names, order and types."""
    for old, new in ((before.graph.inputs, after.graph.inputs), (before.graph.outputs, after.graph.outputs)):
        assert [(v.name, v.dtype) for v in old] == [(v.name, v.dtype) for v in new]


def check_same_results(
    before: Model,
    after: Model,
    feeds: Mapping[str, np.ndarray],
    exactness: Exactness,
    *,
    rtol: float | None = None,
) -> None:
    """ONNX Runtime gives the same answers for both models, as far as `exactness` promises."""
    old, new = run_onnxruntime(before, feeds), run_onnxruntime(after, feeds)
    for name, reference in old.items():
        if exactness is Exactness.BIT_EXACT:
            np.testing.assert_array_equal(new[name], reference, err_msg=name)
        else:
            tolerance = rtol if rtol is not None else (1e-5 if exactness is Exactness.REASSOCIATES else 2e-2)
            scale = float(np.max(np.abs(reference), initial=1e-6, where=np.isfinite(reference)))
            np.testing.assert_allclose(
                new[name], reference, rtol=tolerance, atol=tolerance * scale, err_msg=name
            )


def run_xla(
    model: Model,
    feeds: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """The outputs under XLA on the CPU. Inputs that must be static are specialised on automatically."""
    from graphopt.lowering.xla.emit import StaticOperandRequired
    from graphopt.lowering.xla.program import build_program, settings
    from graphopt.runtime.xla import jitted, on_host

    bound = dict(constants or {})
    while True:
        shapes = {k: _shape_of(v) for k, v in feeds.items()}
        program = build_program(model, shapes, constants=bound)
        fed = {k: v for k, v in feeds.items() if k not in bound}
        try:
            with settings():
                results = jitted(program.function)(program.weight_arrays(), fed)
                return {v.name or "": on_host(results[v.name or ""]) for v in model.graph.outputs}
        except StaticOperandRequired as error:
            missing = {name for name in error.inputs if name in feeds and name not in bound}
            if not missing:
                raise
            bound.update({name: np.asarray(feeds[name]) for name in missing})


def _shape_of(fed: Any) -> Any:
    """The shape of an array, those of a sequence's items, None for an absent optional."""
    if isinstance(fed, list):
        return [_shape_of(item) for item in fed]
    return None if fed is None else np.asarray(fed).shape


def make_model(
    op_type: str,
    inputs: Mapping[str, np.ndarray | None],
    outputs: int | Sequence[str] = 1,
    *,
    opset: int = 18,
    domain: str = "",
    domain_version: int = 1,
    constant: Sequence[str] = (),
    **attributes: Any,
) -> tuple[Model, dict[str, np.ndarray]]:
    """A model of one node and its feeds; inputs named in `constant` become initializers."""
    node = onnx.helper.make_node(
        op_type,
        [k if v is not None else "" for k, v in inputs.items()],
        [f"y{i}" for i in range(outputs)] if isinstance(outputs, int) else list(outputs),
        domain=domain,
        **attributes,
    )
    arrays = {k: np.asarray(v) for k, v in inputs.items() if v is not None}
    feeds = {k: v for k, v in arrays.items() if k not in constant}
    graph = onnx.helper.make_graph(
        [node],
        "op",
        [
            onnx.helper.make_tensor_value_info(k, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in feeds.items()
        ],
        [onnx.ValueInfoProto(name=n) for n in node.output if n],
        [onnx.numpy_helper.from_array(arrays[k], k) for k in constant],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    if domain:
        imports.append(onnx.helper.make_opsetid(domain, domain_version))
    return normalize(
        onnx_ir.from_proto(onnx.helper.make_model(graph, opset_imports=imports, ir_version=10))
    ), feeds


def check_op(
    op_type: str,
    inputs: Mapping[str, np.ndarray | None],
    outputs: int | Sequence[str] = 1,
    *,
    opset: int = 18,
    domain: str = "",
    constant: Sequence[str] = (),
    rtol: float = 1e-5,
    atol: float = 1e-6,
    reference: str = "onnxruntime",
    **attributes: Any,
) -> dict[str, Any]:
    """XLA gives what ONNX Runtime (or, with ``reference="onnx"``, onnx.reference) gives for one node."""
    model, feeds = make_model(
        op_type, inputs, outputs, opset=opset, domain=domain, constant=constant, **attributes
    )
    if reference == "onnxruntime":
        expected = run_onnxruntime(model, feeds)
    else:
        from onnx.reference import ReferenceEvaluator

        names = [v.name or "" for v in model.graph.outputs]
        evaluator = ReferenceEvaluator(onnx_ir.to_proto(model))
        expected = dict(zip(names, evaluator.run(names, dict(feeds)), strict=True))
    found = run_xla(model, feeds)
    for name, wanted in expected.items():
        wanted = np.asarray(wanted)
        assert found[name].dtype == wanted.dtype, (name, found[name].dtype, wanted.dtype)
        assert found[name].shape == wanted.shape, (name, found[name].shape, wanted.shape)
        np.testing.assert_allclose(
            found[name].astype(np.float64) if wanted.dtype.kind not in "biuc" else found[name],
            wanted.astype(np.float64) if wanted.dtype.kind not in "biuc" else wanted,
            rtol=rtol,
            atol=atol,
            err_msg=name,
        )
    return found
