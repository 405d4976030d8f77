/** The drawing: every open box with its items in world coordinates. Independent of the step shown. */

import type { Graph } from "./graph";
import {
  boxItem,
  boxSize,
  HEADER,
  isBox,
  IN,
  itemBox,
  nodeSize,
  OUT,
  place,
  wire,
  type Item,
  type Placed,
  type Point,
  type Size,
  type Wire,
  type Wiring,
} from "./layout";

export interface Rect {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Line {
  wire: Wire;
  points: Point[];
  bounds: Rect;
  /** True where the line ends at an item, and gets an arrow. */
  arrow: boolean;
}

/** An open box: its frame, the items in it that are not open boxes, and the frames of those that are. */
export interface Frame extends Rect {
  box: number;
  items: { item: Item; rect: Rect }[];
  frames: Frame[];
  lines: Line[];
}

export interface Look {
  open: ReadonlySet<number>;
  unstacked: ReadonlySet<number>;
  /** Null: room for every node of every step. Else only for the nodes of these two steps. */
  only: readonly [number, number] | null;
}

export class Stage {
  private readonly wirings = new Map<string, Wiring>();
  private readonly placed = new Map<string, Placed>();

  constructor(private readonly graph: Graph) {}

  /** Lays out what is not laid out yet: each box that was opened or changed its size, once. */
  frame(look: Look): Frame {
    const { graph } = this;
    const [a, b] = look.only ?? [0, 0];
    const [aliveA, aliveB] = [graph.alive(a), graph.alive(b)];
    const live = look.only
      ? (slot: number): boolean => graph.slotNodes[slot].some((node) => aliveA[node] || aliveB[node])
      : (): boolean => true;
    const layouts = new Map<number, { wiring: Wiring; placed: Placed }>();
    this.layout(0, look, live, layouts);
    return this.assemble(0, { x: 0, y: 0 }, look, layouts);
  }

  private layout(
    box: number,
    look: Look,
    live: (slot: number) => boolean,
    layouts: Map<number, { wiring: Wiring; placed: Placed }>,
  ): Size {
    const { graph } = this;
    const copies = graph.boxes
      .get(box)
      .boxes.filter((child) => look.unstacked.has(graph.boxes.get(child).template));
    const id = `${box}|${look.only?.join() ?? ""}|${copies.join()}`;
    let wiring = this.wirings.get(id);
    if (!wiring) this.wirings.set(id, (wiring = wire(graph, box, look.unstacked, live)));
    const sizes = new Map<Item, Size>();
    let shape = id;
    for (const item of wiring.items) {
      if (!isBox(item)) sizes.set(item, nodeSize(graph, item));
      else if (!look.open.has(itemBox(item))) sizes.set(item, boxSize(graph, itemBox(item)));
      else {
        const size = this.layout(itemBox(item), look, live, layouts);
        sizes.set(item, size);
        shape += `|${item}:${Math.round(size.width)}x${Math.round(size.height)}`;
      }
    }
    let placed = this.placed.get(shape);
    if (!placed) {
      if (this.placed.size > 4000) this.placed.clear();
      this.placed.set(shape, (placed = place(wiring, (item) => sizes.get(item)!)));
    }
    layouts.set(box, { wiring, placed });
    return { width: placed.size.width, height: placed.size.height + HEADER };
  }

  private assemble(
    box: number,
    origin: Point,
    look: Look,
    layouts: Map<number, { wiring: Wiring; placed: Placed }>,
  ): Frame {
    const { wiring, placed } = layouts.get(box)!;
    const top = { x: origin.x, y: origin.y + HEADER };
    const frame: Frame = {
      box,
      ...origin,
      width: placed.size.width,
      height: placed.size.height + HEADER,
      items: [],
      frames: [],
      lines: [],
    };
    const inner = new Map<Item, Placed>();
    const rects = new Map<Item, Rect>();
    for (const item of wiring.items) {
      const at = placed.at.get(item)!;
      const rect = { x: top.x + at.x, y: top.y + at.y, width: at.width, height: at.height };
      rects.set(item, rect);
      if (isBox(item) && look.open.has(itemBox(item))) {
        inner.set(item, layouts.get(itemBox(item))!.placed);
        frame.frames.push(this.assemble(itemBox(item), rect, look, layouts));
      } else frame.items.push({ item, rect });
    }
    wiring.wires.forEach((wire, i) => {
      const points = placed.paths[i].map(({ x, y }) => ({ x: x + top.x, y: y + top.y }));
      const anchor = (item: Item, side: "in" | "out"): Anchor => {
        const rect = rects.get(item)!;
        const port = inner.get(item)?.ports[side];
        return {
          x: port ? rect.x + port.x : rect.x + rect.width / 2,
          top: rect.y,
          bottom: rect.y + rect.height,
        };
      };
      if (wire.from === IN) points.unshift({ x: points[0].x, y: frame.y });
      else leave(points, anchor(wire.from, "out"));
      if (wire.to === OUT) points.push({ x: points[points.length - 1].x, y: frame.y + frame.height });
      else arrive(points, anchor(wire.to, "in"));
      const arrow = wire.to !== OUT && !inner.has(wire.to);
      frame.lines.push({ wire, points, bounds: boundsOf(points), arrow });
    });
    return frame;
  }
}

interface Anchor {
  x: number;
  top: number;
  bottom: number;
}

const STUB = 11;

/** Lines leave an item at its bottom, upright; at its top where they run against the flow. */
function leave(points: Point[], { x, top, bottom }: Anchor): void {
  const down = points[Math.min(1, points.length - 1)].y >= (top + bottom) / 2;
  points.splice(0, 1, { x, y: down ? bottom : top }, { x, y: down ? bottom + STUB : top - STUB });
}

/** And arrive at its top. */
function arrive(points: Point[], { x, top, bottom }: Anchor): void {
  const last = points.length - 1;
  const down = points[Math.max(0, last - 1)].y <= (top + bottom) / 2;
  points.splice(last, 1, { x, y: down ? top - STUB : bottom + STUB }, { x, y: down ? top : bottom });
}

function boundsOf(points: Point[]): Rect {
  let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const { x, y } of points) {
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  return { x: left, y: top, width: right - left, height: bottom - top };
}

export function overlaps(a: Rect, b: Rect): boolean {
  return a.x <= b.x + b.width && b.x <= a.x + a.width && a.y <= b.y + b.height && b.y <= a.y + a.height;
}

const contains = (rect: Rect, { x, y }: Point): boolean =>
  x >= rect.x && x <= rect.x + rect.width && y >= rect.y && y <= rect.y + rect.height;

/** The innermost item or open box at a point of the world. */
export function hit(frame: Frame, at: Point): { item: Item; rect: Rect; header: boolean } | null {
  for (const { item, rect } of frame.items) if (contains(rect, at)) return { item, rect, header: false };
  for (const inner of frame.frames) {
    if (!contains(inner, at)) continue;
    return hit(inner, at) ?? { item: boxItem(inner.box), rect: inner, header: at.y < inner.y + HEADER };
  }
  return null;
}

/** Where an item is, or null where it is inside a closed box. */
export function find(frame: Frame, item: Item): Rect | null {
  if (item === boxItem(frame.box)) return frame;
  for (const entry of frame.items) if (entry.item === item) return entry.rect;
  for (const inner of frame.frames) {
    const rect = find(inner, item);
    if (rect) return rect;
  }
  return null;
}

/** The item that a slot shows as: itself, or the outermost closed box around it. */
export function shownAs(graph: Graph, slot: number, look: Look): Item {
  const { boxes } = graph;
  let item: Item = slot;
  for (const box of boxes.around(boxes.ofSlot[slot])) {
    const { template } = boxes.get(box);
    if (template >= 0 && !look.unstacked.has(template) && template !== box) item = boxItem(template);
    else if (!look.open.has(box)) item = boxItem(box);
  }
  return item;
}

export function* allFrames(frame: Frame): Generator<Frame> {
  yield frame;
  for (const inner of frame.frames) yield* allFrames(inner);
}
