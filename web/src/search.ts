/**
 * Search by name, operator, dtype and shape. Words must all match; `op:conv`, `name:layer.3`,
 * `dtype:float16`, `shape:1x3` and `group:encoder` say where.
 */

import type { Graph } from "./graph";
import { shape } from "./text";

const FIELDS = ["op", "name", "dtype", "shape", "group"] as const;
type Field = (typeof FIELDS)[number];

interface Term {
  field: Field | null;
  text: string;
}

export function parse(query: string): Term[] {
  const terms: Term[] = [];
  for (const word of query.trim().toLowerCase().split(/\s+/)) {
    if (!word) continue;
    const colon = word.indexOf(":");
    const field = FIELDS.find((name) => name === word.slice(0, colon));
    const text = field ? word.slice(colon + 1) : word;
    if (text) terms.push({ field: field ?? null, text: field === "shape" ? dims(text) : text });
  }
  return terms;
}

const dims = (text: string): string => text.replace(/[\u00d7x*,]/g, "×");

export class Search {
  private readonly cache = new Map<number, Record<Field, string>>();

  constructor(private readonly graph: Graph) {}

  /** Nodes of either step that match, in topological order. */
  find(query: string, before: number, after: number): number[] {
    const { graph } = this;
    const terms = parse(query);
    if (!terms.length) return [];
    const [a, b] = [graph.alive(before), graph.alive(after)];
    const found: number[] = [];
    for (let node = 0; node < graph.nodes; node++) {
      if ((a[node] || b[node]) && terms.every((term) => this.matches(node, term))) found.push(node);
    }
    const order = (node: number): number => graph.order[graph.slot[node]];
    return found.sort((x, y) => order(x) - order(y) || x - y);
  }

  private matches(node: number, { field, text }: Term): boolean {
    const fields = this.fields(node);
    if (field) return fields[field].includes(text);
    if (fields.op.includes(text) || fields.name.includes(text) || fields.dtype.includes(text)) return true;
    return /^\d+([\u00d7x*,]\w+)+$/.test(text) && fields.shape.includes(dims(text));
  }

  private fields(node: number): Record<Field, string> {
    let fields = this.cache.get(node);
    if (!fields) {
      const { graph } = this;
      const values = [...graph.inputs(node), ...graph.outputs(node)].filter((value) => value >= 0);
      const names = graph
        .outputs(node)
        .filter((value) => value >= 0)
        .map((value) => graph.valueName(value));
      fields = {
        op: graph.op(node).toLowerCase(),
        name: [graph.name(node), ...names].join("\n").toLowerCase(),
        dtype: values
          .map((value) => graph.dtype(value))
          .join(" ")
          .toLowerCase(),
        shape: values
          .map((value) => shape(graph, value))
          .join(" ")
          .toLowerCase(),
        group: graph.boxes.path(graph.boxes.ofSlot[graph.slot[node]]).toLowerCase(),
      };
      this.cache.set(node, fields);
    }
    return fields;
  }
}
