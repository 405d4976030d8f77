/** Small view documents, built in code. */

import type { RawGroup, RawNode, RawStep, RawValue, RawView, Status } from "../src/types";

export class Documents {
  readonly strings: string[] = [""];
  readonly values: RawValue[] = [];
  readonly nodes: RawNode[] = [];
  readonly groups: RawGroup[] = [{ n: 0, p: -1, k: "root" }];
  readonly steps: RawStep[] = [];
  pairs: [number, number, Status][] = [];

  s(text: string): number {
    const at = this.strings.indexOf(text);
    return at >= 0 ? at : this.strings.push(text) - 1;
  }

  value(name: string, dims: (number | string)[] = [1, 8], kind: RawValue["k"] = "act", bytes = 32): number {
    return this.values.push({ n: this.s(name), t: this.s("float32"), d: dims, b: bytes, k: kind }) - 1;
  }

  group(name: string, parent = 0, more: Partial<RawGroup> = {}): number {
    return this.groups.push({ n: this.s(name), p: parent, k: "scope", ...more }) - 1;
  }

  node(op: string, name: string, inputs: number[], outputs: number[], more: Partial<RawNode> = {}): number {
    const key = more.key ?? this.nodes.length;
    return (
      this.nodes.push({
        n: this.s(name),
        o: this.s(op),
        in: inputs,
        out: outputs,
        g: 0,
        f: [key],
        key,
        ...more,
      }) - 1
    );
  }

  step(label: string, add: number[], del: number[] = [], more: Partial<RawStep> = {}): void {
    this.steps.push({
      label,
      changed: add.length + del.length > 0 && this.steps.length > 0,
      add,
      del,
      ...more,
    });
  }

  view(more: Partial<RawView> = {}): RawView {
    const { strings, values, nodes, groups, steps, pairs } = this;
    const base = { schema: "graphopt.view/1", title: "test", generator: "test" };
    return { ...base, strings, values, nodes, groups, steps, diff: { pairs }, ...more };
  }
}

/** x → Conv → BatchNormalization → Relu → y; one Conv comes for the first two, and an unused node goes. */
export function fusion(pairs = false): RawView {
  const d = new Documents();
  const [x, a, b, y, z] = [
    d.value("x", [1, 3, "H", "W"], "in"),
    d.value("a"),
    d.value("b"),
    d.value("y"),
    d.value("z"),
  ];
  const conv = d.node("Conv", "net/conv", [x], [a]);
  const norm = d.node("BatchNormalization", "net/bn", [a], [b]);
  const relu = d.node("Relu", "net/relu", [b], [y]);
  const dead = d.node("Identity", "net/dead", [x], [z]);
  const fused = d.node("FusedConv", "net/conv_bn", [x], [b], { f: [0, 1] });
  const extra = d.node("Cast", "net/cast", [y], [d.value("w")], { f: [] });
  d.step("original", [conv, norm, relu, dead]);
  d.step("nothing", []);
  d.step("fuse", [fused], [conv, norm], { why: [["conv_bn", 1]] });
  d.step("clean", [extra], [dead]);
  if (pairs) {
    d.pairs = [
      [0, 4, "fused"],
      [1, 4, "fused"],
      [2, 2, "same"],
      [3, -1, "removed"],
      [-1, 5, "added"],
    ];
  }
  return d.view({ inputs: [x], outputs: [y] });
}

/** A chain of nodes, all in the root group. */
export function chain(count: number): RawView {
  const d = new Documents();
  let last = d.value("x", [1, 8], "in");
  const x = last;
  const nodes: number[] = [];
  for (let i = 0; i < count; i++) {
    const next = d.value(`v${i}`);
    nodes.push(d.node(["Conv", "Relu"][i % 2], `n${i}`, [last], [next]));
    last = next;
  }
  d.step("original", nodes);
  return d.view({ inputs: [x], outputs: [last] });
}

/** Blocks of two nodes each that follow each other; with a gap, a node of its own lies after that many. */
export function blocks(count: number, gap = -1): RawView {
  const d = new Documents();
  let last = d.value("x", [1, 8], "in");
  const nodes: number[] = [];
  const first = 1;
  for (let i = 0; i < count; i++) {
    const g = d.group(`layer.${i}`, 0, { k: "repeat", x: count, tmpl: first });
    for (const op of ["MatMul", "Add"]) {
      const next = d.value(`v${i}${op}`);
      nodes.push(d.node(op, `layer.${i}/${op}`, [last], [next], { g }));
      last = next;
    }
    if (i === gap) {
      const next = d.value("between");
      nodes.push(d.node("Relu", "between", [last], [next]));
      last = next;
    }
  }
  d.step("original", nodes);
  return d.view({ outputs: [last] });
}
