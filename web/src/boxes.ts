/**
 * The tree of boxes that holds the slots: groups of the document, and "parts", made here where a group holds
 * more than people can look at (and a layout can order) at once.
 */

import type { Graph } from "./graph";

export type BoxKind = "root" | "scope" | "body" | "repeat" | "part";

export interface Box {
  id: number;
  label: string;
  kind: BoxKind;
  parent: number;
  boxes: number[];
  slots: number[];
  /** Slots in it and in the boxes below. */
  size: number;
  depth: number;
  /** Copies of a repeated block, and the box that is shown for all of them (-1: not repeated). */
  copies: number;
  template: number;
  /** The key of the node whose body this is, or null. */
  holder: number | null;
}

/** What a box is split into parts of: a slot, a box, or a run of copies. */
interface Piece {
  slots: number[];
  boxes: number[];
  at: number;
}

/** More items than this in one box are split into parts of about PART items. */
export const MOST = 160;
const PART = 110;

export class Boxes {
  readonly all: Box[] = [];
  readonly ofSlot: Int32Array;
  /** Boxes that are copies of the same block, by template. */
  readonly copiesOf = new Map<number, number[]>();

  constructor(private readonly graph: Graph) {
    this.ofSlot = Int32Array.from(graph.slotGroup);
    this.readGroups();
    this.ofSlot.forEach((box, slot) => this.all[box].slots.push(slot));
    this.order();
    this.stack();
    for (let id = this.all.length - 1; id >= 0; id--) this.split(this.all[id]);
    this.measure();
  }

  get(id: number): Box {
    return this.all[id];
  }

  /** The chain of boxes around a box, innermost first, without the root. */
  around(id: number): number[] {
    const chain: number[] = [];
    for (let box = id; box > 0; box = this.all[box].parent) chain.push(box);
    return chain;
  }

  /** Full name of a box, from the root. */
  path(id: number): string {
    return this.around(id)
      .reverse()
      .map((box) => this.all[box].label)
      .join(" / ");
  }

  *slotsIn(id: number): Generator<number> {
    const stack = [id];
    while (stack.length) {
      const box = this.all[stack.pop()!];
      yield* box.slots;
      for (const child of box.boxes) stack.push(child);
    }
  }

  /** True if another box is shown for this one (a copy that is not the first). */
  isCopy(id: number): boolean {
    const { template } = this.all[id];
    return template >= 0 && template !== id;
  }

  private readGroups(): void {
    const { raw, strings } = this.graph;
    const groups = raw.groups?.length ? raw.groups : [{ n: -1, p: -1, k: "root" as const }];
    groups.forEach((group, id) => {
      const repeated = group.k === "repeat" && group.tmpl !== undefined && (group.x ?? 1) > 1;
      this.all.push({
        id,
        label: strings[group.n] ?? "",
        kind: group.k,
        // A parent comes before its child; what says otherwise is hung under the root.
        parent: id === 0 ? -1 : group.p >= 0 && group.p < id ? group.p : 0,
        boxes: [],
        slots: [],
        size: 0,
        depth: 0,
        copies: repeated ? (group.x ?? 1) : 1,
        template: repeated ? group.tmpl! : -1,
        holder: null,
      });
    });
    for (const box of this.all) {
      if (box.parent >= 0) this.all[box.parent].boxes.push(box.id);
      const template = box.template >= 0 ? this.all[box.template] : undefined;
      if (box.template >= 0 && template?.parent !== box.parent) box.template = -1;
      if (box.template < 0) continue;
      const copies = this.copiesOf.get(box.template);
      box.copies = 1;
      if (copies) copies.push(box.id);
      else this.copiesOf.set(box.template, [box.id]);
    }
    for (const sub of raw.subgraphs ?? []) {
      const box = this.all[sub.g];
      if (box && sub.g > 0) box.holder = sub.node;
    }
  }

  /**
   * Copies are shown as one where they follow each other with nothing between: a run. Where other nodes lie
   * between two copies, showing them as one would tie the drawing into a knot.
   */
  private stack(): void {
    for (const [template, copies] of [...this.copiesOf]) {
      this.copiesOf.delete(template);
      copies.sort((a, b) => this.first[a] - this.first[b] || a - b);
      let run: number[] = [];
      const close = (): void => {
        for (const id of run) {
          this.all[id].template = run.length > 1 ? run[0] : -1;
          this.all[id].copies = run.length;
        }
        if (run.length > 1) this.copiesOf.set(run[0], run);
        run = [];
      };
      for (const copy of copies) {
        if (run.length && this.between(run, copy)) close();
        run.push(copy);
      }
      close();
    }
  }

  /** True if a path leads from the boxes of a run to the next copy through other nodes. */
  private between(run: number[], next: number): boolean {
    const { graph } = this;
    const target = new Set(this.slotsIn(next));
    const members = new Set(run.flatMap((id) => [...this.slotsIn(id)]));
    let last = -1;
    for (const slot of target) last = Math.max(last, graph.order[slot]);
    const seen = new Set<number>();
    const queue = [...members];
    for (const slot of queue) {
      for (const node of graph.slotNodes[slot]) {
        for (const edge of graph.outOf[node]) {
          const to = graph.slot[graph.edges[edge].dst];
          if (target.has(to)) {
            if (!members.has(slot)) return true;
          } else if (!members.has(to) && !seen.has(to) && graph.order[to] < last) {
            seen.add(to);
            queue.push(to);
          }
        }
      }
    }
    return false;
  }

  /** First position of each box's slots in the topological order, by which children are sorted. */
  private order(): void {
    const { order } = this.graph;
    const first = new Float64Array(this.all.length).fill(Infinity);
    for (let id = this.all.length - 1; id >= 0; id--) {
      const box = this.all[id];
      box.slots.sort((a, b) => order[a] - order[b]);
      if (box.slots.length) first[id] = Math.min(first[id], order[box.slots[0]]);
      if (box.parent >= 0) first[box.parent] = Math.min(first[box.parent], first[id]);
    }
    for (const box of this.all) box.boxes.sort((a, b) => first[a] - first[b] || a - b);
    this.first = first;
  }
  private first = new Float64Array(0);

  private split(box: Box): void {
    // A run of copies is one item: it stays together, or it could not be shown once.
    const runs = box.boxes.filter((id) => !this.isCopy(id));
    let items: Piece[] = [
      ...box.slots.map((slot) => ({ slots: [slot], boxes: [], at: this.graph.order[slot] })),
      ...runs.map((id) => ({ slots: [], boxes: this.copiesOf.get(id) ?? [id], at: this.first[id] })),
    ].sort((a, b) => a.at - b.at);
    if (items.length <= MOST) return;
    while (items.length > MOST) {
      const members = items.map(({ slots, boxes }) => [
        ...slots,
        ...boxes.flatMap((id) => [...this.slotsIn(id)]),
      ]);
      items = this.cuts(members).map(([from, to]) => {
        const part = this.newPart(box, items.slice(from, to));
        return { slots: [], boxes: [part.id], at: items[from].at };
      });
    }
    box.slots = items.flatMap(({ slots }) => slots);
    box.boxes = items.flatMap(({ boxes }) => boxes);
    let number = 0;
    for (const id of box.boxes) if (this.all[id].kind === "part") this.name(this.all[id], ++number);
  }

  private newPart(parent: Box, items: Piece[]): Box {
    const part: Box = {
      id: this.all.length,
      label: "",
      kind: "part",
      parent: parent.id,
      boxes: items.flatMap(({ boxes }) => boxes),
      slots: items.flatMap(({ slots }) => slots),
      size: 0,
      depth: 0,
      copies: 1,
      template: -1,
      holder: null,
    };
    this.all.push(part);
    for (const id of part.boxes) this.all[id].parent = part.id;
    for (const slot of part.slots) this.ofSlot[slot] = part.id;
    return part;
  }

  private name(part: Box, number: number, prefix = ""): void {
    const ops = new Map<string, number>();
    for (const slot of this.slotsIn(part.id)) {
      const op = this.graph.op(this.graph.slotNodes[slot][0]);
      ops.set(op, (ops.get(op) ?? 0) + 1);
    }
    const most = [...ops].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, 2);
    part.label = `part ${prefix}${number} · ${most.map(([op]) => op).join(", ")}`;
    let inner = 0;
    for (const id of part.boxes)
      if (this.all[id].kind === "part") this.name(this.all[id], ++inner, `${prefix}${number}.`);
  }

  /** Ranges of items, each near PART long, that end where the fewest edges cross. */
  private cuts(members: number[][]): [number, number][] {
    const { graph } = this;
    const at = new Map<number, number>();
    members.forEach((slots, i) => slots.forEach((slot) => at.set(slot, i)));
    const change = new Int32Array(members.length + 1);
    for (const { src, dst } of graph.edges) {
      const from = at.get(graph.slot[src]);
      const to = at.get(graph.slot[dst]);
      if (from === undefined || to === undefined || from >= to) continue;
      change[from]++;
      change[to]--;
    }
    const crossing = new Int32Array(members.length);
    for (let i = 0, sum = 0; i < members.length; i++) crossing[i] = sum += change[i];
    const ranges: [number, number][] = [];
    for (let start = 0; start < members.length;) {
      let end = members.length;
      if (end - start > MOST) {
        end = start + PART;
        for (let i = start + PART / 2; i < start + MOST; i++)
          if (crossing[i - 1] < crossing[end - 1]) end = i;
      }
      ranges.push([start, end]);
      start = end;
    }
    return ranges;
  }

  private measure(): void {
    const visit: number[] = [0];
    for (const id of visit) {
      for (const child of this.all[id].boxes) {
        this.all[child].depth = this.all[id].depth + 1;
        visit.push(child);
      }
    }
    for (const id of visit.reverse()) {
      const box = this.all[id];
      box.size += box.slots.length;
      if (box.parent >= 0) this.all[box.parent].size += box.size;
    }
  }
}
