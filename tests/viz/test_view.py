"""The view: steps that replay to the graph, stable keys, what became of each node, groups, heat."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import view_checks
from checking import model_from
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import UsageError
from graphopt.ir import Model
from graphopt.target import Target, devices
from graphopt.transform import Pipeline
from graphopt.viz import Measured, Timeline, model_view, run_view, visualize
from graphopt.viz.view import prepared

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = sorted((ROOT / "samples" / "generated").glob("*.onnx"))
GOLDEN = Path(__file__).with_name("golden_view.json")

CONV = """
agraph (float[1,3,8,8] x) => (float[1,4,8,8] y)
<float[4,3,1,1] w = {1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0,9.0,10.0,11.0,12.0}, float[4] s = {1.0,2.0,1.0,2.0},
 float[4] b = {0.0,1.0,0.0,1.0}, float[4] m = {0.0,0.0,0.0,0.0}, float[4] v = {1.0,1.0,1.0,1.0}> {
  [conv] c = Conv (x, w)
  [norm] n = BatchNormalization (c, s, b, m, v)
  [gone] i = Identity (n)
  [act] y = Relu (i)
}
"""


def run(source: Any, pipeline: str | None = None) -> tuple[dict[str, Any], Model]:
    """The view of a run, and the model at its end."""
    timeline = Timeline()
    result = graphopt.optimize(source, "cpu", pipeline=pipeline, instruments=[timeline])
    return run_view(timeline, result.model), result.model


def states(view: dict[str, Any]) -> list[tuple[str | None, str | None, str]]:
    """The pairs by names."""
    strings, nodes = view["strings"], view["nodes"]
    alive = view_checks.check(view)
    first, last = ({nodes[n]["key"]: strings[nodes[n]["n"]] for n in alive[i]} for i in (0, -1))
    return [(first.get(a), last.get(b), state) for a, b, state in view["diff"]["pairs"]]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_steps_replay_to_the_graph(path: Path) -> None:
    view, model = run(path)
    alive = view_checks.check(view)
    view_checks.same_graph(view, alive[0], graphopt.load(path))
    view_checks.same_graph(view, alive[-1], model)
    assert [len(part) for part in alive] == [step["nodes"] for step in view["steps"]]
    assert sum(step["changed"] for step in view["steps"]) > 2


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_views_of_one_and_of_two_models(path: Path) -> None:
    _, model = run(path)
    (alive,) = view_checks.check(visualize(path).view)
    view_checks.same_graph(visualize(path).view, alive, prepared(path)[0])
    before, after = view_checks.check(visualize(path, model).view)
    assert before and len(after) == len(list(model.graph.all_nodes()))
    pair = visualize(model, model).view
    view_checks.check(pair)
    assert {state for *_, state in pair["diff"]["pairs"]} == {"same"}


def test_a_fused_node_knows_its_origins_and_keeps_the_place_of_one() -> None:
    view, _ = run(model_from(CONV))
    found = states(view)
    fused = {(before, state) for before, _, state in found}
    assert {("conv", "fused"), ("norm", "fused"), ("act", "fused")} <= fused
    assert ("gone", "removed") in fused or ("gone", "fused") in fused
    (last,) = view_checks.check(view)[-1]
    node = view["nodes"][last]
    assert node["key"] in node["f"]
    steps = {step["pass"]: step["why"] for step in view["steps"][1:] if step["changed"]}
    assert steps["fuse-conv-bn"] == [["batch-normalization-of-linear", 1]]
    assert all(step["seconds"] >= 0 and step["exactness"] for step in view["steps"][1:])


def test_only_what_changed_has_a_new_version() -> None:
    nodes = "\n".join(f"[r{i}] t{i + 1} = {'Neg' if i % 2 else 'Relu'} (t{i})" for i in range(40))
    text = f"agraph (float[2,3] t0) => (float[2,3] y) {{ {nodes} [id] z = Identity (t40) [out] y = Abs (z) }}"
    view, _ = run(model_from(text), "eliminate-identity")
    assert [(len(s["add"]), len(s["del"])) for s in view["steps"]] == [(42, 0), (1, 2)]
    assert len(view["nodes"]) == 43


def test_keys_are_stable_through_all_steps() -> None:
    view, _ = run(ROOT / "samples" / "generated" / "bert-tiny.onnx")
    by_name: dict[str, set[int]] = {}
    for node in view["nodes"]:
        by_name.setdefault(view["strings"][node["n"]], set()).add(node["key"])
    assert all(len(keys) == 1 for keys in by_name.values()), "in this model no name changes hands"


def test_work_is_linear_in_the_graph() -> None:
    visits = {}
    for count in (1000, 4000):
        timeline = Timeline()
        result = graphopt.optimize(
            deep(count), pipeline="eliminate-identity,fold-constants", instruments=[timeline]
        )
        view = run_view(timeline, result.model)
        changed = sum(step["changed"] for step in view["steps"])
        visits[count] = timeline.ledger.sight.visits
        assert visits[count] <= (1 + changed) * count, "each changed step is walked once"
        assert len(view["nodes"]) <= 2 * count
    assert visits[4000] <= 4.2 * visits[1000]


def test_ten_thousand_nodes_are_each_written_down_once() -> None:
    view = visualize(deep(10_000)).view
    (alive,) = view_checks.check(view)
    assert len(view["nodes"]) == len(alive) == 10_000
    assert len(view["groups"]) < 10_000
    copies = [group for group in view["groups"] if group["k"] == "repeat"]
    assert {group["x"] for group in copies} == {1000}, "layers that are alike are copies of one block"


def deep(count: int) -> Model:
    """`count` nodes in layers of ten with names of their own, every layer but the last alike."""
    ops = ("Relu", "Neg", "Abs", "Identity", "Tanh", "Exp", "Sqrt", "Sigmoid", "Floor", "Ceil")
    nodes = [
        helper.make_node(op, [f"t{i}" if i else "x"], [f"t{i + 1}"], name=f"/net/layer.{i // 10}/{op}")
        for i, op in ((i, ops[i % 10]) for i in range(count))
    ]
    nodes[-1].output[0] = "y"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xy"]
    graph = helper.make_graph(nodes, "deep", ends[:1], ends[1:])
    return graphopt.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def test_groups_follow_names_and_blocks_that_repeat() -> None:
    view = visualize(ROOT / "samples" / "generated" / "bert-tiny.onnx").view
    strings = view["strings"]
    labels = {strings[g["n"]] for g in view["groups"]}
    assert {"encoder", "layer.0", "layer.1", "attention", "pooler"} <= labels
    flat = "\n".join(
        f"[{op.lower()}{i}] t{5 * i + j + 1} = {op} (t{5 * i + j})"
        for i in range(6)
        for j, op in enumerate(("Relu", "Neg", "Abs", "Tanh", "Exp"))
    )
    view = visualize(model_from(f"agraph (float[2] t0) => (float[2] t30) {{ {flat} }}")).view
    view_checks.check(view)
    assert Counter(g["k"] for g in view["groups"]) == {"root": 1, "repeat": 6}
    assert {len([n for n in view["nodes"] if n["g"] == g]) for g in range(1, 7)} == {5}


def test_groups_follow_the_metadata_of_torch() -> None:
    scopes = {
        "pkg.torch.onnx.name_scopes": "['', 'model', 'model.layers.0', 'model.layers.0.attn', 'matmul']",
        "pkg.torch.onnx.class_hierarchy": "['Top', 'a.b.Model', 'a.b.Layer', 'a.b.Attention', 'aten.matmul']",
    }
    model = model_from(
        "agraph (float[2] x) => (float[2] y) { [one] a = Relu (x) [two] b = Neg (a) [o] y = Abs (b) }"
    )
    for node in list(model.graph)[:2]:
        node.metadata_props.update(scopes)
    view = visualize(model).view
    view_checks.check(view)
    labels = [view["strings"][g["n"]] for g in view["groups"][1:]]
    assert labels == ["model (Model)/layers.0 (Layer)/attn (Attention)"], "one inside the other alone are one"


def test_nested_graphs_have_groups_and_subgraphs() -> None:
    source = """<ir_version: 10, opset_import: ["" : 18]>
    agraph (bool c, float[2] x) => (float[2] y) {
      [keep] k = Neg (x)
      [branch] y = If (c) <
        then_branch = yes () => (float[2] t) { [inner] t = Relu (k) },
        else_branch = no () => (float[2] e) { [other] m = Abs (k) [last] e = Tanh (m) }
      >
    }"""
    view = visualize(source).view
    view_checks.check(view)
    strings = view["strings"]
    bodies = {strings[s["n"]]: number for number, s in enumerate(view["subgraphs"])}
    assert set(bodies) == {"then_branch", "else_branch"}
    yes, no = bodies["then_branch"], bodies["else_branch"]
    inside = {strings[n["n"]]: n.get("sub") for n in view["nodes"]}
    assert inside == {"keep": None, "branch": None, "inner": yes, "other": no, "last": no}
    groups = {strings[n["n"]]: n["g"] for n in view["nodes"]}
    assert groups["inner"] == view["subgraphs"][yes]["g"] and groups["keep"] == 0
    assert groups["other"] == groups["last"] == view["subgraphs"][no]["g"]
    assert {strings[view["values"][v]["n"]] for v in view["subgraphs"][no]["out"]} == {"e"}


def test_constant_nodes_are_weights_with_numbers() -> None:
    source = """<ir_version: 10, opset_import: ["" : 18]>
    agraph (float[N] x) => (float[N] y) { c = Constant <value = float {2.5}> () y = Mul (x, c) }"""
    view = visualize(source).view
    view_checks.check(view)
    (step,) = view["steps"]
    assert (step["nodes"], step["bytes"]) == (1, 4)
    values = {view["strings"][v["n"]]: v for v in view["values"]}
    assert values["c"]["k"] == "init" and values["c"]["b"] == 4
    assert values["c"]["stats"]["shown"] == "2.5"
    assert values["x"]["d"] == ["N"] and values["x"]["b"] is None


def test_heat_of_costs_cycles_placement_and_errors() -> None:
    model = model_from(CONV)
    known = Measured(
        target=Target.parse("tpu:v5e"),
        cost={
            "nodes": [{"node": "conv", "cycles": 640.0}, {"node": "absent", "cycles": 1.0}],
            "source": "it",
        },
        placement=[{"node": "act", "op": "Relu", "provider": "host", "kind": "fallback", "reason": "no"}],
        verification={"runs": [{"outputs": [{"name": "y", "max_abs_error": 1e-6}]}], "engine": "ORT"},
    )
    view = visualize(model, measured=known).view
    view_checks.check(view)
    strings = view["strings"]
    heat = {h["id"]: {strings[view["nodes"][n]["n"]]: value for n, value in h["v"]} for h in view["heat"]}
    assert heat["flops"] == {"conv": 2 * 4 * 64 * 3, "norm": 512, "gone": 0, "act": 256}
    assert heat["bytes"]["conv"] == 4 * (3 * 64 + 12 + 4 * 64)
    assert heat["intensity"]["conv"] == pytest.approx(1536 / 1840, rel=1e-3)
    assert heat["cycles"] == {"conv": 640.0}
    assert heat["placement"] == {"conv": "TPU", "norm": "TPU", "gone": "TPU", "act": "host (fallback)"}
    assert heat["error"] == {"act": 1e-6}
    chip = devices("tpu")["v5e"]
    assert view["roofline"]["bandwidth"] == chip.hbm_bytes_per_s
    assert view["roofline"]["flops"] == chip.flops["bf16"] and view["roofline"]["source"] == chip.source


def test_roofline_is_that_of_one_program_and_of_the_precision() -> None:
    model = model_from(CONV)
    view = visualize(model, measured=Measured(device=devices("gpu")["h100"], precision="fp32")).view
    assert view["roofline"]["flops"] == devices("gpu")["h100"].flops["fp32"]
    view = visualize(model, measured=Measured(device=devices("tpu")["v4"])).view
    assert view["roofline"]["flops"] == devices("tpu")["v4"].flops["bf16"] / 2
    assert "roofline" not in visualize(model).view


def test_another_interface_is_told_and_shown() -> None:
    one = model_from("agraph (float[N,3] x) => (float[N,3] y) { [r] y = Relu (x) }")
    two = model_from("agraph (float16[4,3] x, float[2] z) => (float16[4,3] y) { [r] y = Relu (x) }")
    view = visualize(one, two).view
    view_checks.check(view)
    notes = view["steps"][-1]["notes"]
    assert notes == [
        "input z is new",
        "input x was f32[N,3], is f16[4,3]",
        "output y was f32[N,3], is f16[4,3]",
    ]
    three = model_from("agraph (float[M,3] x) => (float[M,3] y) { [r] y = Relu (x) }")
    assert "notes" not in visualize(one, three).view["steps"][-1], "a free dimension may have any name"


def test_a_pass_that_was_undone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    timeline = Timeline()
    model = model_from(CONV)
    Pipeline("eliminate-identity,fuse-conv-bn").run(
        model,
        instruments=[timeline],
        check=lambda before, after, pass_: "other numbers" if "fuse" in str(pass_) else None,
    )
    view = run_view(timeline, model)
    alive = view_checks.check(view)
    assert [step["changed"] for step in view["steps"]] == [True, True, False]
    assert view["steps"][2]["notes"] == ["undone, it changes results: other numbers"]
    assert alive[1] == alive[2]


def test_timeline_keeps_no_weights_alive() -> None:
    import gc
    import weakref

    model = model_from(CONV)
    timeline = Timeline()
    old = weakref.ref(model.graph.initializers["w"].const_value)
    model, _ = Pipeline("fuse-conv-bn,eliminate-dead-nodes").run(model, instruments=[timeline])
    gc.collect()
    assert old() is None, "the weight that was folded away"
    assert any("stats" in v for v in run_view(timeline, model)["values"])


def test_a_timeline_watches_one_run() -> None:
    timeline = Timeline()
    graphopt.optimize(model_from(CONV), instruments=[timeline])
    with pytest.raises(UsageError, match="one run"):
        graphopt.optimize(model_from(CONV), instruments=[timeline])


def test_golden_view() -> None:
    """A small view in full. After a deliberate change: rewrite the file from what this prints."""
    view, _ = run(model_from(CONV), "eliminate-identity,fuse-conv-bn")
    for step in view["steps"]:
        step.pop("seconds", None)
    view["generator"] = "graphopt"
    found = json.dumps(view, indent=1, sort_keys=True) + "\n"
    assert json.loads(found) == json.loads(GOLDEN.read_text(encoding="utf-8")), found


def test_large_external_weights_are_sampled(tmp_path: Path) -> None:
    weight = np.arange(1 << 20, dtype=np.float32).reshape(1024, 1024)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1024])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1024])],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    view = model_view(prepared(tmp_path / "m.onnx"))
    view_checks.check(view)
    (stats,) = [v["stats"] for v in view["values"] if "stats" in v]
    assert stats["sampled"] and stats["n"] == 1 << 20 and stats["of"] == 1 << 18
    assert (stats["min"], stats["max"]) == (0.0, float(f"{(1 << 20) - 1:.6g}"))
