/** What is handed to the drawing for each pane, for the screen and for export alike. */

import type { Job } from "./draw";
import type { Side } from "./lens";
import type { Palette } from "./palette";
import type { Report } from "./report";
import { shownAs } from "./scene";
import { isBox, type Item } from "./layout";

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

/** The selected item, on the sides that show the selected node itself. */
function selectedOn(report: Report, side: Side): Item | null {
  const { selected } = report.state;
  if (selected === null || isBox(selected)) return selected;
  const [shown, chosen] = [report.lens.nodeIn(selected, side), report.chosen()];
  const { graph } = report;
  return shown >= 0 && chosen >= 0 && graph.key(shown) === graph.key(chosen) ? selected : null;
}

export function job(report: Report, side: Side, palette: Palette, marks: Lit): Job {
  const heat = report.heat();
  return {
    graph: report.graph,
    lens: report.lens,
    side,
    palette,
    marks: { selected: selectedOn(report, side), ...marks },
    unstacked: report.unstacked,
    tint: heat ? (item, node) => heat.tint(item, node) : null,
    bigBytes: report.bigBytes,
    view: report.view(),
    zoom: report.camera.zoom,
  };
}
