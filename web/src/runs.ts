/** Runs of repeated blocks that follow each other with nothing between. */

import type { Graph } from "./graph";

/**
 * A run that grows copy by copy. What it reaches outside itself is followed only as far as the next copy, and
 * never twice, so that a run costs what its surroundings hold.
 */
export class Run {
  readonly boxes: number[] = [];
  private readonly members = new Set<number>();
  private readonly passed = new Set<number>();
  /** Slots that are reached but not followed yet; `around` if through a slot outside the run. */
  private waiting: { slot: number; around: boolean }[] = [];

  constructor(private readonly graph: Graph) {}

  add(box: number, slots: Set<number>): void {
    this.boxes.push(box);
    for (const slot of slots) this.members.add(slot);
    for (const slot of slots) this.follow(slot, false, this.waiting);
  }

  /** True if a path leads from the run to these slots through others. */
  leadsAroundTo(slots: Set<number>): boolean {
    const { order } = this.graph;
    let last = -1;
    for (const slot of slots) last = Math.max(last, order[slot]);
    const queue = this.waiting;
    this.waiting = [];
    for (const entry of queue) {
      const { slot, around } = entry;
      if (slots.has(slot)) {
        if (around) return true;
      } else if (order[slot] > last) this.waiting.push(entry);
      else if (!this.members.has(slot) && !this.passed.has(slot)) {
        this.passed.add(slot);
        this.follow(slot, true, queue);
      }
    }
    return false;
  }

  private follow(slot: number, around: boolean, to: { slot: number; around: boolean }[]): void {
    const { graph } = this;
    for (const node of graph.slotNodes[slot]) {
      for (const edge of graph.outOf[node]) {
        const next = graph.slot[graph.edges[edge].dst];
        if (!this.members.has(next)) to.push({ slot: next, around });
      }
    }
  }
}
