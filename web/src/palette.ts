/** Colours of the drawing. Statuses follow Okabe and Ito, so that all readers tell them apart. */

import type { Status } from "./types";

export interface Look {
  border: string;
  fill: string;
  width: number;
  dash: number[];
  double?: boolean;
}

export interface Palette {
  dark: boolean;
  paper: string;
  frame: string[];
  frameBorder: string;
  node: string;
  ink: string;
  faint: string;
  edge: string;
  big: string;
  accent: string;
  halo: string;
  found: string;
  box: string;
  io: string;
  status: Record<Status, Look>;
}

const border = (colours: Record<Status, [string, string]>): Record<Status, Look> => ({
  same: { border: colours.same[0], fill: colours.same[1], width: 1, dash: [] },
  changed: { border: colours.changed[0], fill: colours.changed[1], width: 1.8, dash: [7, 3] },
  fused: { border: colours.fused[0], fill: colours.fused[1], width: 1.2, dash: [], double: true },
  removed: { border: colours.removed[0], fill: colours.removed[1], width: 1.8, dash: [2, 3] },
  added: { border: colours.added[0], fill: colours.added[1], width: 2.6, dash: [] },
});

export const LIGHT: Palette = {
  dark: false,
  paper: "#f6f7f9",
  frame: ["#ffffff", "#f3f5f8"],
  frameBorder: "#c3cad4",
  node: "#ffffff",
  ink: "#1b2230",
  faint: "#566072",
  edge: "#8d97a6",
  big: "#a86400",
  accent: "#1f4fd8",
  halo: "rgba(31,79,216,0.20)",
  found: "#b58900",
  box: "#e9edf3",
  io: "#dfe6f1",
  status: border({
    same: ["#9aa4b2", "#ffffff"],
    changed: ["#0072b2", "#e1f0fa"],
    fused: ["#a23c7d", "#f9e6f1"],
    removed: ["#c44d00", "#fdebdf"],
    added: ["#007a5a", "#dff4ec"],
  }),
};

export const DARK: Palette = {
  dark: true,
  paper: "#12161d",
  frame: ["#1a202a", "#161b23"],
  frameBorder: "#3c4757",
  node: "#252d3a",
  ink: "#e8ecf2",
  faint: "#a5b0c0",
  edge: "#66748a",
  big: "#e6ad4e",
  accent: "#8fb2ff",
  halo: "rgba(143,178,255,0.28)",
  found: "#f0c84b",
  box: "#2b3442",
  io: "#2b3850",
  status: border({
    same: ["#5f6d82", "#252d3a"],
    changed: ["#56b4e9", "#173348"],
    fused: ["#e493c4", "#402338"],
    removed: ["#ff9a5c", "#432717"],
    added: ["#35c99d", "#143a2e"],
  }),
};

/** One glyph each, as a path in a box of 10 by 10. */
export const GLYPHS: Record<Status, string> = {
  same: "M2 3.7H8M2 6.3H8",
  changed: "M1.5 6C3 2.6 4.4 3.4 5 5S7 7.4 8.5 4",
  fused: "M2 1.5L5 5M8 1.5L5 5M5 5V8.8",
  removed: "M2.2 2.2L7.8 7.8M7.8 2.2L2.2 7.8",
  added: "M5 1.5V8.5M1.5 5H8.5",
};

// Cividis, by Nuñez, Anderton and Renslow: even in lightness for colour-blind readers too.
const CIVIDIS = [
  [0, 34, 78],
  [18, 53, 112],
  [59, 73, 109],
  [87, 93, 109],
  [112, 113, 115],
  [138, 134, 120],
  [165, 156, 116],
  [195, 179, 105],
  [225, 204, 85],
  [254, 232, 56],
];

/** Colour of t in 0..1, and the ink that reads on it. */
export function heatColour(t: number): { fill: string; ink: string } {
  const at = Math.max(0, Math.min(1, t)) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
  const mix = CIVIDIS[low].map((c, i) => Math.round(c + (CIVIDIS[low + 1][i] - c) * (at - low)));
  return { fill: `rgb(${mix.join(",")})`, ink: t > 0.45 ? "#111111" : "#ffffff" };
}

export const CATEGORIES = [
  "#0072b2",
  "#e69f00",
  "#009e73",
  "#cc79a7",
  "#d55e00",
  "#56b4e9",
  "#7f7f7f",
  "#f0e442",
];
export const CATEGORY_COUNT = CATEGORIES.length;

export function categoryColour(index: number): { fill: string; ink: string } {
  const fill = CATEGORIES[index % CATEGORIES.length];
  return { fill, ink: ["#e69f00", "#56b4e9", "#f0e442", "#cc79a7"].includes(fill) ? "#111111" : "#ffffff" };
}
