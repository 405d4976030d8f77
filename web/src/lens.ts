/** What the panes show of two steps: which nodes, boxes and lines live, and what became of them. */

import { compare, STATUSES, type Diff } from "./diff";
import type { Graph } from "./graph";
import type { Wire } from "./layout";
import type { Status } from "./types";

export type Side = "before" | "after" | "both";

export interface WireInfo {
  before: boolean;
  after: boolean;
  /** The tensor, if all edges of the line carry the same one, else -1. */
  value: number;
  tensors: number;
  bytes: number;
}

export class Lens {
  readonly diff: Diff;
  /** A model by itself has nothing to compare. */
  readonly plain: boolean;
  private readonly counts = new Map<number, Int32Array>();
  private readonly wires = new WeakMap<Wire, WireInfo>();
  private readonly aliveBefore: Uint8Array;
  private readonly aliveAfter: Uint8Array;

  constructor(
    readonly graph: Graph,
    readonly before: number,
    readonly after: number,
  ) {
    this.diff = compare(graph, before, after);
    this.plain = graph.steps === 1;
    this.aliveBefore = graph.alive(before);
    this.aliveAfter = graph.alive(after);
    this.countBoxes();
  }

  /** The node that a slot shows on a side, or -1. */
  nodeIn(slot: number, side: Side): number {
    if (side === "before") return this.graph.inSlot(slot, this.before);
    const after = this.graph.inSlot(slot, this.after);
    return after >= 0 || side === "after" ? after : this.graph.inSlot(slot, this.before);
  }

  status(node: number, side: Side): Status {
    const { statusBefore, statusAfter } = this.diff;
    const status = side === "before" ? statusBefore.get(node) : statusAfter.get(node);
    return status ?? statusBefore.get(node) ?? statusAfter.get(node) ?? "same";
  }

  /** Nodes that a side shows in a box and below, by status. */
  inBox(box: number, side: Side, stacked: boolean): { nodes: number; by: Record<Status, number> } {
    const { boxes } = this.graph;
    const copies = stacked ? (boxes.copiesOf.get(box) ?? [box]) : [box];
    const by = { same: 0, changed: 0, fused: 0, removed: 0, added: 0 };
    let nodes = 0;
    for (const copy of copies) {
      const row = this.counts.get(copy);
      if (!row) continue;
      STATUSES.forEach((status, i) => {
        const [before, after] = [row[2 * i], row[2 * i + 1]];
        const shown =
          side === "before" ? before : side === "after" ? after : after + (this.goes(status) ? before : 0);
        by[status] += shown;
        nodes += shown;
      });
    }
    return { nodes, by };
  }

  /** All nodes of both steps by status; what both have is counted once. */
  totals(): Record<Status, number> {
    return this.inBox(0, "both", false).by;
  }

  lives(node: number, side: Side): boolean {
    return (
      (side !== "after" && this.aliveBefore[node] === 1) || (side !== "before" && this.aliveAfter[node] === 1)
    );
  }

  wire(wire: Wire): WireInfo {
    let info = this.wires.get(wire);
    if (!info) this.wires.set(wire, (info = this.readWire(wire)));
    return info;
  }

  private goes(status: Status): boolean {
    return status === "removed";
  }

  private readWire(wire: Wire): WireInfo {
    const { graph, aliveBefore, aliveAfter } = this;
    if (wire.body) return { before: true, after: true, value: -1, tensors: 0, bytes: 0 };
    const info = { before: false, after: false, value: -1, tensors: 0, bytes: 0 };
    const values = new Set<number>();
    for (const id of wire.edges) {
      const { src, dst, value } = graph.edges[id];
      const before = aliveBefore[src] === 1 && aliveBefore[dst] === 1;
      const after = aliveAfter[src] === 1 && aliveAfter[dst] === 1;
      if (!before && !after) continue;
      info.before ||= before;
      info.after ||= after;
      if (values.has(value)) continue;
      values.add(value);
      info.bytes += graph.bytes(value) ?? 0;
    }
    info.tensors = values.size;
    if (values.size === 1) info.value = [...values][0];
    return info;
  }

  private countBoxes(): void {
    const { graph, diff } = this;
    const count = (node: number, status: Status, side: number): void => {
      const at = 2 * STATUSES.indexOf(status) + side;
      for (let box = graph.boxes.ofSlot[graph.slot[node]]; box >= 0; box = graph.boxes.get(box).parent) {
        let row = this.counts.get(box);
        if (!row) this.counts.set(box, (row = new Int32Array(2 * STATUSES.length)));
        row[at]++;
      }
    };
    for (const [node, status] of diff.statusBefore) if (node < graph.realNodes) count(node, status, 0);
    for (const [node, status] of diff.statusAfter) if (node < graph.realNodes) count(node, status, 1);
  }
}
