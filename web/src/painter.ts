/** What the drawing is drawn with: the canvas of a pane, or an SVG document for export. */

import type { Point } from "./layout";

export interface Stroke {
  colour: string;
  width: number;
  dash?: number[];
}

export interface Painter {
  alpha(value: number): void;
  rect(
    x: number,
    y: number,
    width: number,
    height: number,
    radius: number,
    fill: string | null,
    stroke?: Stroke,
  ): void;
  /** A smooth line through the points; with a head, an arrow at its end. */
  line(points: Point[], stroke: Stroke, head: boolean): void;
  /** A path in a box of 10 by 10, with its corner at x, y. */
  glyph(path: string, x: number, y: number, scale: number, stroke: Stroke): void;
  text(text: string, x: number, y: number, style: TextStyle): void;
}

export interface TextStyle {
  size: number;
  colour: string;
  bold?: boolean;
  align?: "left" | "center" | "right";
  /** Longer text is cut in the middle. */
  width?: number;
  /** Painted around the letters, so that they read on a line. */
  outline?: string;
  strike?: boolean;
}

export const FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', sans-serif";

const HEAD = 6;

/** Commands of a smooth line: straight to the first middle, curves between, straight to the end. */
export function smooth(points: Point[]): { moves: [string, ...number[]][]; tip: Point; back: Point } {
  const n = points.length;
  const moves: [string, ...number[]][] = [["M", points[0].x, points[0].y]];
  for (let i = 1; i < n - 1; i++) {
    const end =
      i === n - 2
        ? points[n - 1]
        : { x: (points[i].x + points[i + 1].x) / 2, y: (points[i].y + points[i + 1].y) / 2 };
    moves.push(["Q", points[i].x, points[i].y, end.x, end.y]);
  }
  if (n <= 2) moves.push(["L", points[n - 1].x, points[n - 1].y]);
  return { moves, tip: points[n - 1], back: points[n - 2] ?? points[0] };
}

export function arrow(tip: Point, back: Point, width: number): [Point, Point, Point] {
  const length = Math.hypot(tip.x - back.x, tip.y - back.y) || 1;
  const [dx, dy] = [(tip.x - back.x) / length, (tip.y - back.y) / length];
  const size = HEAD + width;
  const half = size * 0.45;
  return [
    tip,
    { x: tip.x - dx * size - dy * half, y: tip.y - dy * size + dx * half },
    { x: tip.x - dx * size + dy * half, y: tip.y - dy * size - dx * half },
  ];
}

export class CanvasPainter implements Painter {
  private readonly cut = new Map<string, string>();
  private readonly paths = new Map<string, Path2D>();

  constructor(private readonly ctx: CanvasRenderingContext2D) {}

  alpha(value: number): void {
    this.ctx.globalAlpha = value;
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
    const { ctx } = this;
    ctx.beginPath();
    if (radius > 0) ctx.roundRect(x, y, width, height, radius);
    else ctx.rect(x, y, width, height);
    if (fill) {
      ctx.fillStyle = fill;
      ctx.fill();
    }
    if (stroke) this.stroke(stroke);
  }

  line(points: Point[], stroke: Stroke, head: boolean): void {
    const { ctx } = this;
    const { moves, tip, back } = smooth(points);
    ctx.beginPath();
    for (const [kind, a, b, c, d] of moves) {
      if (kind === "M") ctx.moveTo(a, b);
      else if (kind === "L") ctx.lineTo(a, b);
      else ctx.quadraticCurveTo(a, b, c, d);
    }
    this.stroke(stroke);
    if (!head) return;
    const [p, q, r] = arrow(tip, back, stroke.width);
    ctx.beginPath();
    ctx.moveTo(p.x, p.y);
    ctx.lineTo(q.x, q.y);
    ctx.lineTo(r.x, r.y);
    ctx.closePath();
    ctx.fillStyle = stroke.colour;
    ctx.fill();
  }

  glyph(path: string, x: number, y: number, scale: number, stroke: Stroke): void {
    const { ctx } = this;
    let shape = this.paths.get(path);
    if (!shape) this.paths.set(path, (shape = new Path2D(path)));
    ctx.save();
    ctx.translate(x, y);
    ctx.scale(scale, scale);
    ctx.strokeStyle = stroke.colour;
    ctx.lineWidth = stroke.width / scale;
    ctx.lineCap = "round";
    ctx.setLineDash([]);
    ctx.stroke(shape);
    ctx.restore();
  }

  text(text: string, x: number, y: number, style: TextStyle): void {
    const { ctx } = this;
    ctx.font = `${style.bold ? "600 " : ""}${style.size}px ${FONT}`;
    ctx.textAlign = style.align ?? "left";
    ctx.textBaseline = "middle";
    const shown = style.width === undefined ? text : this.fit(text, style.width, ctx.font);
    if (style.outline) {
      ctx.strokeStyle = style.outline;
      ctx.lineWidth = 4;
      ctx.lineJoin = "round";
      ctx.setLineDash([]);
      ctx.strokeText(shown, x, y);
    }
    ctx.fillStyle = style.colour;
    ctx.fillText(shown, x, y);
    if (!style.strike) return;
    const width = ctx.measureText(shown).width;
    const left = style.align === "center" ? x - width / 2 : style.align === "right" ? x - width : x;
    ctx.fillRect(left, y - 0.5, width, 1.2);
  }

  private fit(text: string, width: number, font: string): string {
    const id = `${font}|${Math.round(width)}|${text}`;
    let short = this.cut.get(id);
    if (short === undefined) {
      short = middle(text, width, (s) => this.ctx.measureText(s).width);
      if (this.cut.size > 20000) this.cut.clear();
      this.cut.set(id, short);
    }
    return short;
  }

  private stroke(stroke: Stroke): void {
    const { ctx } = this;
    ctx.strokeStyle = stroke.colour;
    ctx.lineWidth = stroke.width;
    ctx.setLineDash(stroke.dash ?? []);
    ctx.stroke();
  }
}

/** The text without its middle, so that it is at most this wide. */
export function middle(text: string, width: number, measure: (text: string) => number): string {
  const chars = [...text.slice(0, 300)];
  if (chars.length === [...text].length && measure(text) <= width) return text;
  let [low, high] = [0, chars.length];
  const cut = (keep: number): string =>
    keep <= 0
      ? "…"
      : `${chars.slice(0, Math.ceil(keep / 2)).join("")}…${chars.slice(chars.length - Math.floor(keep / 2)).join("")}`;
  while (low < high) {
    const half = Math.ceil((low + high) / 2);
    if (measure(cut(half)) <= width) low = half;
    else high = half - 1;
  }
  return cut(low);
}
