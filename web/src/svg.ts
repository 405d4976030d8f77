/** The drawing as an SVG document, and what is seen as an SVG or PNG file. */

import { draw } from "./draw";
import { job, lit } from "./jobs";
import type { Point } from "./layout";
import {
  arrow,
  CanvasPainter,
  FONT,
  middle,
  smooth,
  type Painter,
  type Stroke,
  type TextStyle,
} from "./painter";
import type { Palette } from "./palette";
import type { Report } from "./report";
import { printable, tail } from "./text";

const round = (value: number): string => String(Math.round(value * 100) / 100);

/** Text that may stand in XML: markup escaped, characters that XML forbids left out. */
export function escapeXml(text: string): string {
  return (
    text
      // eslint-disable-next-line no-control-regex
      .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "")
      .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "")
      .replace(/&/g, "&amp;")
      .replace(/</g, "&lt;")
      .replace(/>/g, "&gt;")
      .replace(/"/g, "&quot;")
      .replace(/'/g, "&#39;")
  );
}

export class SvgPainter implements Painter {
  readonly parts: string[] = [];
  private opacity = 1;

  constructor(private readonly measure: (text: string, style: TextStyle) => number) {}

  alpha(value: number): void {
    this.opacity = value;
  }

  rect(
    x: number,
    y: number,
    width: number,
    height: number,
    radius: number,
    fill: string | null,
    stroke?: Stroke,
  ): void {
    const size = `x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}" rx="${round(radius)}"`;
    this.parts.push(`<rect ${size} fill="${fill ?? "none"}"${this.stroke(stroke)}${this.fade()}/>`);
  }

  line(points: Point[], stroke: Stroke, head: boolean): void {
    const { moves, tip, back } = smooth(points);
    const d = moves.map(([kind, ...numbers]) => `${kind}${numbers.map(round).join(" ")}`).join("");
    this.parts.push(`<path d="${d}" fill="none"${this.stroke(stroke)}${this.fade()}/>`);
    if (!head) return;
    const corners = arrow(tip, back, stroke.width)
      .map(({ x, y }) => `${round(x)},${round(y)}`)
      .join(" ");
    this.parts.push(`<polygon points="${corners}" fill="${stroke.colour}"${this.fade()}/>`);
  }

  glyph(path: string, x: number, y: number, scale: number, stroke: Stroke): void {
    const where = `transform="translate(${round(x)} ${round(y)}) scale(${round(scale)})"`;
    this.parts.push(`<path d="${path}" ${where} fill="none" stroke-linecap="round"${this.stroke(stroke)}/>`);
  }

  text(text: string, x: number, y: number, style: TextStyle): void {
    const shown = style.width === undefined ? text : middle(text, style.width, (t) => this.measure(t, style));
    const anchor = { left: "start", center: "middle", right: "end" }[style.align ?? "left"];
    const outline = style.outline
      ? ` stroke="${style.outline}" stroke-width="4" paint-order="stroke" stroke-linejoin="round"`
      : "";
    this.parts.push(
      `<text x="${round(x)}" y="${round(y + style.size * 0.35)}" font-size="${style.size}" fill="${style.colour}"` +
        `${style.bold ? ' font-weight="600"' : ""} text-anchor="${anchor}"${outline}` +
        `${style.strike ? ' text-decoration="line-through"' : ""}${this.fade()}>${escapeXml(shown)}</text>`,
    );
  }

  private stroke(stroke?: Stroke): string {
    if (!stroke) return "";
    const dash = stroke.dash?.length ? ` stroke-dasharray="${stroke.dash.join(" ")}"` : "";
    return ` stroke="${stroke.colour}" stroke-width="${round(stroke.width)}"${dash}`;
  }

  private fade(): string {
    return this.opacity < 1 ? ` opacity="${this.opacity}"` : "";
  }
}

const GAP = 12;

/** What the panes show now, side by side as on the page. */
export function viewAsSvg(report: Report, palette: Palette): string {
  const { width, height } = report.pane;
  const { sides, camera } = report;
  const whole = sides.length * width + (sides.length - 1) * GAP;
  const ctx = document.createElement("canvas").getContext("2d")!;
  const measure = (text: string, style: TextStyle): number => {
    ctx.font = `${style.bold ? "600 " : ""}${style.size}px ${FONT}`;
    return ctx.measureText(text).width;
  };
  const marks = lit(report);
  const panes = sides.map((side, i) => {
    const painter = new SvgPainter(measure);
    draw(painter, report.frame, job(report, side, palette, marks));
    const { zoom, x, y } = camera;
    const to = `translate(${round(width / 2 - x * zoom)} ${round(height / 2 - y * zoom)}) scale(${zoom.toFixed(4)})`;
    return (
      `<svg x="${round(i * (width + GAP))}" width="${round(width)}" height="${round(height)}">` +
      `<rect width="100%" height="100%" fill="${palette.paper}"/><g transform="${to}">${painter.parts.join("")}</g></svg>`
    );
  });
  const title = escapeXml(printable(report.graph.raw.title));
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${round(whole)}" height="${round(height)}" ` +
    `viewBox="0 0 ${round(whole)} ${round(height)}" font-family="${FONT}"><title>${title}</title>${panes.join("")}</svg>`
  );
}

/** The same as pixels, two for each of the screen's. */
export function viewAsPng(report: Report, palette: Palette): Promise<Blob> {
  const scale = 2;
  const { width, height } = report.pane;
  const { sides, camera } = report;
  const canvas = document.createElement("canvas");
  canvas.width = Math.round((sides.length * width + (sides.length - 1) * GAP) * scale);
  canvas.height = Math.round(height * scale);
  const ctx = canvas.getContext("2d")!;
  const marks = lit(report);
  sides.forEach((side, i) => {
    ctx.save();
    ctx.setTransform(scale, 0, 0, scale, i * (width + GAP) * scale, 0);
    ctx.beginPath();
    ctx.rect(0, 0, width, height);
    ctx.clip();
    ctx.fillStyle = palette.paper;
    ctx.fillRect(0, 0, width, height);
    const { zoom, x, y } = camera;
    ctx.translate(width / 2 - x * zoom, height / 2 - y * zoom);
    ctx.scale(zoom, zoom);
    draw(new CanvasPainter(ctx), report.frame, job(report, side, palette, marks));
    ctx.restore();
  });
  return new Promise((done, fail) =>
    canvas.toBlob(
      (blob) => (blob ? done(blob) : fail(new Error("The picture is too large for this browser."))),
      "image/png",
    ),
  );
}

export function download(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A file name made of the title: letters, digits, dots and dashes only. */
export function fileName(title: string, ending: string): string {
  const safe = tail(title)
    .replace(/[^A-Za-z0-9._-]+/g, "-")
    .replace(/^[.-]+|[.-]+$/g, "")
    .slice(0, 60);
  return `${safe || "graph"}.${ending}`;
}
