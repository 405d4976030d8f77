/** The state of the page, and all that can be done to it. Panels and panes redraw when it says so. */

import { Graph } from "./graph";
import { HeatMap } from "./heat";
import { boxItem, isBox, itemBox, type Item } from "./layout";
import { Lens, type Side } from "./lens";
import { find, shownAs, Stage, type Frame, type Rect } from "./scene";
import { Search } from "./search";
import type { RawView } from "./types";

export type Mode = "split" | "overlay" | "before" | "after";
export type Tab = "detail" | "outline" | "changes" | "hot" | "charts";

export interface State {
  mode: Mode;
  /** The step shown; compared with `from`, or with the step before it. */
  step: number;
  base: "first" | "previous";
  hideUnchanged: boolean;
  compact: boolean;
  heat: string | null;
  tab: Tab;
  panel: boolean;
  minimap: boolean;
  help: boolean;
  theme: "light" | "dark" | "auto";
  selected: Item | null;
  /** Which node of the selected place: two steps may have different ones there. */
  node: number;
  query: string;
  match: number;
  message: string;
}

export interface Camera {
  /** The point of the world at the middle of each pane, and pixels for each unit of the world. */
  x: number;
  y: number;
  zoom: number;
}

/** Items shown at first, at most. */
const ROOM = 70;
/** Pixels left around a graph that is fitted. */
const MARGIN = 40;
const READABLE = 0.72;
export const ZOOM_RANGE = [0.02, 4] as const;

export class Report {
  readonly graph: Graph;
  readonly stage: Stage;
  readonly search: Search;
  readonly heats: HeatMap[];
  readonly open = new Set<number>([0]);
  readonly unstacked = new Set<number>();
  readonly bigBytes: number;
  state: State;
  camera: Camera = { x: 0, y: 0, zoom: 1 };
  /** Size of one pane in pixels, told by the panes. */
  pane = { width: 800, height: 600 };
  lens: Lens;
  frame: Frame;
  found: number[] = [];
  /** True once a match of this search was shown. */
  jumped = false;
  /** Set once the first pane knows its size. */
  fitted = false;
  private readonly onState: (() => void)[] = [];
  private readonly onCamera: (() => void)[] = [];
  private readonly lenses = new Map<string, Lens>();

  constructor(view: RawView) {
    this.graph = new Graph(view);
    this.stage = new Stage(this.graph);
    this.search = new Search(this.graph);
    this.heats = (view.heat ?? []).map((heat) => new HeatMap(this.graph, heat));
    this.bigBytes = bigTensor(this.graph);
    this.state = {
      mode: this.graph.steps > 1 ? "split" : "after",
      step: this.graph.settled || this.graph.steps - 1,
      base: "first",
      hideUnchanged: true,
      compact: false,
      heat: null,
      tab: "detail",
      panel: true,
      minimap: true,
      help: false,
      theme: "auto",
      selected: null,
      node: -1,
      query: "",
      match: 0,
      message: "",
    };
    this.lens = this.makeLens();
    this.openSome();
    this.frame = this.stage.frame(this.look());
  }

  subscribe(listener: () => void): () => void {
    this.onState.push(listener);
    return () => void this.onState.splice(this.onState.indexOf(listener), 1);
  }

  subscribeCamera(listener: () => void): () => void {
    this.onCamera.push(listener);
    return () => void this.onCamera.splice(this.onCamera.indexOf(listener), 1);
  }

  get from(): number {
    return this.state.base === "first" ? 0 : Math.max(0, this.state.step - 1);
  }

  get sides(): Side[] {
    const { mode } = this.state;
    return mode === "split" ? ["before", "after"] : mode === "overlay" ? ["both"] : [mode];
  }

  look(): { open: Set<number>; unstacked: Set<number>; only: [number, number] | null } {
    const only: [number, number] | null = this.state.compact ? [this.from, this.state.step] : null;
    return { open: this.open, unstacked: this.unstacked, only };
  }

  set(change: Partial<State>): void {
    const old = this.state;
    this.state = { ...old, ...change };
    const { state } = this;
    if (state.step !== old.step || state.base !== old.base) {
      this.lens = this.makeLens();
      if (state.query) this.found = this.search.find(state.query, this.from, state.step);
      if (state.selected !== null && !isBox(state.selected) && this.chosen() < 0) this.state.selected = null;
    }
    const moved = state.compact !== old.compact;
    if (
      moved ||
      (state.compact && this.lens !== undefined && (state.step !== old.step || state.base !== old.base))
    ) {
      this.relayout();
    }
    this.tell();
  }

  step(by: number): void {
    const { steps } = this.graph.raw;
    let { step } = this.state;
    do step += by;
    while (this.state.hideUnchanged && step > 0 && steps[step] && !steps[step].changed);
    if (steps[step]) this.set({ step, message: "" });
  }

  select(item: Item | null, side: Side = "both"): void {
    this.choose(item, item === null || isBox(item) ? -1 : this.lens.nodeIn(item, side));
  }

  private choose(selected: Item | null, node: number): void {
    this.state = { ...this.state, selected, node };
    this.set(selected === null ? { message: "" } : { tab: "detail", message: this.describe(selected) });
  }

  /** The selected node as it is at the steps shown, or -1. */
  chosen(): number {
    const { selected, node } = this.state;
    if (selected === null || isBox(selected)) return -1;
    if (node >= 0 && this.graph.slot[node] === selected) {
      if (this.lens.lives(node, "both")) return node;
      const key = this.graph.key(node);
      for (const step of [this.state.step, this.from]) {
        const version = this.graph.nodeOf(key, step);
        if (version >= 0 && this.graph.slot[version] === selected) return version;
      }
    }
    return this.lens.nodeIn(selected, "both");
  }

  /** Selects a node, opens the boxes around it, and moves it into view. */
  reveal(node: number, centre = true): void {
    const slot = this.graph.slot[node];
    const { boxes } = this.graph;
    for (const box of boxes.around(boxes.ofSlot[slot])) {
      const { template } = boxes.get(box);
      if (template >= 0 && template !== box) this.unstacked.add(template);
      this.open.add(box);
    }
    this.relayout();
    this.choose(slot, node);
    if (centre) this.showItem(slot);
  }

  revealBox(box: number): void {
    const { boxes } = this.graph;
    for (const outer of boxes.around(box)) {
      const { template } = boxes.get(outer);
      if (template >= 0 && template !== outer) this.unstacked.add(template);
      if (outer !== box) this.open.add(outer);
    }
    this.relayout();
    this.select(boxItem(box));
    this.showItem(boxItem(box));
  }

  showItem(item: Item): void {
    const rect = find(this.frame, item);
    if (!rect) return;
    const zoom = Math.max(this.camera.zoom, Math.min(0.9, this.pane.width / (rect.width * 1.2)));
    const fits = rect.width * zoom < this.pane.width && rect.height * zoom < this.pane.height;
    const scale = fits
      ? zoom
      : Math.min(this.pane.width / (rect.width + 40), this.pane.height / (rect.height + 40));
    this.look_at({ x: rect.x + rect.width / 2, y: rect.y + rect.height / 2, zoom: scale });
  }

  toggle(box: number): void {
    if (box === 0) return;
    const before = find(this.frame, boxItem(box));
    if (this.open.has(box)) this.open.delete(box);
    else this.open.add(box);
    this.relayout();
    // What was clicked stays where it was.
    const after = find(this.frame, boxItem(box));
    if (before && after) {
      this.camera = {
        ...this.camera,
        x: this.camera.x + after.x - before.x,
        y: this.camera.y + after.y - before.y,
      };
    }
    const { label } = this.graph.boxes.get(box);
    this.set({ message: `${label} ${this.open.has(box) ? "expanded" : "collapsed"}` });
    this.tellCamera();
  }

  /** Shows the copies of a repeated block one by one, or as one again. */
  unstack(box: number): void {
    const { template } = this.graph.boxes.get(box);
    if (template < 0) return;
    if (this.unstacked.has(template)) this.unstacked.delete(template);
    else this.unstacked.add(template);
    this.relayout();
    this.set({ selected: boxItem(template) });
    this.showItem(boxItem(template));
  }

  collapseAll(): void {
    this.open.clear();
    this.open.add(0);
    this.unstacked.clear();
    this.relayout();
    this.set({ message: "All groups collapsed" });
    this.home();
  }

  /** Opens one more level of boxes, at most as many as can be laid out while somebody waits. */
  expandMore(): void {
    const { boxes } = this.graph;
    const closed: number[] = [];
    const visit = [0];
    for (const id of visit) {
      for (const child of boxes.get(id).boxes) {
        if (this.open.has(child)) visit.push(child);
        else if (!boxes.isCopy(child) || this.unstacked.has(boxes.get(child).template)) closed.push(child);
      }
    }
    const some = closed.slice(0, 60);
    for (const id of some) this.open.add(id);
    this.relayout();
    const rest = closed.length - some.length;
    this.set({
      message: closed.length
        ? `${some.length} groups expanded${rest ? `, ${rest} more wait` : ""}`
        : "Everything is expanded",
    });
    this.home();
  }

  find(query: string): void {
    this.found = query.trim() ? this.search.find(query, this.from, this.state.step) : [];
    this.jumped = false;
    const hits = `${this.found.length} ${this.found.length === 1 ? "match" : "matches"}`;
    this.set({ query, match: 0, message: query.trim() ? hits : "" });
  }

  nextMatch(by: number): void {
    if (!this.found.length) return;
    this.jumped = true;
    const match = (this.state.match + by + this.found.length) % this.found.length;
    this.state = { ...this.state, match };
    this.reveal(this.found[match]);
  }

  /** The whole graph in one view. */
  fit(): void {
    const { width, height } = this.frame;
    const zoom = Math.min((this.pane.width - MARGIN) / width, (this.pane.height - MARGIN) / height, 1.1);
    this.look_at({ x: width / 2, y: height / 2, zoom });
  }

  /** The whole graph if it can be read so, else its top at a size that can. */
  home(): void {
    const { width, height } = this.frame;
    const zoom = Math.min((this.pane.width - MARGIN) / width, (this.pane.height - MARGIN) / height, 1.1);
    if (zoom >= READABLE) {
      this.fit();
      return;
    }
    const scale = Math.min(READABLE, Math.max((this.pane.width - MARGIN) / width, READABLE / 2));
    this.look_at({ x: width / 2, y: (this.pane.height / 2 - 8) / scale, zoom: scale });
  }

  setCompact(compact: boolean): void {
    this.set({ compact });
    if (this.state.selected !== null) this.showItem(this.state.selected);
    else this.home();
  }

  toggleTheme(): void {
    const dark = document.documentElement.dataset.theme === "dark";
    this.set({ theme: dark ? "light" : "dark" });
  }

  look_at(camera: Camera): void {
    const zoom = Math.max(ZOOM_RANGE[0], Math.min(ZOOM_RANGE[1], camera.zoom));
    this.camera = { ...camera, zoom };
    this.tellCamera();
  }

  zoomBy(factor: number, at?: { x: number; y: number }): void {
    const { x, y, zoom } = this.camera;
    const next = Math.max(ZOOM_RANGE[0], Math.min(ZOOM_RANGE[1], zoom * factor));
    const keep = at ?? { x, y };
    this.look_at({
      x: keep.x + ((x - keep.x) * zoom) / next,
      y: keep.y + ((y - keep.y) * zoom) / next,
      zoom: next,
    });
  }

  panBy(dx: number, dy: number): void {
    const { x, y, zoom } = this.camera;
    this.look_at({ x: x + dx / zoom, y: y + dy / zoom, zoom });
  }

  /** Part of the world that a pane shows. */
  view(): Rect {
    const { x, y, zoom } = this.camera;
    const [width, height] = [this.pane.width / zoom, this.pane.height / zoom];
    return { x: x - width / 2, y: y - height / 2, width, height };
  }

  /** Nodes to light up with the selection: what it came from and what came of it, on both sides. */
  related(): number[] {
    const node = this.chosen();
    if (node < 0) return [];
    const { heirs, origins } = this.lens.diff;
    return [...new Set([...(heirs.get(node) ?? []), ...(origins.get(node) ?? [])])];
  }

  itemsOf(nodes: Iterable<number>): Set<Item> {
    const look = this.look();
    const items = new Set<Item>();
    for (const node of nodes) items.add(shownAs(this.graph, this.graph.slot[node], look));
    return items;
  }

  heat(): HeatMap | null {
    return this.heats.find((heat) => heat.raw.id === this.state.heat) ?? null;
  }

  describe(item: Item): string {
    const { graph } = this;
    if (isBox(item)) {
      const box = graph.boxes.get(itemBox(item));
      return `group ${box.label}, ${box.size} nodes`;
    }
    const node = item === this.state.selected ? this.chosen() : this.lens.nodeIn(item, "both");
    if (node < 0) return "";
    const status = this.lens.plain ? "" : `, ${this.lens.status(node, "both")}`;
    return `${graph.op(node)} ${graph.name(node).slice(0, 120)}${status}`;
  }

  relayout(): void {
    this.frame = this.stage.frame(this.look());
  }

  tell(): void {
    for (const listener of [...this.onState]) listener();
  }

  tellCamera(): void {
    for (const listener of [...this.onCamera]) listener();
  }

  private makeLens(): Lens {
    const id = `${this.from}:${this.state.step}`;
    let lens = this.lenses.get(id);
    if (!lens) {
      if (this.lenses.size > 8) this.lenses.clear();
      this.lenses.set(id, (lens = new Lens(this.graph, this.from, this.state.step)));
    }
    return lens;
  }

  /** Opens the outermost boxes while the page stays easy to take in. */
  private openSome(): void {
    const { boxes } = this.graph;
    const items = (id: number): number => {
      const box = boxes.get(id);
      return box.slots.length + box.boxes.filter((child) => !boxes.isCopy(child)).length;
    };
    let shown = items(0);
    let level = [0];
    const levels: number[][] = [];
    while (level.length) {
      const next: number[] = [];
      for (const id of level) next.push(...boxes.get(id).boxes.filter((child) => !boxes.isCopy(child)));
      next.sort((a, b) => items(a) - items(b));
      level = [];
      for (const id of next) {
        if (shown + items(id) - 1 > ROOM) continue;
        this.open.add(id);
        shown += items(id) - 1;
        level.push(id);
      }
      levels.push(level);
    }
    // Wide graphs are closed again until they can be read without panning far.
    const room = (globalThis.innerWidth || 1440) * (this.sides.length > 1 ? 0.75 : 1.3);
    while (levels.length > 1 && this.stage.frame(this.look()).width > room) {
      for (const id of levels.pop()!) this.open.delete(id);
    }
  }
}

/** Tensors of this size stand out: the largest tenth of the activations, and never less than 1 KiB. */
function bigTensor(graph: Graph): number {
  const sizes = graph.values.filter((v) => v.k !== "init" && (v.b ?? 0) > 0).map((v) => v.b!);
  if (!sizes.length) return Infinity;
  sizes.sort((a, b) => a - b);
  const limit = sizes[Math.floor(sizes.length * 0.9)];
  return Math.max(1024, 2 ** Math.ceil(Math.log2(limit)));
}
