/** Words and numbers for people. Whatever comes from the model passes through here before it is shown. */

import type { Graph } from "./graph";

// Marks that reorder or hide text, controls, and halves of surrogate pairs.
/* eslint-disable no-control-regex -- these are what is looked for */
const TRICKY = new RegExp(
  "[\\u0000-\\u001f\\u007f-\\u009f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]",
  "g",
);
const LONE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** The text with what cannot be seen written out, cut to `most` characters. */
export function printable(text: string, most = 300): string {
  let short = text;
  if (text.length > most) short = `${text.slice(0, most - 20)}… (${text.length} characters)`;
  const code = (c: string): string => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return short.replace(TRICKY, code).replace(LONE, code);
}

/** The last part of a path-like name. */
export function tail(name: string): string {
  const short = name.length > 400 ? name.slice(-400) : name;
  const parts = short.split(/[/\\]/).filter(Boolean);
  return parts[parts.length - 1] ?? short;
}

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(value: number): string {
  return NUMBER.format(value);
}

export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** Three significant digits with a decimal prefix: 1.23 M. */
export function scaled(value: number): string {
  if (value === 0 || !Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  const units: [number, string][] = [
    [1e15, "P"],
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ];
  for (const [unit, letter] of units) if (size >= unit) return `${digits(value / unit)} ${letter}`;
  if (size >= 0.01) return digits(value);
  return value.toExponential(1).replace("e-", "e−");
}

function digits(value: number): string {
  return String(Number(value.toPrecision(3)));
}

export function bytesText(bytes: number | null | undefined): string {
  if (bytes === null || bytes === undefined) return "unknown size";
  let value = bytes;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (Math.abs(value) < 1024) return `${digits(value)} ${unit}`;
    value /= 1024;
  }
  return `${digits(value)} TiB`;
}

export function seconds(value: number): string {
  if (value >= 1) return `${digits(value)} s`;
  if (value >= 1e-3) return `${digits(value * 1e3)} ms`;
  return `${digits(value * 1e6)} µs`;
}

/** A value with its unit: bytes in binary units, everything else with a decimal prefix. */
export function quantity(value: number, unit: string): string {
  if (unit === "bytes" || unit === "B") return bytesText(value);
  if (unit === "s") return seconds(value);
  const number = scaled(value);
  if (/^[a-z]{4,}/.test(unit)) return `${number.replace(" ", "")} ${unit}`;
  return /[PTGMk]$/.test(number) ? `${number}${unit}` : `${number} ${unit}`.trim();
}

export function delta(before: number, after: number): string {
  const change = after - before;
  return change === 0 ? "±0" : `${change > 0 ? "+" : "−"}${count(Math.abs(change))}`;
}

/** Dimensions of a value: 1×3×N×224, "scalar", or "" where the rank is unknown. */
export function shape(graph: Graph, value: number): string {
  const dims = graph.values[value]?.d;
  if (dims === null || dims === undefined) return "";
  if (!dims.length) return "scalar";
  return dims.map((dim) => printable(String(dim), 40)).join("×");
}

/** A shape that fits on a line of the drawing: long expressions are cut. */
export function shortShape(graph: Graph, value: number): string {
  const dims = graph.values[value]?.d;
  if (!dims?.length) return shape(graph, value);
  const short = dims.map((dim) => {
    const text = printable(String(dim), 40);
    return text.length > 10 ? `${text.slice(0, 8)}…` : text;
  });
  return short.length > 6 ? `${short.slice(0, 5).join("×")}×…` : short.join("×");
}

/** "float16 1×3×224×224" of a value. */
export function typeOf(graph: Graph, value: number): string {
  return [graph.dtype(value), shape(graph, value) || "unknown shape"].filter(Boolean).join(" ");
}
