/** The numbers behind the charts. */

import type { Graph } from "./graph";
import type { Report } from "./report";

export interface Pair {
  label: string;
  before: number;
  after: number;
}

/** Nodes by operator at two steps, the largest first. */
export function operators(graph: Graph, before: number, after: number): Pair[] {
  const rows = new Map<string, Pair>();
  const add = (step: number, side: "before" | "after"): void => {
    for (const node of graph.aliveNodes(step)) {
      const label = graph.op(node);
      let row = rows.get(label);
      if (!row) rows.set(label, (row = { label, before: 0, after: 0 }));
      row[side]++;
    }
  };
  add(before, "before");
  add(after, "after");
  return sorted(rows);
}

/** Bytes by dtype of the tensors that the nodes of a step read or write: weights, or the rest. */
export function bytesByType(graph: Graph, before: number, after: number, weights: boolean): Pair[] {
  const rows = new Map<string, Pair>();
  const add = (step: number, side: "before" | "after"): void => {
    const seen = new Set<number>();
    for (const node of graph.aliveNodes(step)) {
      for (const value of [...graph.inputs(node), ...graph.outputs(node)]) {
        if (value < 0 || seen.has(value)) continue;
        seen.add(value);
        if ((graph.values[value].k === "init") !== weights) continue;
        const label = graph.dtype(value) || "unknown";
        let row = rows.get(label);
        if (!row) rows.set(label, (row = { label, before: 0, after: 0 }));
        row[side] += graph.bytes(value) ?? 0;
      }
    }
  };
  add(before, "before");
  add(after, "after");
  return sorted(rows).filter((row) => row.before || row.after);
}

function sorted(rows: Map<string, Pair>): Pair[] {
  const size = (row: Pair): number => Math.max(row.before, row.after);
  return [...rows.values()].sort((a, b) => size(b) - size(a) || (a.label < b.label ? -1 : 1));
}

export interface Spot {
  node: number;
  /** FLOP for each byte, and FLOP/s that the device can reach at that intensity. */
  intensity: number;
  rate: number;
  flops: number;
}

/** Nodes under the roof of the device: at their measured rate where there are times, else on the roof. */
export function roofline(report: Report): Spot[] {
  const roof = report.graph.raw.roofline;
  const heat = (id: string) => report.heats.find(({ raw }) => raw.id === id)?.of;
  const [flops, bytes, seconds] = [heat("flops"), heat("bytes"), heat("seconds")];
  if (!roof || !flops || !bytes) return [];
  const spots: Spot[] = [];
  for (const [node, value] of flops) {
    const [work, moved] = [Number(value), Number(bytes.get(node))];
    if (!(work > 0) || !(moved > 0)) continue;
    const intensity = work / moved;
    const time = Number(seconds?.get(node));
    const rate = time > 0 ? work / time : Math.min(roof.flops, intensity * roof.bandwidth);
    spots.push({ node, intensity, rate, flops: work });
  }
  return spots.sort((a, b) => b.flops - a.flops);
}
