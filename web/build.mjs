// Bundles the report into graphopt/viz/static/, or (--tests) the unit tests into .tests/.
import { build } from "esbuild";
import { readFileSync, readdirSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const common = {
  absWorkingDir: here,
  bundle: true,
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  logLevel: "warning",
};

if (process.argv.includes("--tests")) {
  rmSync(`${here}/.tests`, { recursive: true, force: true });
  const tests = readdirSync(`${here}/test`).filter((name) => name.endsWith(".test.ts"));
  await build({
    ...common,
    entryPoints: tests.map((name) => `test/${name}`),
    outdir: ".tests",
    outExtension: { ".js": ".mjs" },
    platform: "node",
    format: "esm",
    sourcemap: "inline",
  });
} else {
  // "ascii" and no source map: the bytes depend on the sources alone.
  await build({
    ...common,
    entryPoints: { report: "src/main.tsx" },
    outdir: "../graphopt/viz/static",
    format: "iife",
    minify: true,
    charset: "ascii",
    legalComments: "none",
  });
  await build({
    ...common,
    entryPoints: { report: "src/report.css" },
    outdir: "../graphopt/viz/static",
    minify: true,
    legalComments: "none",
  });
  // The page holds both inside elements of its own, as ASCII.
  for (const name of ["report.js", "report.css"]) {
    const text = readFileSync(`${here}/../graphopt/viz/static/${name}`, "latin1");
    const wrong = /[^ -~\s\cA]|\r|<\/(script|style)|<!--/i.exec(text);
    if (wrong) throw new Error(`${name} may not hold ${JSON.stringify(wrong[0])} at ${wrong.index}`);
  }
}
