import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { test } from "node:test";
import { check, inflate } from "../src/decode";
import { bytesByType, operators } from "../src/figures";
import { Graph } from "../src/graph";
import { HeatMap } from "../src/heat";
import { middle } from "../src/painter";
import { parse, Search } from "../src/search";
import { escapeXml, fileName } from "../src/svg";
import { bytesText, delta, printable, quantity, scaled, shape, tail } from "../src/text";
import { fusion } from "./documents";

test("what cannot be seen or reorders text is written out, and long text is cut", () => {
  assert.equal(printable("a\u202eb\u0000c\ud800"), "a\\u202eb\\u0000c\\ud800");
  assert.equal(printable("日本 😀"), "日本 😀");
  const long = printable("x".repeat(10_000));
  assert.ok(long.length < 310 && long.endsWith("(10000 characters)"));
});

test("names of hostile models stay text in XML and in file names", () => {
  assert.equal(escapeXml(`<script>"'&\u0000\ud800`), "&lt;script&gt;&quot;&#39;&amp;");
  assert.equal(fileName("../../etc/passwd", "svg"), "passwd.svg");
  assert.equal(fileName("a\\b<c>:|?*", "png"), "b-c.png");
  assert.equal(fileName("\u202e", "svg"), "graph.svg");
});

test("numbers for people", () => {
  assert.equal(scaled(1234567), "1.23 M");
  assert.equal(quantity(26300, "cycles"), "26.3k cycles");
  assert.equal(quantity(2.5e9, "FLOP"), "2.5 GFLOP");
  assert.equal(quantity(1536, "bytes"), "1.5 KiB");
  assert.equal(quantity(0.0012, "s"), "1.2 ms");
  assert.equal(bytesText(null), "unknown size");
  assert.equal(delta(10, 7), "−3");
  assert.equal(tail("a/b/c"), "c");
  assert.equal(tail("///"), "///");
});

test("long text loses its middle", () => {
  const width = (text: string) => text.length;
  assert.equal(middle("abcdefghij", 7, width), "abc…hij");
  assert.equal(middle("abc", 7, width), "abc");
  assert.ok(middle("x".repeat(100_000), 50, width).length <= 50);
});

test("search by name, operator, dtype and shape", () => {
  const graph = new Graph(fusion());
  const search = new Search(graph);
  const names = (query: string) => search.find(query, 0, 3).map((node) => graph.name(node));
  assert.deepEqual(parse("op:Conv 1x3"), [
    { field: "op", text: "conv" },
    { field: null, text: "1x3" },
  ]);
  assert.deepEqual(names("op:batch"), ["net/bn"]);
  assert.ok(names("relu").includes("net/relu"));
  assert.ok(names("shape:1x3xh").includes("net/conv"));
  assert.ok(names("1x3xH").includes("net/conv"));
  assert.ok(names("dtype:float32 op:cast").includes("net/cast"));
  assert.deepEqual(names("nosuchthing"), []);
  assert.deepEqual(names("   "), []);
});

test("shapes show symbols", () => {
  const graph = new Graph(fusion());
  assert.equal(shape(graph, 0), "1×3×H×W");
});

test("heat maps add up where that means something", () => {
  const graph = new Graph(fusion());
  const base = { label: "h", kind: "number" as const, step: 0 };
  const flops = new HeatMap(graph, {
    ...base,
    id: "flops",
    unit: "FLOP",
    v: [
      [0, 10],
      [1, 100_000],
      [2, 0],
    ],
  });
  assert.equal(flops.adds, true);
  assert.equal(flops.log, true);
  assert.equal(flops.position(100_000), 1);
  const error = new HeatMap(graph, {
    ...base,
    id: "e",
    unit: "relative",
    v: [
      [0, 0.1],
      [1, 0.2],
    ],
  });
  assert.equal(error.adds, false);
  assert.equal(error.log, false);
  const where = new HeatMap(graph, {
    ...base,
    id: "p",
    unit: "",
    kind: "category",
    v: [
      [0, "CPU"],
      [1, "CUDA"],
      [2, "CUDA"],
    ],
  });
  assert.deepEqual(where.categories, ["CUDA", "CPU"]);
});

test("figures of the charts", () => {
  const graph = new Graph(fusion());
  const rows = operators(graph, 0, 3);
  assert.deepEqual(
    rows.find((row) => row.label === "FusedConv"),
    { label: "FusedConv", before: 0, after: 1 },
  );
  assert.equal(bytesByType(graph, 0, 3, false)[0].label, "float32");
});

test("documents: packed, and of another schema", async () => {
  const packed = gzipSync(JSON.stringify({ a: "ü" })).toString("base64");
  assert.equal(await inflate(`${packed.slice(0, 10)}\n ${packed.slice(10)}`), '{"a":"ü"}');
  assert.throws(() => check({ schema: "other/2" } as never), /other\/2/);
  assert.throws(() => check({ schema: "graphopt.view/1", steps: [] } as never), /no step/);
});
