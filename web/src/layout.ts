/**
 * Where the items of one box lie. Every box is laid out by itself, over all steps together, so that cost
 * stays linear in the number of boxes and nothing moves when the step changes.
 */

import { Graph as DagreGraph, layout as dagreLayout } from "@dagrejs/dagre";
import type { Graph } from "./graph";
import { printable, shortShape, tail } from "./text";

export interface Size {
  width: number;
  height: number;
}

export interface Point {
  x: number;
  y: number;
}

/** An item is a slot (>= 0) or a box (encoded as -1 - id). Ports stand for everything outside the box. */
export type Item = number;
export const IN: Item = Number.MIN_SAFE_INTEGER;
export const OUT: Item = Number.MIN_SAFE_INTEGER + 1;
export const boxItem = (box: number): Item => -1 - box;
export const itemBox = (item: Item): number => -1 - item;
export const isBox = (item: Item): boolean => item < 0 && item > OUT;

/** All tensors between two items, drawn as one line. */
export interface Wire {
  from: Item;
  to: Item;
  /** Indices of graph.edges; empty for the line from a node to its body. */
  edges: number[];
  body: boolean;
}

export interface Wiring {
  items: Item[];
  wires: Wire[];
}

export interface Placed {
  size: Size;
  at: Map<Item, { x: number; y: number; width: number; height: number }>;
  paths: Point[][];
  ports: { in: Point | null; out: Point | null };
}

export const HEADER = 28;
export const PAD = 16;
const NODE_HEIGHT = 40;

/** Width of a text by a table of classes, so that a layout is the same everywhere. */
export function textWidth(text: string, size: number, bold = false): number {
  let units = 0;
  for (const c of text)
    units += "iljI.,:;|!'() ".includes(c) ? 0.32 : "mwMW@×".includes(c) ? 0.88 : c > "\u2e80" ? 1 : 0.63;
  return units * size * (bold ? 1.1 : 1);
}

export function nodeSize(graph: Graph, slot: number): Size {
  let width = 76;
  for (const node of graph.slotNodes[slot]) {
    const sub = subtitle(graph, node);
    width = Math.max(
      width,
      textWidth(title(graph, node), 13, true) + 44,
      Math.min(textWidth(sub, 10.5) + 44, 168),
    );
  }
  return { width: Math.min(Math.round(width), 220), height: NODE_HEIGHT };
}

/** The first line of a node: its operator, or the name of a graph input or output. */
export function title(graph: Graph, node: number): string {
  return printable(graph.kind(node) === "node" ? graph.op(node) : tail(graph.name(node)), 40);
}

/** The second line: the end of the name where it says more than the operator, else weights or result. */
export function subtitle(graph: Graph, node: number): string {
  const value = [...graph.outputs(node), ...graph.inputs(node)].find((v) => v >= 0) ?? -1;
  const type = value < 0 ? "" : [graph.dtype(value), shortShape(graph, value)].filter(Boolean).join(" ");
  if (graph.kind(node) !== "node") return `${graph.kind(node)}  ${type}`;
  const name = printable(tail(graph.name(node)), 60);
  if (name && name.replace(/[_.\d]+$/, "").toLowerCase() !== graph.op(node).toLowerCase()) return name;
  const weights = graph.inputs(node).filter((v) => v >= 0 && graph.values[v].k === "init");
  const shapes = weights.map((v) => shortShape(graph, v)).filter((text) => text && text !== "scalar");
  return shapes.length ? `weights ${shapes.slice(0, 2).join(", ")}` : type || name;
}

export function boxSize(graph: Graph, box: number): Size {
  const { label, copies } = graph.boxes.get(box);
  const width = textWidth(printable(label, 60), 13, true) + 64 + (copies > 1 ? 34 : 0);
  return { width: Math.max(172, Math.min(Math.round(width), 250)), height: 58 };
}

/** Which items a box has, and what runs between them. Linear in the slots below the box. */
export function wire(
  graph: Graph,
  box: number,
  unstacked: ReadonlySet<number>,
  live: (slot: number) => boolean,
): Wiring {
  const { boxes } = graph;
  const itemOf = new Map<number, Item>();
  const items: Item[] = [];
  const self = boxes.get(box);
  for (const slot of self.slots) {
    if (!live(slot)) continue;
    itemOf.set(slot, slot);
    items.push(slot);
  }
  for (const child of self.boxes) {
    const { template } = boxes.get(child);
    const stacked = template >= 0 && !unstacked.has(template);
    const item = boxItem(stacked ? template : child);
    let any = false;
    for (const slot of boxes.slotsIn(child)) {
      if (!live(slot)) continue;
      itemOf.set(slot, item);
      any = true;
    }
    if (any && (!stacked || template === child)) items.push(item);
  }
  const known = new Map<Item, Map<Item, Wire>>();
  const add = (from: Item, to: Item, edge: number): void => {
    if (from === to) return;
    let row = known.get(from);
    if (!row) known.set(from, (row = new Map()));
    const old = row.get(to);
    if (!old) row.set(to, { from, to, edges: edge < 0 ? [] : [edge], body: edge < 0 });
    else if (edge >= 0) {
      old.edges.push(edge);
      old.body = false;
    }
  };
  for (const [slot, item] of itemOf) {
    for (const node of graph.slotNodes[slot]) {
      for (const edge of graph.into[node]) {
        const source = graph.slot[graph.edges[edge].src];
        if (live(source)) add(itemOf.get(source) ?? IN, item, edge);
      }
      for (const edge of graph.outOf[node]) {
        const target = graph.slot[graph.edges[edge].dst];
        if (!itemOf.has(target) && live(target)) add(item, OUT, edge);
      }
    }
  }
  holders(graph, items, itemOf, add);
  const wires = [...known.values()].flatMap((row) => [...row.values()]);
  return { items, wires };
}

/** A dashed line from the node that holds a body to the body. */
function holders(
  graph: Graph,
  items: Item[],
  itemOf: Map<number, Item>,
  add: (from: Item, to: Item, edge: number) => void,
): void {
  for (const item of items) {
    if (!isBox(item)) continue;
    const { holder } = graph.boxes.get(itemBox(item));
    if (holder === null) continue;
    for (const node of graph.versions(holder)) {
      const from = itemOf.get(graph.slot[node]);
      if (from !== undefined) add(from, item, -1);
    }
  }
}

/** Layered layout, top to bottom. */
export function place(wiring: Wiring, sizeOf: (item: Item) => Size): Placed {
  const g = new DagreGraph<object, Size & Point, { points: Point[]; weight: number }>();
  g.setGraph({
    rankdir: "TB",
    nodesep: 22,
    ranksep: 44,
    edgesep: 12,
    marginx: PAD,
    marginy: PAD,
    ...(wiring.items.length > 60 ? { ranker: "tight-tree" } : {}),
  });
  for (const item of wiring.items) g.setNode(String(item), { ...sizeOf(item), x: 0, y: 0 });
  for (const { from, to, body, edges } of wiring.wires) {
    for (const port of [from, to]) {
      if ((port === IN || port === OUT) && !g.hasNode(String(port))) {
        g.setNode(String(port), { width: 1, height: 1, x: 0, y: 0 });
      }
    }
    g.setEdge(String(from), String(to), {
      points: [],
      weight: body || from === IN || to === OUT ? 1 : Math.min(4, 1 + edges.length),
    });
  }
  dagreLayout(g);
  const at: Placed["at"] = new Map();
  for (const item of wiring.items) {
    const { x, y, width, height } = g.node(String(item));
    at.set(item, { x: x - width / 2, y: y - height / 2, width, height });
  }
  const port = (item: Item): Point | null => {
    if (!g.hasNode(String(item))) return null;
    const { x, y } = g.node(String(item));
    return { x, y };
  };
  const paths = wiring.wires.map(({ from, to }) =>
    g.edge(String(from), String(to)).points.map(({ x, y }) => ({ x, y })),
  );
  const { width = 0, height = 0 } = g.graph() as Partial<Size>;
  return {
    size: { width: Math.max(width, 60), height: Math.max(height, 30) },
    at,
    paths,
    ports: { in: port(IN), out: port(OUT) },
  };
}
