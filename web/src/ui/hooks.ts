import { useEffect, useReducer } from "preact/hooks";
import { DARK, LIGHT, type Palette } from "../palette";
import type { Report } from "../report";

/** Draws the component again whenever the state of the report changes. */
export function useReport(report: Report): void {
  const [, again] = useReducer((n: number) => n + 1, 0);
  useEffect(() => report.subscribe(() => again(undefined as never)), [report]);
}

export function isDark(report: Report): boolean {
  const { theme } = report.state;
  return theme === "dark" || (theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
}

export function palette(report: Report): Palette {
  return isDark(report) ? DARK : LIGHT;
}
