/** The state of the page as a URL fragment, so that a link opens the same view. */

import { boxItem, isBox, itemBox } from "./layout";
import type { Mode, Report, State, Tab } from "./report";

const MODES: Mode[] = ["split", "overlay", "before", "after"];
const TABS: Tab[] = ["detail", "outline", "changes", "hot", "charts"];

export function link(report: Report): string {
  const { state, graph, camera } = report;
  const parts: [string, string][] = [];
  if (graph.steps > 1) {
    parts.push(["step", String(state.step)]);
    if (state.base !== "first") parts.push(["base", state.base]);
    parts.push(["mode", state.mode]);
  }
  if (state.heat) parts.push(["heat", state.heat]);
  if (state.compact) parts.push(["compact", "1"]);
  if (state.tab !== "detail") parts.push(["tab", state.tab]);
  if (state.selected !== null) {
    if (isBox(state.selected)) parts.push(["sel", `g${itemBox(state.selected)}`]);
    else {
      const node = report.chosen();
      if (node >= 0) parts.push(["sel", `k${graph.key(node)}`]);
    }
  }
  if (state.query) parts.push(["q", state.query]);
  parts.push([
    "open",
    [...report.open]
      .filter((box) => box > 0)
      .sort((a, b) => a - b)
      .slice(0, 200)
      .join("."),
  ]);
  if (report.unstacked.size) parts.push(["copies", [...report.unstacked].sort((a, b) => a - b).join(".")]);
  parts.push(["at", [camera.x.toFixed(0), camera.y.toFixed(0), camera.zoom.toFixed(3)].join(",")]);
  return parts.map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join("&");
}

/** Takes over what a fragment says. Anything that it cannot mean here is left out. */
export function follow(report: Report, fragment: string): void {
  const said = new URLSearchParams(fragment.replace(/^#/, ""));
  if (![...said.keys()].length) return;
  const { graph } = report;
  const change: Partial<State> = {};
  const step = Number(said.get("step") ?? NaN);
  if (Number.isInteger(step) && step >= 0 && step < graph.steps) change.step = step;
  if (said.get("base") === "previous") change.base = "previous";
  const mode = MODES.find((name) => name === said.get("mode"));
  if (mode && graph.steps > 1) change.mode = mode;
  const tab = TABS.find((name) => name === said.get("tab"));
  if (tab) change.tab = tab;
  const heat = report.heats.find(({ raw }) => raw.id === said.get("heat"));
  if (heat) change.heat = heat.raw.id;
  change.compact = said.get("compact") === "1";
  const boxes = (text: string | null): number[] =>
    (text ?? "")
      .split(".")
      .map(Number)
      .filter((box) => Number.isInteger(box) && box > 0 && box < graph.boxes.all.length);
  if (said.has("open")) {
    report.open.clear();
    report.open.add(0);
    for (const box of boxes(said.get("open"))) report.open.add(box);
  }
  report.unstacked.clear();
  for (const box of boxes(said.get("copies"))) report.unstacked.add(box);
  report.relayout();
  report.set(change);
  const query = said.get("q");
  if (query) report.find(query);
  const selected = /^([gk])(-?\d+)$/.exec(said.get("sel") ?? "");
  if (selected) choose(report, selected[1], Number(selected[2]), !said.has("at"));
  const at = (said.get("at") ?? "").split(",").map(Number);
  if (at.length === 3 && at.every(Number.isFinite) && at[2] > 0) {
    report.fitted = true;
    report.look_at({ x: at[0], y: at[1], zoom: at[2] });
  }
}

function choose(report: Report, kind: string, id: number, centre: boolean): void {
  const { graph, state } = report;
  if (kind === "g") {
    if (id > 0 && id < graph.boxes.all.length) report.select(boxItem(id));
    return;
  }
  const after = graph.nodeOf(id, state.step);
  const node = after >= 0 ? after : graph.nodeOf(id, report.from);
  if (node < 0) return;
  if (centre) report.fitted = true;
  report.reveal(node, centre);
}

/** Keeps the address bar at the view. Where a page has no address (a notebook's frame), nothing happens. */
export function keepLink(report: Report): void {
  let timer = 0;
  let written = "";
  const write = (): void => {
    timer = 0;
    written = `#${link(report)}`;
    try {
      history.replaceState(null, "", written);
    } catch {
      // A sandboxed frame may not write its address.
    }
  };
  const later = (): void => {
    if (!timer) timer = window.setTimeout(write, 400);
  };
  follow(report, location.hash);
  report.subscribe(later);
  report.subscribeCamera(later);
  addEventListener("hashchange", () => {
    if (location.hash !== written) follow(report, location.hash);
  });
}
