"""Which node is which between two models: by provenance, by tensor names, by structure, or not at all."""

from __future__ import annotations

import json
from typing import Any

import view_checks
from checking import model_from

from graphopt.ir import Model, provenance
from graphopt.viz import visualize
from graphopt.viz.pairing import MAX_SHARED

CHAIN = """
agraph (float[2,3] x) => (float[2,3] y) <float[3] w = {1.0, 2.0, 3.0}> {
  [first] a = Add (x, w)  [second] b = Relu (a)  [third] c = Sigmoid (b)  [fourth] y = Mul (c, a)
}
"""


def matched(before: Model, after: Model) -> set[tuple[str | None, str | None, str]]:
    """The pairs by names."""
    view = visualize(before, after).view
    alive = view_checks.check(view)
    nodes, strings = view["nodes"], view["strings"]
    first, last = ({nodes[n]["key"]: strings[nodes[n]["n"]] for n in alive[i]} for i in (0, -1))
    return {(first.get(a), last.get(b), state) for a, b, state in view["diff"]["pairs"]}


def nameless(text: str) -> Model:
    """The model without provenance, and without names of nodes."""
    model = bare(text)
    for node in model.graph.all_nodes():
        node.name = ""
    return model


def bare(text: str) -> Model:
    """The model without provenance."""
    model = model_from(text)
    for node in model.graph.all_nodes():
        node.metadata_props.pop(provenance.ORIGIN_KEY, None)
    return model


def test_provenance_is_stronger_than_names() -> None:
    after = model_from(CHAIN)
    first, second, third, fourth = after.graph
    first.name, fourth.name = "fourth", "first"
    provenance.set_origins(second, ["second", "third"])
    provenance.set_origins(third, [])
    assert matched(model_from(CHAIN), after) == {
        ("first", "fourth", "same"),
        ("fourth", "first", "same"),
        ("second", "second", "fused"),
        ("third", "second", "fused"),
        (None, "third", "added"),
    }


def test_names_of_exporters_count_for_the_same_operator_only() -> None:
    before = bare(
        "agraph (float[2] x) => (float[2] y) { [n_0] a = Relu (x) [n_1] b = Neg (a) [n_2] y = Abs (b) }"
    )
    after = bare(
        "agraph (float[2] x) => (float[2] y) { [n_0] p = Neg (x) [n_1] q = Neg (p) [n_2] y = Abs (q) }"
    )
    found = matched(before, after)
    assert ("n_1", "n_1", "same") in found and ("n_2", "n_2", "same") in found
    assert ("n_0", "n_0", "same") not in found and ("n_0", None, "removed") in found


def test_tensor_names_match_nodes_without_names() -> None:
    """The second model lacks the first node, so every number that a name could be made of is another."""
    before = nameless(
        "agraph (float[2] x) => (float[2] y) { i = Identity (x) a = Relu (i) b = Relu (a) y = Relu (b) }"
    )
    after = nameless("agraph (float[2] x) => (float[2] y) { a = Relu (x) b = Relu (a) y = Relu (b) }")
    view = visualize(before, after).view
    alive = view_checks.check(view)
    maker = {
        view["nodes"][n]["key"]: view["strings"][view["values"][view["nodes"][n]["out"][0]]["n"]]
        for n in alive[0] | alive[1]
    }
    pairs = [(maker.get(a), maker.get(b), state) for a, b, state in view["diff"]["pairs"]]
    assert sorted(pairs, key=str) == [
        ("a", "a", "same"),
        ("b", "b", "same"),
        ("i", None, "removed"),
        ("y", "y", "same"),
    ]


def test_structure_matches_what_has_neither() -> None:
    """Nothing has an equal name; the surroundings tell the two products and the three Relus apart."""
    before = nameless("""agraph (float[2,2] x) => (float[2,2] y) {
      a = MatMul (x, x) b = Relu (a) c = MatMul (b, a) d = Relu (c) e = Sigmoid (d) y = Relu (e) }""")
    after = nameless("""agraph (float[2,2] x) => (float[2,2] z) {
      aa = MatMul (x, x) bb = Relu (aa) cc = MatMul (bb, aa) n = Neg (cc) dd = Relu (n) ee = Sigmoid (dd) z = Relu (ee) }""")
    view = visualize(before, after).view
    alive = view_checks.check(view)
    made = {
        view["nodes"][n]["key"]: view["strings"][view["values"][view["nodes"][n]["out"][0]]["n"]]
        for n in alive[0]
    } | {}
    new = {
        view["nodes"][n]["key"]: view["strings"][view["values"][view["nodes"][n]["out"][0]]["n"]]
        for n in alive[1]
    }
    pairs = {(made.get(a), new.get(b)) for a, b, _ in view["diff"]["pairs"]}
    assert {("a", "aa"), ("b", "bb"), ("e", "ee"), (None, "n")} <= pairs
    assert ("y", "z") in pairs and ("a", "cc") not in pairs


def test_nodes_that_nothing_tells_apart_are_matched_in_order() -> None:
    before = nameless("agraph (float[2] x) => (float[2] y) { a = Relu (x) b = Relu (x) y = Add (a, b) }")
    after = nameless("agraph (float[2] x) => (float[2] y) { p = Relu (x) q = Relu (x) y = Add (p, q) }")
    assert {state for *_, state in matched(before, after)} == {"same"}


def test_a_changed_attribute_type_or_operator_is_a_change() -> None:
    before = bare(
        "agraph (float[2] x) => (float[2] y) { [n] a = LeakyRelu <alpha = 0.1> (x) [m] y = Neg (a) }"
    )
    after = bare(
        "agraph (float[2] x) => (float[2] y) { [n] a = LeakyRelu <alpha = 0.2> (x) [m] y = Neg (a) }"
    )
    assert matched(before, after) == {("n", "n", "changed"), ("m", "m", "same")}
    third = bare("agraph (float[2] x) => (float[2] y) { [k] a = Elu (x) [m] y = Neg (a) }")
    assert matched(before, third) == {("n", "k", "changed"), ("m", "m", "same")}, "the tensor is the same"


def test_a_split_node_is_shown_at_both_of_its_parts() -> None:
    before = bare("agraph (float[2] x) => (float[2] y) { [one] y = Gelu (x) }".replace("Gelu", "Softplus"))
    after = model_from("agraph (float[2] x) => (float[2] y) { [e] a = Exp (x) [l] y = Log (a) }")
    for node in after.graph:
        provenance.set_origins(node, ["one"])
    assert matched(before, after) == {("one", "e", "changed"), ("one", "l", "changed")}


def test_a_model_that_claims_too_much_is_not_believed() -> None:
    """Each of 200 nodes says that it stands for all: claims are bounded, not multiplied."""
    body = "\n".join(f"[n{i}] t{i + 1} = Relu (t{i})" for i in range(200))
    text = f"agraph (float[2] t0) => (float[2] t200) {{ {body} }}"
    before, after = model_from(text), model_from(text)
    everybody = json.dumps([f"n{i}" for i in range(200)])
    for model in (before, after):
        for node in model.graph:
            node.metadata_props[provenance.ORIGIN_KEY] = everybody
    view = visualize(before, after).view
    view_checks.check(view)
    assert sum(len(node["f"]) for node in view["nodes"]) <= 400 * 200
    shared: dict[int, int] = {}
    for node in view["nodes"]:
        for key in node["f"]:
            shared[key] = shared.get(key, 0) + 1
    assert len([key for key, count in shared.items() if count > 2]) <= MAX_SHARED


def test_models_without_anything_in_common() -> None:
    before = nameless("agraph (float[2] x) => (float[2] y) { a = Relu (x) y = Neg (a) }")
    after = nameless("agraph (float[2] u) => (float[2] v) { p = Exp (u) q = Log (p) v = Tan (q) }")
    found: Any = sorted((state for *_, state in matched(before, after)))
    assert found == ["added", "added", "added", "removed", "removed"]


def test_structure_finds_exactly_what_is_gone_from_a_deep_graph() -> None:
    """No name is shared, and every layer is like every other: only the Identities are missing."""

    def layers(prefix: str, whole: bool) -> Model:
        rows, value = [], "x"
        for i in range(12):
            a, b, c, d = (f"{prefix}{i}_{part}" for part in "abcd")
            rows.append(f"{a} = MatMul ({value}, {value}) {b} = Relu ({a})")
            rows.append(
                f"{c} = Identity ({b}) {d} = Add ({c}, {value})" if whole else f"{d} = Add ({b}, {value})"
            )
            value = d
        return nameless(f"agraph (float[2,2] x) => (float[2,2] y) {{ {' '.join(rows)} y = Tanh ({value}) }}")

    view = visualize(layers("p", True), layers("q", False)).view
    view_checks.check(view)
    states = [state for *_, state in view["diff"]["pairs"]]
    assert (states.count("same"), states.count("removed"), states.count("added")) == (37, 12, 0)
    gone = {before for before, _, state in view["diff"]["pairs"] if state == "removed"}
    assert {view["strings"][n["o"]] for n in view["nodes"] if n["key"] in gone} == {"Identity"}
