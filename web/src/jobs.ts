/** What is handed to the drawing for each pane, for the screen and for export alike. */

import type { Job } from "./draw";
import type { Side } from "./lens";
import type { Palette } from "./palette";
import type { Report } from "./report";
import { shownAs } from "./scene";
import type { Item } from "./layout";

export interface Lit {
  related: Set<Item>;
  found: Set<Item>;
  current: Item | null;
}

/** Marks of the selection and the search; the same for all panes until the state changes. */
export function lit(report: Report): Lit {
  const { found, state } = report;
  const look = report.look();
  const current =
    state.query && found.length ? shownAs(report.graph, report.graph.slot[found[state.match]], look) : null;
  return {
    related: report.itemsOf(report.related()),
    found: report.itemsOf(state.query ? found : []),
    current,
  };
}

export function job(report: Report, side: Side, palette: Palette, marks: Lit): Job {
  const heat = report.heat();
  return {
    graph: report.graph,
    lens: report.lens,
    side,
    palette,
    marks: { selected: report.state.selected, ...marks },
    unstacked: report.unstacked,
    tint: heat ? (item, node) => heat.tint(item, node) : null,
    bigBytes: report.bigBytes,
    view: report.view(),
    zoom: report.camera.zoom,
  };
}
