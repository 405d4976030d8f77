/** Walking the graph by keys: along tensors, to neighbours left and right, through what changed. */

import { boxItem, isBox, itemBox, type Item } from "./layout";
import type { Report } from "./report";
import { allFrames, find, shownAs, type Rect } from "./scene";

const centre = (rect: Rect): { x: number; y: number } => ({
  x: rect.x + rect.width / 2,
  y: rect.y + rect.height / 2,
});

function items(report: Report): { item: Item; rect: Rect }[] {
  const all: { item: Item; rect: Rect }[] = [];
  for (const frame of allFrames(report.frame)) {
    for (const entry of frame.items) {
      const seen = report.sides.some((side) =>
        isBox(entry.item)
          ? report.lens.inBox(itemBox(entry.item), side, !report.unstacked.has(itemBox(entry.item))).nodes > 0
          : report.lens.nodeIn(entry.item, side) >= 0,
      );
      if (seen) all.push(entry);
    }
  }
  return all;
}

/** Items that feed the selected one (up) or that it feeds (down). */
function connected(report: Report, item: Item, up: boolean): Set<Item> {
  const { graph, lens } = report;
  const look = report.look();
  const found = new Set<Item>();
  const slots = isBox(item) ? [...graph.boxes.slotsIn(itemBox(item))] : [item];
  for (const slot of slots) {
    for (const node of graph.slotNodes[slot]) {
      if (!lens.lives(node, "both")) continue;
      for (const edge of up ? graph.into[node] : graph.outOf[node]) {
        const other = up ? graph.edges[edge].src : graph.edges[edge].dst;
        if (!lens.lives(other, "both")) continue;
        const shown = shownAs(graph, graph.slot[other], look);
        if (shown !== item && (!isBox(item) || !inside(report, shown, itemBox(item)))) found.add(shown);
      }
    }
  }
  return found;
}

function inside(report: Report, item: Item, box: number): boolean {
  const { boxes } = report.graph;
  return boxes.around(isBox(item) ? itemBox(item) : boxes.ofSlot[item]).includes(box);
}

export type Direction = "up" | "down" | "left" | "right";

export function walk(report: Report, direction: Direction): void {
  const all = items(report);
  const { selected } = report.state;
  const from = selected === null ? null : find(report.frame, selected);
  if (selected === null || !from) {
    const first = all.reduce<{ item: Item; rect: Rect } | null>(
      (best, e) => (!best || e.rect.y < best.rect.y ? e : best),
      null,
    );
    if (first) go(report, first.item);
    return;
  }
  const here = centre(from);
  const vertical = direction === "up" || direction === "down";
  const near = vertical ? connected(report, selected, direction === "up") : null;
  let best: Item | null = null;
  let least = Infinity;
  for (const { item, rect } of all) {
    if (item === selected || (near && !near.has(item))) continue;
    const there = centre(rect);
    const [dx, dy] = [there.x - here.x, there.y - here.y];
    if (!vertical && (direction === "left" ? dx >= -1 : dx <= 1)) continue;
    const distance = vertical ? Math.abs(dy) + Math.abs(dx) * 0.5 : Math.abs(dx) + Math.abs(dy) * 3;
    if (distance < least) [best, least] = [item, distance];
  }
  if (best !== null) go(report, best);
}

/** To the group around the selection. */
export function outwards(report: Report): void {
  const { selected } = report.state;
  if (selected === null) return;
  const { boxes } = report.graph;
  const box = isBox(selected) ? boxes.get(itemBox(selected)).parent : boxes.ofSlot[selected];
  if (box > 0) go(report, boxItem(box));
}

/** To the next or previous node that is not the same on both sides. */
export function nextChange(report: Report, by: number): void {
  const { lens, graph, state } = report;
  const nodes = changedNodes(report);
  if (!nodes.length) {
    report.set({ message: "Nothing changed between these steps" });
    return;
  }
  const slot = state.selected !== null && !isBox(state.selected) ? state.selected : -1;
  const current = nodes.findIndex((node) => graph.slot[node] === slot && lens.lives(node, "both"));
  const at = current < 0 ? (by > 0 ? 0 : nodes.length - 1) : (current + by + nodes.length) % nodes.length;
  report.reveal(nodes[at]);
}

/** Everything that changed, one node for each place, in the order of the graph. */
export function changedNodes(report: Report): number[] {
  const { lens, graph } = report;
  const bySlot = new Map<number, number>();
  for (const statuses of [lens.diff.statusBefore, lens.diff.statusAfter]) {
    for (const [node, status] of statuses) if (status !== "same") bySlot.set(graph.slot[node], node);
  }
  return [...bySlot.keys()].sort((a, b) => graph.order[a] - graph.order[b]).map((slot) => bySlot.get(slot)!);
}

function go(report: Report, item: Item): void {
  report.select(item);
  const rect = find(report.frame, item);
  const view = report.view();
  if (!rect) return;
  const { x, y } = centre(rect);
  const margin = 60 / report.camera.zoom;
  const inView =
    x > view.x + margin &&
    x < view.x + view.width - margin &&
    y > view.y + margin &&
    y < view.y + view.height - margin;
  if (!inView) report.look_at({ ...report.camera, x, y });
}
