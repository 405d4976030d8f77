/** `window.graphopt`: what is drawn where, for scripts and tests that cannot read a canvas. Read only. */

import { isBox, itemBox, type Item } from "./layout";
import type { Side } from "./lens";
import type { Report } from "./report";
import { allFrames } from "./scene";

export interface Drawn {
  kind: "node" | "group";
  name: string;
  op: string;
  key: number;
  status: string;
  open: boolean;
  /** In pixels from the corner of the page's window. */
  x: number;
  y: number;
  width: number;
  height: number;
}

export function handle(report: Report) {
  const describe = (item: Item, side: Side): Omit<Drawn, "x" | "y" | "width" | "height"> | null => {
    const { graph, lens } = report;
    if (isBox(item)) {
      const id = itemBox(item);
      if (!lens.inBox(id, side, true).nodes) return null;
      const name = graph.boxes.path(id);
      return { kind: "group", name, op: "", key: id, status: "", open: report.open.has(id) };
    }
    const node = lens.nodeIn(item, side);
    if (node < 0) return null;
    const status = lens.plain ? "" : lens.status(node, side);
    return {
      kind: "node",
      name: graph.name(node),
      op: graph.op(node),
      key: graph.key(node),
      status,
      open: false,
    };
  };
  return {
    /** Everything that a pane draws, in view or not. */
    drawn(side: Side): Drawn[] {
      const canvas = document.querySelector(`canvas[data-side="${side}"]`);
      if (!canvas) return [];
      const page = canvas.getBoundingClientRect();
      const { x, y, zoom } = report.camera;
      const all: Drawn[] = [];
      const add = (item: Item, rect: { x: number; y: number; width: number; height: number }): void => {
        const what = describe(item, side);
        if (!what) return;
        const left = page.left + page.width / 2 + (rect.x - x) * zoom;
        const top = page.top + page.height / 2 + (rect.y - y) * zoom;
        all.push({ ...what, x: left, y: top, width: rect.width * zoom, height: rect.height * zoom });
      };
      for (const frame of allFrames(report.frame)) {
        if (frame.box > 0) add(-1 - frame.box, frame);
        for (const { item, rect } of frame.items) add(item, rect);
      }
      return all;
    },
    /** Names of the nodes that are lit up with the selection. */
    lit: (): string[] => report.related().map((node) => report.graph.name(node)),
    selected: (): string => (report.state.selected === null ? "" : report.describe(report.state.selected)),
    camera: () => ({ ...report.camera }),
    state: () => ({ ...report.state, from: report.from, matches: report.found.length }),
    /** Draws all panes `count` times while the camera moves; milliseconds of each frame. */
    async pan(count: number): Promise<number[]> {
      const times: number[] = [];
      let last = 0;
      const frame = (): Promise<number> => new Promise((done) => requestAnimationFrame(done));
      for (let i = 0; i <= count; i++) {
        report.panBy(0, i % 40 < 20 ? 24 : -24);
        const now = await frame();
        if (i > 0) times.push(now - last);
        last = now;
      }
      return times;
    },
  };
}
