/** All keys of the page in one table, which the help shows too. */

import { isBox, itemBox } from "./layout";
import type { Mode, Report } from "./report";
import { nextChange, outwards, walk } from "./walk";

export interface Binding {
  keys: string[];
  label: string;
  about: string;
  section: "Steps" | "View" | "Graph" | "Search and panels";
  run: (report: Report) => void;
}

const mode =
  (name: Mode) =>
  (report: Report): void => {
    if (report.graph.steps > 1) report.set({ mode: name });
  };

const focus = (selector: string): void => document.querySelector<HTMLElement>(selector)?.focus();

export const BINDINGS: Binding[] = [
  { keys: ["j"], label: "j", about: "Next step", section: "Steps", run: (r) => r.step(1) },
  { keys: ["k"], label: "k", about: "Previous step", section: "Steps", run: (r) => r.step(-1) },
  { keys: ["Home"], label: "Home", about: "First step", section: "Steps", run: (r) => r.set({ step: 0 }) },
  {
    keys: ["End"],
    label: "End",
    about: "Last step",
    section: "Steps",
    run: (r) => r.set({ step: r.graph.steps - 1 }),
  },
  {
    keys: ["b"],
    label: "b",
    about: "Compare with the original, or with the step before",
    section: "Steps",
    run: (r) => r.set({ base: r.state.base === "first" ? "previous" : "first" }),
  },
  {
    keys: ["u"],
    label: "u",
    about: "Hide or show steps that changed nothing",
    section: "Steps",
    run: (r) => r.set({ hideUnchanged: !r.state.hideUnchanged }),
  },
  { keys: ["1"], label: "1", about: "Side by side", section: "View", run: mode("split") },
  { keys: ["2"], label: "2", about: "Overlay", section: "View", run: mode("overlay") },
  { keys: ["3"], label: "3", about: "Before only", section: "View", run: mode("before") },
  { keys: ["4"], label: "4", about: "After only", section: "View", run: mode("after") },
  { keys: ["+", "="], label: "+", about: "Zoom in", section: "View", run: (r) => r.zoomBy(1.25) },
  { keys: ["-", "_"], label: "−", about: "Zoom out", section: "View", run: (r) => r.zoomBy(0.8) },
  { keys: ["f"], label: "f", about: "Fit the whole graph", section: "View", run: (r) => r.fit() },
  { keys: ["0"], label: "0", about: "Top of the graph, readable", section: "View", run: (r) => r.home() },
  { keys: ["w"], label: "w", about: "Pan up", section: "View", run: (r) => r.panBy(0, -120) },
  { keys: ["s"], label: "s", about: "Pan down", section: "View", run: (r) => r.panBy(0, 120) },
  { keys: ["a"], label: "a", about: "Pan left", section: "View", run: (r) => r.panBy(-120, 0) },
  { keys: ["d"], label: "d", about: "Pan right", section: "View", run: (r) => r.panBy(120, 0) },
  { keys: ["h"], label: "h", about: "Next heat map", section: "View", run: nextHeat },
  {
    keys: ["l"],
    label: "l",
    about: "Keep places, or draw compactly",
    section: "View",
    run: (r) => r.setCompact(!r.state.compact),
  },
  {
    keys: ["m"],
    label: "m",
    about: "Minimap",
    section: "View",
    run: (r) => r.set({ minimap: !r.state.minimap }),
  },
  { keys: ["t"], label: "t", about: "Light or dark", section: "View", run: (r) => r.toggleTheme() },
  {
    keys: ["ArrowUp"],
    label: "↑",
    about: "What feeds the selection",
    section: "Graph",
    run: (r) => walk(r, "up"),
  },
  {
    keys: ["ArrowDown"],
    label: "↓",
    about: "What the selection feeds",
    section: "Graph",
    run: (r) => walk(r, "down"),
  },
  {
    keys: ["ArrowLeft"],
    label: "←",
    about: "Neighbour to the left",
    section: "Graph",
    run: (r) => walk(r, "left"),
  },
  {
    keys: ["ArrowRight"],
    label: "→",
    about: "Neighbour to the right",
    section: "Graph",
    run: (r) => walk(r, "right"),
  },
  {
    keys: ["Enter", " "],
    label: "Enter",
    about: "Expand or collapse the selected group",
    section: "Graph",
    run: enter,
  },
  { keys: ["g"], label: "g", about: "The group around the selection", section: "Graph", run: outwards },
  {
    keys: ["x"],
    label: "x",
    about: "Show the copies of a repeated block one by one",
    section: "Graph",
    run: copies,
  },
  { keys: ["e"], label: "e", about: "Expand one more level", section: "Graph", run: (r) => r.expandMore() },
  { keys: ["c"], label: "c", about: "Collapse everything", section: "Graph", run: (r) => r.collapseAll() },
  { keys: ["]"], label: "]", about: "Next change", section: "Graph", run: (r) => nextChange(r, 1) },
  { keys: ["["], label: "[", about: "Previous change", section: "Graph", run: (r) => nextChange(r, -1) },
  { keys: ["/"], label: "/", about: "Search", section: "Search and panels", run: () => focus("#search") },
  { keys: ["n"], label: "n", about: "Next match", section: "Search and panels", run: (r) => r.nextMatch(1) },
  {
    keys: ["N", "p"],
    label: "N",
    about: "Previous match",
    section: "Search and panels",
    run: (r) => r.nextMatch(-1),
  },
  {
    keys: ["i"],
    label: "i",
    about: "Show or hide the side panel",
    section: "Search and panels",
    run: (r) => r.set({ panel: !r.state.panel }),
  },
  { keys: ["r"], label: "r", about: "Outline (tree and table)", section: "Search and panels", run: outline },
  {
    keys: ["?"],
    label: "?",
    about: "These keys",
    section: "Search and panels",
    run: (r) => r.set({ help: !r.state.help }),
  },
  {
    keys: ["Escape"],
    label: "Esc",
    about: "Close, or select nothing",
    section: "Search and panels",
    run: escape,
  },
];

function nextHeat(report: Report): void {
  const ids = [null, ...report.heats.map((heat) => heat.raw.id)];
  report.set({ heat: ids[(ids.indexOf(report.state.heat) + 1) % ids.length] });
}

function enter(report: Report): void {
  const { selected } = report.state;
  if (selected !== null && isBox(selected)) report.toggle(itemBox(selected));
  else if (selected !== null) {
    report.set({ panel: true, tab: "detail" });
    requestAnimationFrame(() => focus("#panel"));
  }
}

function copies(report: Report): void {
  const { selected } = report.state;
  if (selected !== null && isBox(selected)) report.unstack(itemBox(selected));
}

function outline(report: Report): void {
  report.set({ panel: true, tab: "outline" });
  requestAnimationFrame(() => focus("#panel [role=treeitem][tabindex='0'], #panel"));
}

function escape(report: Report): void {
  if (report.state.help) report.set({ help: false });
  else if (report.state.selected !== null) report.select(null);
  else if (report.state.query) report.find("");
}

/** Keys that mean something else inside lists, sliders and trees. */
const LOCAL = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Enter", " ", "Home", "End"];

export function listen(report: Report): () => void {
  const onKey = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target as HTMLElement;
    const typing =
      target instanceof HTMLInputElement && target.type !== "range" && target.type !== "checkbox";
    if (typing || target instanceof HTMLSelectElement || target instanceof HTMLTextAreaElement) return;
    const onGraph = target === document.body || target instanceof HTMLCanvasElement;
    if (!onGraph && LOCAL.includes(event.key)) return;
    if (report.state.help && event.key !== "Escape" && event.key !== "?") return;
    const binding = BINDINGS.find(({ keys }) => keys.includes(event.key));
    if (!binding) return;
    event.preventDefault();
    binding.run(report);
  };
  document.addEventListener("keydown", onKey);
  return () => document.removeEventListener("keydown", onKey);
}
