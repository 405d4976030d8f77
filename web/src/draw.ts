/** Draws what a pane shows. What lies outside the view, or is too small to see, costs nothing. */

import type { Graph } from "./graph";
import { HEADER, IN, isBox, itemBox, subtitle, textWidth, title, type Item } from "./layout";
import type { Lens, Side, WireInfo } from "./lens";
import type { Painter } from "./painter";
import { GLYPHS, type Palette } from "./palette";
import { overlaps, type Frame, type Line, type Rect } from "./scene";
import { bytesText, count, printable, shortShape } from "./text";
import { STATUSES } from "./diff";

export interface Marks {
  selected: Item | null;
  /** Lit up with the selection: origins, heirs, the same node on the other side. */
  related: ReadonlySet<Item>;
  found: ReadonlySet<Item>;
  current: Item | null;
}

export interface Tint {
  fill: string;
  ink: string;
  text: string;
}

export interface Job {
  graph: Graph;
  lens: Lens;
  side: Side;
  palette: Palette;
  marks: Marks;
  unstacked: ReadonlySet<number>;
  /** Colour by a heat map, or null for colour by what changed. */
  tint: ((item: Item, node: number) => Tint | null) | null;
  bigBytes: number;
  /** The part of the world that is seen, and pixels for each of its units. */
  view: Rect;
  zoom: number;
}

const SMALLEST = 26;

export function draw(painter: Painter, frame: Frame, job: Job): void {
  if (!overlaps(frame, job.view)) return;
  if (frame.box !== 0) drawFrame(painter, frame, job);
  if (Math.max(frame.width, frame.height) * job.zoom < SMALLEST) return;
  const lit: [Line, WireInfo][] = [];
  for (const line of frame.lines) {
    if (!overlaps(line.bounds, job.view)) continue;
    const info = job.lens.wire(line.wire);
    if (!seen(info, job.side)) continue;
    if (isLit(line, job)) lit.push([line, info]);
    else drawLine(painter, line, info, job, false);
  }
  for (const inner of frame.frames) draw(painter, inner, job);
  for (const [line, info] of lit) drawLine(painter, line, info, job, true);
  for (const { item, rect } of frame.items) {
    if (!overlaps(grown(rect, 8), job.view)) continue;
    if (isBox(item)) drawBox(painter, item, rect, job);
    else drawNode(painter, item, rect, job);
  }
  if (job.zoom > 0.5) labelLines(painter, frame, job);
}

const grown = (rect: Rect, by: number): Rect => ({
  x: rect.x - by,
  y: rect.y - by,
  width: rect.width + 2 * by,
  height: rect.height + 2 * by,
});

function seen(info: WireInfo, side: Side): boolean {
  return side === "before" ? info.before : side === "after" ? info.after : info.before || info.after;
}

function isLit(line: Line, job: Job): boolean {
  const { selected } = job.marks;
  if (selected === null) return false;
  if (line.wire.from === selected || line.wire.to === selected) return true;
  if (isBox(selected)) return false;
  const { graph } = job;
  return line.wire.edges.some((id) => {
    const { src, dst } = graph.edges[id];
    return (graph.slot[src] === selected || graph.slot[dst] === selected) && job.lens.lives(src, job.side);
  });
}

function drawFrame(painter: Painter, frame: Frame, job: Job): void {
  const { palette, graph, lens, side } = job;
  const box = graph.boxes.get(frame.box);
  const { nodes } = lens.inBox(frame.box, side, stacked(job, frame.box));
  painter.alpha(nodes ? 1 : 0.35);
  painter.rect(frame.x, frame.y, frame.width, frame.height, 9, palette.frame[box.depth % 2], {
    colour: palette.frameBorder,
    width: 1,
    dash: box.kind === "body" ? [5, 4] : [],
  });
  ring(painter, -1 - frame.box, frame, job);
  if (frame.width * job.zoom > 50 && HEADER * job.zoom > 6) {
    const y = frame.y + HEADER / 2 + 1;
    painter.text("−", frame.x + 14, y, { size: 15, colour: palette.faint, align: "center", bold: true });
    const copies = stacked(job, frame.box) ? `  ×${box.copies}` : "";
    const label = printable(box.label, 80) || "group";
    painter.text(label + copies, frame.x + 26, y, {
      size: 12.5,
      colour: palette.ink,
      bold: true,
      width: frame.width - 36,
      outline: palette.frame[box.depth % 2],
    });
  }
  painter.alpha(1);
}

function stacked(job: Job, id: number): boolean {
  const { template, copies } = job.graph.boxes.get(id);
  return template === id && copies > 1 && !job.unstacked.has(template);
}

function ring(painter: Painter, item: Item, rect: Rect, job: Job): void {
  const { marks, palette, zoom } = job;
  const thick = Math.max(2.5, 2 / zoom);
  const around = (gap: number, colour: string, width: number, dash: number[] = []): void => {
    painter.rect(rect.x - gap, rect.y - gap, rect.width + 2 * gap, rect.height + 2 * gap, 9 + gap, null, {
      colour,
      width,
      dash,
    });
  };
  if (marks.found.has(item)) around(4, palette.found, item === marks.current ? thick * 1.6 : thick);
  if (marks.related.has(item)) {
    around(5, palette.halo, thick * 3);
    around(4, palette.accent, thick, [thick * 3, thick * 1.6]);
  }
  if (marks.selected === item) {
    around(5, palette.halo, thick * 3);
    around(4, palette.accent, thick);
  }
}

function drawNode(painter: Painter, slot: number, rect: Rect, job: Job): void {
  const { graph, lens, palette, side } = job;
  const node = lens.nodeIn(slot, side);
  if (node < 0) {
    ghost(painter, slot, rect, job);
    return;
  }
  const status = lens.status(node, side);
  const look = palette.status[status];
  const io = graph.kind(node) !== "node";
  const tint = io ? null : (job.tint?.(slot, node) ?? null);
  const quiet = job.tint !== null && tint === null && !io;
  const fill = tint?.fill ?? (io ? palette.io : quiet ? palette.box : look.fill);
  const ink = tint?.ink ?? palette.ink;
  const gone = side === "both" && !lens.lives(node, "after");
  const radius = io ? rect.height / 2 : 7;
  painter.alpha(gone ? 0.85 : 1);
  const { x, y, width, height } = rect;
  painter.rect(x, y, width, height, radius, fill, {
    colour: look.border,
    width: look.width,
    dash: look.dash,
  });
  if (look.double)
    painter.rect(x + 3, y + 3, width - 6, height - 6, radius - 3, null, { colour: look.border, width: 1 });
  if (height * job.zoom > 11) {
    const badge = !lens.plain && !io;
    const left = x + (badge ? 28 : io ? 16 : 12);
    const room = width - (left - x) - (io ? 16 : 10);
    if (badge) {
      const strong = status !== "same";
      if (strong) painter.rect(x + 8, y + height / 2 - 8, 16, 16, 8, look.border);
      painter.glyph(GLYPHS[status], x + 11, y + height / 2 - 5, 1, {
        colour: strong ? palette.paper : ink === palette.ink ? palette.faint : ink,
        width: 1.6,
      });
    }
    const two = height * job.zoom > 17;
    painter.text(title(graph, node), left, two ? y + 14 : y + height / 2, {
      size: 13,
      colour: ink,
      bold: true,
      width: room,
      strike: gone,
    });
    const sub = tint?.text || was(node, slot, job) || subtitle(graph, node);
    const colour = tint ? tint.ink : palette.faint;
    if (two) painter.text(sub, left, y + 28.5, { size: 10.5, colour, width: room });
  }
  painter.alpha(1);
  ring(painter, slot, rect, job);
}

/** In the overlay a node that took another's place names it. */
function was(node: number, slot: number, job: Job): string {
  if (job.side !== "both" || job.lens.plain) return "";
  const before = job.graph.inSlot(slot, job.lens.before);
  if (before < 0 || job.graph.op(before) === job.graph.op(node)) return "";
  return `was ${printable(job.graph.op(before), 40)}`;
}

/** The place of a node of the other side, faintly, so that the eye keeps it. */
function ghost(painter: Painter, slot: number, rect: Rect, job: Job): void {
  if (job.zoom < 0.25 || job.lens.nodeIn(slot, "both") < 0) return;
  painter.alpha(0.55);
  painter.rect(rect.x + 4, rect.y + 4, rect.width - 8, rect.height - 8, 6, null, {
    colour: job.palette.frameBorder,
    width: 1,
    dash: [2, 4],
  });
  painter.alpha(1);
}

function drawBox(painter: Painter, item: Item, rect: Rect, job: Job): void {
  const { graph, lens, palette, side } = job;
  const id = itemBox(item);
  const box = graph.boxes.get(id);
  const pile = stacked(job, id);
  const { nodes, by } = lens.inBox(id, side, pile);
  if (!nodes) {
    if (lens.inBox(id, "both", pile).nodes) ghost(painter, item, rect, job);
    return;
  }
  const tint = job.tint?.(item, -1) ?? null;
  const { x, y, width, height } = rect;
  const edge = { colour: palette.frameBorder, width: 1.4, dash: box.kind === "body" ? [5, 4] : [] };
  if (pile) for (const by of [8, 4]) painter.rect(x + by, y + by, width, height, 9, palette.box, edge);
  painter.rect(x, y, width, height, 9, tint?.fill ?? palette.box, edge);
  if (height * job.zoom > 13) {
    const ink = tint?.ink ?? palette.ink;
    const soft = tint?.ink ?? palette.faint;
    painter.text("+", x + 15, y + 17, { size: 15, colour: soft, align: "center", bold: true });
    const right = pile ? 44 : 12;
    painter.text(printable(box.label, 80) || "group", x + 27, y + 17, {
      size: 13,
      colour: ink,
      bold: true,
      width: width - 27 - right,
    });
    if (pile) {
      painter.rect(x + width - 44, y + 7, 36, 20, 10, palette.accent);
      painter.text(`×${box.copies}`, x + width - 26, y + 17.5, {
        size: 12,
        colour: palette.paper,
        bold: true,
        align: "center",
      });
    }
    const left = lens.plain ? x + width - 12 : bar(painter, rect, by, nodes, job);
    const sub = tint?.text || `${count(nodes)} ${nodes === 1 ? "node" : "nodes"}`;
    painter.text(sub, x + 15, y + 36, { size: 11, colour: soft, width: left - x - 20 });
  }
  ring(painter, item, rect, job);
}

/** Shares of the statuses along the bottom of a closed box, and how many changed; returns their left end. */
function bar(painter: Painter, rect: Rect, by: Record<string, number>, nodes: number, job: Job): number {
  const { palette } = job;
  const x = rect.x + 14;
  const width = rect.width - 28;
  const y = rect.y + rect.height - 11;
  let at = 0;
  for (const status of STATUSES) {
    const share = (by[status] / nodes) * width;
    if (share > 0) painter.rect(x + at, y, Math.max(share - 1, 0.5), 4, 2, palette.status[status].border);
    at += share;
  }
  let right = rect.x + rect.width - 14;
  if (rect.height * job.zoom < 30) return right;
  for (const status of [...STATUSES].reverse()) {
    if (status === "same" || !by[status]) continue;
    const text = count(by[status]);
    painter.text(text, right, rect.y + 36, { size: 11, colour: palette.ink, align: "right", bold: true });
    right -= text.length * 6.6 + 12;
    painter.glyph(GLYPHS[status], right, rect.y + 31, 1, {
      colour: palette.status[status].border,
      width: 1.8,
    });
    right -= 6;
  }
  return right;
}

function drawLine(painter: Painter, line: Line, info: WireInfo, job: Job, lit: boolean): void {
  const { palette, side, lens } = job;
  const big = info.bytes >= job.bigBytes;
  let colour = big ? palette.big : palette.edge;
  let width = 1 + Math.min(3.5, Math.log10(1 + info.bytes / 4096));
  let dash: number[] = line.wire.body ? [4, 4] : [];
  if (side === "both" && !lens.plain && info.before !== info.after) {
    colour = palette.status[info.after ? "added" : "removed"].border;
    if (!info.after) dash = [3, 4];
  }
  if (lit) {
    colour = palette.accent;
    width += 1.2;
  }
  painter.line(
    line.points,
    { colour, width: Math.max(width, 0.7 / job.zoom), dash },
    line.arrow && job.zoom > 0.2,
  );
}

/** One label for each tensor, not for each of its readers. */
function labelLines(painter: Painter, frame: Frame, job: Job): void {
  const done = new Set<string>();
  const taken: Rect[] = frame.items.map(({ rect }) => rect);
  for (const line of frame.lines) {
    if (!overlaps(line.bounds, job.view) || line.wire.body) continue;
    // Inside an open box a tensor from outside was labelled outside.
    if (line.wire.from === IN && job.zoom < 1.3) continue;
    const info = job.lens.wire(line.wire);
    if (!seen(info, job.side) || !info.tensors) continue;
    const id = info.value >= 0 ? `v${info.value}` : `w${line.wire.from}:${line.wire.to}`;
    if (done.has(id)) continue;
    done.add(id);
    const text = label(info, job);
    if (!text) continue;
    const at = middlePoint(line);
    const big = info.bytes >= job.bigBytes;
    const room = { x: at.x + 4, y: at.y - 7, width: textWidth(text, big ? 10.5 : 9.5, big) + 6, height: 14 };
    if (taken.some((rect) => overlaps(rect, room))) continue;
    taken.push(room);
    painter.text(text, at.x + 7, at.y, {
      size: big ? 10.5 : 9.5,
      bold: big,
      colour: big ? job.palette.big : job.palette.faint,
      outline:
        frame.box === 0 ? job.palette.paper : job.palette.frame[job.graph.boxes.get(frame.box).depth % 2],
    });
  }
}

function middlePoint(line: Line): { x: number; y: number } {
  const { points } = line;
  const first = Math.max(0, Math.min(points.length - 2, Math.floor((points.length - 1) / 2)));
  return { x: (points[first].x + points[first + 1].x) / 2, y: (points[first].y + points[first + 1].y) / 2 };
}

function label(info: WireInfo, job: Job): string {
  const size = info.bytes ? bytesText(info.bytes) : "";
  if (info.value < 0) return [`${info.tensors} tensors`, size].filter(Boolean).join(" · ");
  return [shortShape(job.graph, info.value), size].filter(Boolean).join(" · ");
}
