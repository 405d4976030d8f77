import { useEffect, useRef } from "preact/hooks";
import { draw } from "../draw";
import { job, lit, type Lit } from "../jobs";
import { HEADER, isBox, itemBox, type Point } from "../layout";
import type { Side } from "../lens";
import { CanvasPainter } from "../painter";
import type { Report } from "../report";
import { hit } from "../scene";
import { palette } from "./hooks";

const TITLES: Record<Side, string> = { before: "Before", after: "After", both: "Before and after" };

/** One canvas. All panes share the camera, so that they move together. */
export class PaneView {
  private readonly painter: CanvasPainter;
  private readonly ctx: CanvasRenderingContext2D;
  private marks: Lit | null = null;
  private waiting = 0;
  private readonly stop: (() => void)[] = [];
  private pinch = new Map<number, Point>();
  private moved = 0;

  constructor(
    private readonly report: Report,
    private readonly canvas: HTMLCanvasElement,
    private readonly side: Side,
  ) {
    this.ctx = canvas.getContext("2d")!;
    this.painter = new CanvasPainter(this.ctx);
    const size = new ResizeObserver(() => this.resize());
    size.observe(canvas);
    this.stop.push(() => size.disconnect());
    this.stop.push(
      report.subscribe(() => {
        this.marks = null;
        this.later();
      }),
    );
    this.stop.push(report.subscribeCamera(() => this.later()));
    this.listen();
    this.resize();
  }

  close(): void {
    cancelAnimationFrame(this.waiting);
    for (const stop of this.stop) stop();
  }

  private later(): void {
    if (!this.waiting) this.waiting = requestAnimationFrame(() => this.draw());
  }

  private resize(): void {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    const first = !this.report.fitted;
    this.report.pane = { width: clientWidth, height: clientHeight };
    if (first) {
      this.report.fitted = true;
      this.report.home();
    }
    this.draw();
  }

  private draw(): void {
    this.waiting = 0;
    const { report, ctx, canvas } = this;
    const { x, y, zoom } = report.camera;
    const ratio = devicePixelRatio || 1;
    const colours = palette(report);
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.fillStyle = colours.paper;
    ctx.fillRect(0, 0, canvas.width, canvas.height);
    const scale = zoom * ratio;
    ctx.setTransform(scale, 0, 0, scale, canvas.width / 2 - x * scale, canvas.height / 2 - y * scale);
    this.marks ??= lit(report);
    draw(this.painter, report.frame, job(report, this.side, colours, this.marks));
  }

  private world(event: { offsetX: number; offsetY: number }): Point {
    const { x, y, zoom } = this.report.camera;
    const { clientWidth, clientHeight } = this.canvas;
    return {
      x: x + (event.offsetX - clientWidth / 2) / zoom,
      y: y + (event.offsetY - clientHeight / 2) / zoom,
    };
  }

  private on<K extends keyof HTMLElementEventMap>(
    kind: K,
    listener: (event: HTMLElementEventMap[K]) => void,
  ): void {
    this.canvas.addEventListener(kind, listener, { passive: false });
    this.stop.push(() => this.canvas.removeEventListener(kind, listener));
  }

  private listen(): void {
    const { report, canvas } = this;
    this.on("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pinch.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
      this.moved = 0;
      canvas.focus({ preventScroll: true });
    });
    this.on("pointermove", (event) => this.move(event));
    const up = (event: PointerEvent): void => {
      const known = this.pinch.delete(event.pointerId);
      if (known && this.moved < 5 && event.type === "pointerup") this.click(event);
    };
    this.on("pointerup", up);
    this.on("pointercancel", up);
    this.on("dblclick", (event) => {
      const at = hit(report.frame, this.world(event));
      if (at && isBox(at.item)) report.toggle(itemBox(at.item));
    });
    this.on("wheel", (event) => {
      event.preventDefault();
      const step = event.deltaMode === 1 ? event.deltaY * 30 : event.deltaY;
      if (event.shiftKey) report.panBy(step, 0);
      else report.zoomBy(Math.exp(-step * (event.ctrlKey ? 0.01 : 0.0016)), this.world(event));
    });
  }

  private move(event: PointerEvent): void {
    const old = this.pinch.get(event.pointerId);
    if (!old) {
      const at = hit(this.report.frame, this.world(event));
      const live = at && (isBox(at.item) ? at.header || !this.report.open.has(itemBox(at.item)) : true);
      this.canvas.classList.toggle("over", Boolean(live));
      return;
    }
    const now = { x: event.offsetX, y: event.offsetY };
    const other = [...this.pinch].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const spread = (p: Point): number => Math.hypot(p.x - other.x, p.y - other.y) || 1;
      const middle = { offsetX: (now.x + other.x) / 2, offsetY: (now.y + other.y) / 2 };
      this.report.zoomBy(spread(now) / spread(old), this.world(middle));
    } else {
      this.moved += Math.abs(now.x - old.x) + Math.abs(now.y - old.y);
      if (this.moved >= 5) this.report.panBy(old.x - now.x, old.y - now.y);
    }
    this.pinch.set(event.pointerId, now);
  }

  private click(event: PointerEvent): void {
    const { report } = this;
    const point = this.world(event);
    const at = hit(report.frame, point);
    if (!at) report.select(null);
    else if (!isBox(at.item))
      report.select(report.lens.nodeIn(at.item, this.side) < 0 ? null : at.item, this.side);
    else {
      const open = report.open.has(itemBox(at.item));
      const onSign = point.x < at.rect.x + 26 && point.y < at.rect.y + HEADER;
      if (onSign) report.toggle(itemBox(at.item));
      else report.select(open && !at.header ? null : at.item);
    }
  }
}

export function Pane({ report, side }: { report: Report; side: Side }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const view = new PaneView(report, canvas.current!, side);
    return () => view.close();
  }, [report, side]);
  const step = side === "before" ? report.from : report.state.step;
  const label = report.graph.raw.steps[step].label;
  const caption = side === "both" ? `${report.graph.raw.steps[report.from].label} → ${label}` : label;
  const single = report.lens.plain;
  return (
    <section class="pane" aria-label={single ? "Graph" : TITLES[side]}>
      {!single && (
        <h2 class="pane-title">
          <b>{TITLES[side]}</b> <span>{caption}</span>
        </h2>
      )}
      <canvas
        ref={canvas}
        tabIndex={0}
        role="application"
        aria-roledescription="graph"
        aria-label={`${single ? "Graph" : TITLES[side]}: ${caption}. Arrow keys walk the graph, Enter opens a group, question mark shows all keys.`}
        data-side={side}
      />
    </section>
  );
}
