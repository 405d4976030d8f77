/**
 * The document as a graph that can be asked: which nodes live at a step, which place ("slot") a node takes,
 * which box (group) holds it, what feeds it.
 *
 * A slot is a place in the drawing. A node keeps its slot through the steps; a node that replaces others
 * takes the slot of one of them, so that the eye finds it where its origin stood.
 */

import { Boxes } from "./boxes";
import type { RawStep, RawValue, RawView } from "./types";

/** Graph inputs and outputs are drawn as nodes too; their ids follow those of the real nodes. */
export type Kind = "node" | "input" | "output";

export interface Edge {
  src: number;
  dst: number;
  value: number;
}

const NEVER = 1 << 30;

export class Graph {
  readonly strings: string[];
  readonly values: RawValue[];
  readonly realNodes: number;
  readonly nodes: number;
  readonly steps: number;
  readonly slot: Int32Array;
  readonly slotNodes: number[][] = [];
  readonly slotGroup: number[] = [];
  readonly edges: Edge[] = [];
  /** Edge indices by node: those that feed it, and those that it feeds. */
  readonly into: number[][];
  readonly outOf: number[][];
  /** Place of each slot in one topological order of all steps together. */
  readonly order: Int32Array;
  readonly boxes: Boxes;
  /** The first step that shows the final graph: what follows changes nothing. */
  readonly settled: number;
  private readonly born: Int32Array;
  private readonly died: Int32Array;
  private readonly io: { kind: Kind; value: number }[] = [];
  private readonly aliveCache = new Map<number, Uint8Array>();
  private readonly byKeyAt = new Map<number, number[]>();

  constructor(readonly raw: RawView) {
    this.strings = raw.strings;
    this.values = raw.values ?? [];
    this.realNodes = raw.nodes?.length ?? 0;
    this.steps = raw.steps.length;
    for (const value of raw.inputs ?? []) this.io.push({ kind: "input", value });
    for (const value of raw.outputs ?? []) this.io.push({ kind: "output", value });
    this.nodes = this.realNodes + this.io.length;
    this.born = new Int32Array(this.nodes).fill(NEVER);
    this.died = new Int32Array(this.nodes).fill(NEVER);
    this.born.fill(0, this.realNodes);
    raw.steps.forEach((step, i) => {
      for (const node of step.add ?? []) this.born[node] = Math.min(this.born[node], i);
      for (const node of step.del ?? []) this.died[node] = i;
      // A node that a later step brings back is taken to live in between: alive() has the truth.
      for (const node of step.add ?? []) if (this.died[node] <= i) this.died[node] = NEVER;
    });
    for (let node = 0; node < this.nodes; node++) {
      const versions = this.byKeyAt.get(this.key(node));
      if (versions) versions.push(node);
      else this.byKeyAt.set(this.key(node), [node]);
    }
    this.settled = this.steps - 1;
    const moves = ({ add, del }: RawStep): boolean => Boolean(add?.length || del?.length);
    while (this.settled > 0 && !moves(raw.steps[this.settled])) this.settled--;
    this.slot = this.placeNodes();
    this.into = Array.from({ length: this.nodes }, () => []);
    this.outOf = Array.from({ length: this.nodes }, () => []);
    this.connect();
    this.order = this.sort();
    this.boxes = new Boxes(this);
  }

  kind(node: number): Kind {
    return node < this.realNodes ? "node" : this.io[node - this.realNodes].kind;
  }

  key(node: number): number {
    return node < this.realNodes ? this.raw.nodes![node].key : -1 - (node - this.realNodes);
  }

  group(node: number): number {
    return node < this.realNodes ? this.raw.nodes![node].g : 0;
  }

  op(node: number): string {
    const kind = this.kind(node);
    return kind === "node" ? this.strings[this.raw.nodes![node].o] : kind === "input" ? "Input" : "Output";
  }

  name(node: number): string {
    if (node < this.realNodes) return this.strings[this.raw.nodes![node].n];
    return this.valueName(this.io[node - this.realNodes].value);
  }

  domain(node: number): string {
    const domain = this.raw.nodes?.[node]?.m;
    return domain === undefined ? "" : this.strings[domain];
  }

  inputs(node: number): number[] {
    if (node < this.realNodes) return this.raw.nodes![node].in ?? [];
    const { kind, value } = this.io[node - this.realNodes];
    return kind === "output" ? [value] : [];
  }

  outputs(node: number): number[] {
    if (node < this.realNodes) return this.raw.nodes![node].out ?? [];
    const { kind, value } = this.io[node - this.realNodes];
    return kind === "input" ? [value] : [];
  }

  /** Keys of the original nodes that this one stands for. */
  origins(node: number): number[] {
    return this.raw.nodes?.[node]?.f ?? [];
  }

  valueName(value: number): string {
    return this.strings[this.values[value].n];
  }

  dtype(value: number): string {
    const dtype = this.values[value]?.t;
    return dtype === null || dtype === undefined ? "" : this.strings[dtype];
  }

  bytes(value: number): number | null {
    return this.values[value]?.b ?? null;
  }

  /** One byte per node: 1 if it lives at the step. */
  alive(step: number): Uint8Array {
    const known = this.aliveCache.get(step);
    if (known) return known;
    let from = -1;
    for (const cached of this.aliveCache.keys()) if (cached < step && cached > from) from = cached;
    const alive = from >= 0 ? this.aliveCache.get(from)!.slice() : new Uint8Array(this.nodes);
    if (from < 0) alive.fill(1, this.realNodes);
    for (let i = from + 1; i <= step; i++) {
      for (const node of this.raw.steps[i].del ?? []) alive[node] = 0;
      for (const node of this.raw.steps[i].add ?? []) alive[node] = 1;
    }
    if (this.aliveCache.size > 24) this.aliveCache.delete(this.aliveCache.keys().next().value!);
    this.aliveCache.set(step, alive);
    return alive;
  }

  /** The version of a key that lives at a step, or -1. */
  nodeOf(key: number, step: number): number {
    const alive = this.alive(step);
    for (const node of this.byKeyAt.get(key) ?? []) if (alive[node]) return node;
    return -1;
  }

  /** All versions of a key, oldest first. */
  versions(key: number): number[] {
    return this.byKeyAt.get(key) ?? [];
  }

  /** The node that lives in a slot at a step, or -1. */
  inSlot(slot: number, step: number): number {
    const alive = this.alive(step);
    for (const node of this.slotNodes[slot]) if (alive[node]) return node;
    return -1;
  }

  aliveNodes(step: number): number[] {
    const alive = this.alive(step);
    const nodes: number[] = [];
    for (let node = 0; node < this.realNodes; node++) if (alive[node]) nodes.push(node);
    return nodes;
  }

  private placeNodes(): Int32Array {
    const slot = new Int32Array(this.nodes).fill(-1);
    const ofKey = new Map<number, number>();
    const tenant: number[] = [];
    const partner = new Map<number, number>();
    for (const [before, after] of this.raw.diff?.pairs ?? []) {
      if (before >= 0 && after >= 0 && before !== after) partner.set(after, before);
    }
    const take = (node: number, place: number): void => {
      slot[node] = place;
      tenant[place] = node;
      ofKey.set(this.key(node), place);
      this.slotNodes[place].push(node);
    };
    /** A new version of a node stays where it is, unless it left a body or came into one. */
    const stay = (node: number): void => {
      const place = ofKey.get(this.key(node));
      if (place === undefined || tenant[place] >= 0) return;
      const last = this.slotNodes[place][this.slotNodes[place].length - 1];
      if (this.raw.nodes![last].sub === this.raw.nodes![node].sub) take(node, place);
    };
    const settle = (node: number): void => {
      const group = this.group(node);
      const free = (s: number | undefined): s is number =>
        s !== undefined && tenant[s] < 0 && this.slotGroup[s] === group;
      let place = ofKey.get(partner.get(this.key(node)) ?? NEVER);
      const origins = this.origins(node);
      for (let i = origins.length - 1; i >= 0 && !free(place); i--) place = ofKey.get(origins[i]);
      if (!free(place)) {
        place = this.slotNodes.length;
        this.slotNodes.push([]);
        this.slotGroup.push(group);
      }
      take(node, place);
    };
    for (let node = this.realNodes; node < this.nodes; node++) settle(node);
    for (const step of this.raw.steps) {
      for (const node of step.del ?? []) if (slot[node] >= 0) tenant[slot[node]] = -1;
      const back = (node: number): boolean => slot[node] >= 0 && tenant[slot[node]] < 0;
      for (const node of step.add ?? []) if (back(node)) tenant[slot[node]] = node;
      for (const node of step.add ?? []) if (slot[node] < 0) stay(node);
      for (const node of step.add ?? []) if (slot[node] < 0) settle(node);
    }
    return slot;
  }

  private connect(): void {
    const makers = new Map<number, number[]>();
    for (let node = 0; node < this.nodes; node++) {
      for (const value of this.outputs(node)) {
        if (value < 0) continue;
        const known = makers.get(value);
        if (known) known.push(node);
        else makers.set(value, [node]);
      }
    }
    for (let node = 0; node < this.nodes; node++) {
      for (const value of new Set(this.inputs(node))) {
        for (const maker of makers.get(value) ?? []) {
          if (this.born[maker] >= this.died[node] || this.born[node] >= this.died[maker]) continue;
          this.outOf[maker].push(this.edges.length);
          this.into[node].push(this.edges.length);
          this.edges.push({ src: maker, dst: node, value });
        }
      }
    }
  }

  /** Producers first; where steps contradict each other (a cycle), the edge met last gives way. */
  private sort(): Int32Array {
    const count = this.slotNodes.length;
    const before: number[][] = Array.from({ length: count }, () => []);
    const isSource = new Uint8Array(count);
    for (const { src, dst } of this.edges) {
      before[this.slot[dst]].push(this.slot[src]);
      isSource[this.slot[src]] = 1;
    }
    const order = new Int32Array(count).fill(-1);
    const seen = new Uint8Array(count);
    let next = 0;
    const visit = (root: number): void => {
      const stack: [number, number][] = [[root, 0]];
      seen[root] = 1;
      while (stack.length) {
        const top = stack[stack.length - 1];
        if (top[1] < before[top[0]].length) {
          const child = before[top[0]][top[1]++];
          if (!seen[child]) {
            seen[child] = 1;
            stack.push([child, 0]);
          }
        } else {
          order[top[0]] = next++;
          stack.pop();
        }
      }
    };
    for (let slot = 0; slot < count; slot++) if (!isSource[slot] && !seen[slot]) visit(slot);
    for (let slot = 0; slot < count; slot++) if (!seen[slot]) visit(slot);
    return order;
  }
}
