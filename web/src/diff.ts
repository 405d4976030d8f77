/** What became of every node between two steps. */

import type { Graph } from "./graph";
import type { Status } from "./types";

export const STATUSES: Status[] = ["same", "changed", "fused", "removed", "added"];

export interface Diff {
  before: number;
  after: number;
  /** Status by node of the step before, and of the step after. Nodes that do not live there are absent. */
  statusBefore: Map<number, Status>;
  statusAfter: Map<number, Status>;
  /** Nodes after that stand for a node before, and back. */
  heirs: Map<number, number[]>;
  origins: Map<number, number[]>;
}

export function compare(graph: Graph, before: number, after: number): Diff {
  const diff: Diff = {
    before,
    after,
    statusBefore: new Map(),
    statusAfter: new Map(),
    heirs: new Map(),
    origins: new Map(),
  };
  const whole = before === 0 && after >= graph.settled;
  if (whole && graph.raw.diff?.pairs?.length) fromPairs(graph, diff);
  else byProvenance(graph, diff);
  // Nobody may be left without a status: what no pair names is told by its key.
  for (const node of graph.aliveNodes(before)) {
    if (!diff.statusBefore.has(node))
      diff.statusBefore.set(node, keyStatus(graph, node, after, "removed", diff));
  }
  for (const node of graph.aliveNodes(after)) {
    if (!diff.statusAfter.has(node))
      diff.statusAfter.set(node, keyStatus(graph, node, before, "added", diff));
  }
  for (let node = graph.realNodes; node < graph.nodes; node++) {
    diff.statusBefore.set(node, "same");
    diff.statusAfter.set(node, "same");
  }
  return diff;
}

/** The status of a node on the side that it is looked at from. */
export function statusOf(diff: Diff, node: number): Status | undefined {
  return diff.statusAfter.get(node) ?? diff.statusBefore.get(node);
}

function link(diff: Diff, from: number, to: number): void {
  push(diff.heirs, from, to);
  push(diff.origins, to, from);
}

function push(map: Map<number, number[]>, key: number, value: number): void {
  const known = map.get(key);
  if (!known) map.set(key, [value]);
  else if (!known.includes(value)) known.push(value);
}

function fromPairs(graph: Graph, diff: Diff): void {
  for (const [keyBefore, keyAfter, status] of graph.raw.diff!.pairs!) {
    const from = keyBefore >= 0 ? graph.nodeOf(keyBefore, diff.before) : -1;
    const to = keyAfter >= 0 ? graph.nodeOf(keyAfter, diff.after) : -1;
    if (from >= 0) strongest(diff.statusBefore, from, status);
    if (to >= 0) strongest(diff.statusAfter, to, status);
    if (from >= 0 && to >= 0) link(diff, from, to);
  }
}

function strongest(map: Map<number, Status>, node: number, status: Status): void {
  const known = map.get(node);
  if (!known || STATUSES.indexOf(status) > STATUSES.indexOf(known)) map.set(node, status);
}

function keyStatus(graph: Graph, node: number, step: number, alone: Status, diff: Diff): Status {
  const other = graph.nodeOf(graph.key(node), step);
  if (other < 0) return alone;
  if (step === diff.after) link(diff, node, other);
  else link(diff, other, node);
  return alike(graph, node, other) ? "same" : "changed";
}

function byProvenance(graph: Graph, diff: Diff): void {
  // Nodes before by the original nodes that they stand for.
  const holders = new Map<number, number[]>();
  for (const node of graph.aliveNodes(diff.before)) {
    for (const key of roots(graph, node)) push(holders, key, node);
  }
  for (const node of graph.aliveNodes(diff.after)) {
    const key = graph.key(node);
    const itself = graph.nodeOf(key, diff.before);
    const from = new Set<number>();
    for (const root of roots(graph, node)) {
      for (const origin of holders.get(root) ?? []) {
        // A node that lives on under its own key is nobody else's origin.
        if (origin === itself || graph.nodeOf(graph.key(origin), diff.after) < 0) from.add(origin);
      }
    }
    if (itself >= 0) from.add(itself);
    for (const origin of from) link(diff, origin, node);
  }
  for (const [node, from] of diff.origins) {
    const single = from.length === 1 && diff.heirs.get(from[0])!.length === 1;
    const one = from[0];
    let status: Status = "fused";
    if (single && graph.key(one) === graph.key(node)) status = alike(graph, one, node) ? "same" : "changed";
    else if (single && graph.op(one) === graph.op(node)) status = "changed";
    else if (from.length === 1 && graph.key(one) === graph.key(node)) status = "changed";
    diff.statusAfter.set(node, status);
    for (const origin of from) strongest(diff.statusBefore, origin, status);
  }
}

function roots(graph: Graph, node: number): number[] {
  const origins = graph.origins(node);
  return origins.length ? origins : [graph.key(node)];
}

/** True if two versions of a node do the same: same operator, attributes, tensors. */
export function alike(graph: Graph, a: number, b: number): boolean {
  if (a === b) return true;
  const [x, y] = [graph.raw.nodes![a], graph.raw.nodes![b]];
  return (
    x.o === y.o &&
    (x.m ?? -1) === (y.m ?? -1) &&
    same(x.in, y.in) &&
    same(x.out, y.out) &&
    same((x.a ?? []).flat(), (y.a ?? []).flat())
  );
}

function same(a: readonly number[] = [], b: readonly number[] = []): boolean {
  return a.length === b.length && a.every((item, i) => item === b[i]);
}
