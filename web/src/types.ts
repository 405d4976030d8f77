/** The view document `graphopt.view/1` as Python writes it. `S` is an index into `strings`. */

export type S = number;

export interface RawStats {
  min?: number;
  max?: number;
  mean?: number;
  std?: number;
  zeros?: number;
  nonfinite?: number;
  n?: number;
  hist?: [number, number, number][];
  sampled?: boolean;
}

export interface RawValue {
  n: S;
  t?: S | null;
  d?: (number | string)[] | null;
  b?: number | null;
  k: "in" | "out" | "inout" | "init" | "act";
  stats?: RawStats;
}

export interface RawNode {
  n: S;
  o: S;
  m?: S;
  in?: number[];
  out?: number[];
  a?: [S, S][];
  f?: number[];
  key: number;
  g: number;
  sub?: number;
  doc?: string;
}

export interface RawGroup {
  n: S;
  p: number;
  k: "root" | "scope" | "body" | "repeat";
  x?: number;
  tmpl?: number;
}

export interface RawSubgraph {
  node: number;
  n: S;
  g: number;
}

export interface RawStep {
  label: string;
  pass?: string;
  changed: boolean;
  add?: number[];
  del?: number[];
  why?: [string, number][];
  seconds?: number;
  nodes?: number;
  bytes?: number;
  exactness?: string;
  notes?: string[];
}

export type Status = "same" | "changed" | "fused" | "removed" | "added";

export interface RawHeat {
  id: string;
  label: string;
  unit: string;
  kind: "number" | "category";
  step: number;
  v?: [number, number | string][];
  note?: string;
  agg?: "sum" | "max";
  scale?: "log" | "linear";
}

export interface RawRoofline {
  device: string;
  flops: number;
  bandwidth: number;
  source?: string;
}

export interface RawView {
  schema: string;
  title: string;
  generator: string;
  strings: string[];
  facts?: [string, string][];
  values?: RawValue[];
  nodes?: RawNode[];
  groups?: RawGroup[];
  subgraphs?: RawSubgraph[];
  steps: RawStep[];
  diff?: { pairs?: [number, number, Status][] };
  heat?: RawHeat[];
  roofline?: RawRoofline;
  inputs?: number[];
  outputs?: number[];
}
