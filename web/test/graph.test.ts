import assert from "node:assert/strict";
import { test } from "node:test";
import { MOST } from "../src/boxes";
import { alike, compare } from "../src/diff";
import { Graph } from "../src/graph";
import { blocks, chain, Documents, fusion } from "./documents";

test("nodes live from the step that adds them to the step that drops them", () => {
  const graph = new Graph(fusion());
  const names = (step: number) => graph.aliveNodes(step).map((node) => graph.name(node));
  assert.deepEqual(names(0), ["net/conv", "net/bn", "net/relu", "net/dead"]);
  assert.deepEqual(names(1), names(0));
  assert.deepEqual(names(2), ["net/relu", "net/dead", "net/conv_bn"]);
  assert.deepEqual(names(3), ["net/relu", "net/conv_bn", "net/cast"]);
  assert.deepEqual(names(0), ["net/conv", "net/bn", "net/relu", "net/dead"], "asked again, backwards");
});

test("a fused node takes the place of one of its origins, and nothing else moves", () => {
  const graph = new Graph(fusion());
  assert.equal(graph.slot[4], graph.slot[1]);
  for (const slot of graph.slotNodes.keys()) {
    for (let step = 0; step < graph.steps; step++) {
      const alive = graph.alive(step);
      assert.ok(graph.slotNodes[slot].filter((node) => alive[node]).length <= 1, "one tenant at a time");
    }
  }
});

test("a node that comes back does not share a place", () => {
  const d = new Documents();
  const x = d.value("x");
  const a = d.node("A", "a", [x], [d.value("y")]);
  const b = d.node("B", "b", [x], [d.value("z")], { f: [0] });
  d.step("original", [a]);
  d.step("replace", [b], [a]);
  const c = d.node("A", "a", [x], [d.value("w")], { key: 0 });
  d.step("revert", [c]);
  const graph = new Graph(d.view());
  assert.notEqual(graph.slot[c], graph.slot[b]);
});

for (const pairs of [true, false]) {
  test(`whole run: fused, removed, added and same ${pairs ? "from pairs" : "by provenance"}`, () => {
    const graph = new Graph(fusion(pairs));
    const diff = compare(graph, 0, 3);
    assert.equal(diff.statusBefore.get(0), "fused");
    assert.equal(diff.statusBefore.get(1), "fused");
    assert.equal(diff.statusBefore.get(2), "same");
    assert.equal(diff.statusBefore.get(3), "removed");
    assert.equal(diff.statusAfter.get(4), "fused");
    assert.equal(diff.statusAfter.get(5), "added");
    assert.deepEqual(diff.origins.get(4), [0, 1]);
    assert.deepEqual(diff.heirs.get(1), [4]);
  });
}

test("between two steps only what the step did is told", () => {
  const graph = new Graph(fusion(true));
  const diff = compare(graph, 2, 3);
  assert.equal(diff.statusBefore.get(4), "same");
  assert.equal(diff.statusBefore.get(3), "removed");
  assert.deepEqual(
    [...compare(graph, 0, 1).statusAfter.values()].filter((status) => status !== "same"),
    [],
  );
});

test("a version with other attributes is changed, not same", () => {
  const d = new Documents();
  const x = d.value("x");
  const y = d.value("y");
  const a = d.node("Cast", "c", [x], [y], { key: 0, a: [[d.s("to"), d.s("float")]] });
  const b = d.node("Cast", "c", [x], [y], { key: 0, a: [[d.s("to"), d.s("half")]] });
  d.step("original", [a]);
  d.step("half", [b], [a]);
  const graph = new Graph(d.view());
  assert.equal(alike(graph, a, b), false);
  assert.equal(compare(graph, 0, 1).statusAfter.get(b), "changed");
  assert.equal(graph.slot[a], graph.slot[b]);
});

test("a long chain is split into parts that follow each other", () => {
  const graph = new Graph(chain(3000));
  const { boxes } = graph;
  const items = (id: number) => boxes.get(id).slots.length + boxes.get(id).boxes.length;
  assert.ok(boxes.all.every((box) => items(box.id) <= MOST));
  assert.equal(boxes.get(0).size, graph.slotNodes.length);
  for (const { src, dst } of graph.edges) {
    const [from, to] = [boxes.ofSlot[graph.slot[src]], boxes.ofSlot[graph.slot[dst]]];
    assert.ok(from <= to, "no line runs back between parts");
  }
});

test("40,000 nodes in one group are split more than once", () => {
  const graph = new Graph(chain(40_000));
  assert.ok(graph.boxes.get(0).boxes.length <= MOST);
  assert.ok(graph.boxes.all.some((box) => box.kind === "part" && box.depth === 2));
});

test("copies that follow each other are one block; a node between them ends the run", () => {
  const whole = new Graph(blocks(12)).boxes;
  assert.equal(whole.copiesOf.get(1)?.length, 12);
  assert.equal(whole.get(5).template, 1);
  const broken = new Graph(blocks(12, 3)).boxes;
  assert.deepEqual([...broken.copiesOf.values()].map((run) => run.length).sort(), [4, 8]);
});

test("cycles between steps and dangling parents do no harm", () => {
  const d = new Documents();
  const [x, y] = [d.value("x"), d.value("y")];
  const g = d.group("odd", 7);
  d.step("original", [d.node("A", "a", [x], [y], { g }), d.node("B", "b", [y], [x])]);
  const graph = new Graph(d.view());
  assert.equal(graph.boxes.get(g).parent, 0);
  assert.equal(new Set(graph.order).size, 2);
});
