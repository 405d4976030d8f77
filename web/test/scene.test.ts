import assert from "node:assert/strict";
import { test } from "node:test";
import { Graph } from "../src/graph";
import { boxItem } from "../src/layout";
import { Lens } from "../src/lens";
import { allFrames, find, hit, overlaps, shownAs, Stage, type Frame, type Rect } from "../src/scene";
import { blocks, chain, fusion } from "./documents";

const look = (open: number[], unstacked: number[] = [], only: [number, number] | null = null) => ({
  open: new Set(open),
  unstacked: new Set(unstacked),
  only,
});

function rects(frame: Frame): Rect[] {
  return [...frame.items.map(({ rect }) => rect), ...frame.frames];
}

test("nothing lies on anything else, and everything inside its frame", () => {
  const graph = new Graph(blocks(6));
  const frame = new Stage(graph).frame(look([0, 1, 2, 3, 4], [1]));
  for (const each of allFrames(frame)) {
    const all = rects(each);
    all.forEach((a, i) => {
      assert.ok(a.x >= each.x && a.x + a.width <= each.x + each.width + 0.01);
      assert.ok(a.y >= each.y && a.y + a.height <= each.y + each.height + 0.01);
      for (const b of all.slice(i + 1)) assert.ok(!overlaps(a, b));
    });
  }
});

test("the flow runs downwards", () => {
  const graph = new Graph(chain(20));
  const frame = new Stage(graph).frame(look([0]));
  for (const { src, dst } of graph.edges) {
    assert.ok(find(frame, graph.slot[src])!.y < find(frame, graph.slot[dst])!.y);
  }
});

test("places do not depend on the step; compactly, only the nodes of two steps have one", () => {
  const graph = new Graph(fusion());
  const stage = new Stage(graph);
  const wide = stage.frame(look([0]));
  assert.equal(wide.items.length, graph.slotNodes.length);
  const tight = stage.frame(look([0], [], [3, 3]));
  assert.ok(tight.items.length < wide.items.length);
  assert.ok(tight.height <= wide.height);
});

test("a repeated block is drawn once until its copies are asked for", () => {
  const graph = new Graph(blocks(12));
  const stage = new Stage(graph);
  const once = stage.frame(look([0]));
  assert.equal(once.items.filter(({ item }) => item < 0).length, 1);
  assert.equal(stage.frame(look([0], [1])).items.filter(({ item }) => item < 0).length, 12);
  const last = graph.slot[graph.realNodes - 1];
  assert.equal(shownAs(graph, last, look([0])), boxItem(1));
  assert.equal(shownAs(graph, last, look([0], [1])), boxItem(12));
  assert.equal(shownAs(graph, last, look([0, 12], [1])), last);
});

test("lines of an open group meet at its border", () => {
  const graph = new Graph(blocks(3));
  const frame = new Stage(graph).frame(look([0, 1], [1]));
  const [inner] = frame.frames;
  const out = inner.lines.find(({ wire }) => wire.to < -1e9)!;
  const on = frame.lines.find(({ wire }) => wire.from === boxItem(1))!;
  const end = out.points[out.points.length - 1];
  assert.ok(Math.abs(end.x - on.points[0].x) < 0.01);
  assert.equal(end.y, inner.y + inner.height);
  assert.equal(on.points[0].y, end.y);
});

test("hit finds the innermost thing", () => {
  const graph = new Graph(blocks(3));
  const frame = new Stage(graph).frame(look([0, 1], [1]));
  const [inner] = frame.frames;
  const { item, rect } = inner.items[0];
  assert.equal(hit(frame, { x: rect.x + 2, y: rect.y + 2 })?.item, item);
  assert.deepEqual(hit(frame, { x: inner.x + 3, y: inner.y + 3 })?.item, boxItem(1));
  assert.equal(hit(frame, { x: -100, y: -100 }), null);
});

test("a pane shows its side; the overlay both", () => {
  const graph = new Graph(fusion());
  const lens = new Lens(graph, 0, 3);
  const slot = graph.slot[4];
  assert.equal(graph.name(lens.nodeIn(slot, "before")), "net/bn");
  assert.equal(graph.name(lens.nodeIn(slot, "after")), "net/conv_bn");
  assert.equal(graph.name(lens.nodeIn(slot, "both")), "net/conv_bn");
  const totals = lens.totals();
  assert.deepEqual(totals, { same: 1, changed: 0, fused: 1, removed: 1, added: 1 });
});

test("10,000 nodes open in less than two seconds", () => {
  const raw = chain(10_000);
  const start = performance.now();
  const graph = new Graph(raw);
  new Lens(graph, 0, 0);
  new Stage(graph).frame(look([0]));
  assert.ok(performance.now() - start < 2000);
});
