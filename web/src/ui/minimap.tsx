import { useEffect, useRef } from "preact/hooks";
import { draw } from "../draw";
import { job } from "../jobs";
import { CanvasPainter } from "../painter";
import type { Report } from "../report";
import { isDark, palette } from "./hooks";

const SIZE = { width: 132, height: 168 };
const NOTHING = { related: new Set<number>(), found: new Set<number>(), current: null };

/** The whole graph in small, with the part that the panes show. Click or drag to go there. */
class MiniView {
  private readonly still = document.createElement("canvas");
  private drawn = "";
  private waiting = 0;
  private readonly stop: (() => void)[] = [];

  constructor(
    private readonly report: Report,
    private readonly canvas: HTMLCanvasElement,
  ) {
    const later = (): void => {
      if (!this.waiting) this.waiting = requestAnimationFrame(() => this.draw());
    };
    this.stop.push(report.subscribe(later), report.subscribeCamera(later));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.go(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) this.go(event);
    });
    later();
  }

  close(): void {
    cancelAnimationFrame(this.waiting);
    for (const stop of this.stop) stop();
  }

  private fit(): { zoom: number; left: number; top: number } {
    const { width, height } = this.report.frame;
    const zoom = Math.min((SIZE.width - 8) / width, (SIZE.height - 8) / height);
    return { zoom, left: (SIZE.width - width * zoom) / 2, top: (SIZE.height - height * zoom) / 2 };
  }

  private go(event: PointerEvent): void {
    const { zoom, left, top } = this.fit();
    const { camera } = this.report;
    this.report.look_at({ ...camera, x: (event.offsetX - left) / zoom, y: (event.offsetY - top) / zoom });
  }

  private draw(): void {
    this.waiting = 0;
    const { report, canvas } = this;
    const ratio = devicePixelRatio || 1;
    const { zoom, left, top } = this.fit();
    const colours = palette(report);
    const { state, frame } = report;
    const id = [
      isDark(report),
      report.from,
      state.step,
      state.heat,
      state.mode,
      frame.width,
      frame.height,
      report.open.size,
      report.unstacked.size,
    ].join();
    if (id !== this.drawn) {
      this.drawn = id;
      for (const c of [canvas, this.still]) {
        c.width = SIZE.width * ratio;
        c.height = SIZE.height * ratio;
      }
      const ctx = this.still.getContext("2d")!;
      ctx.setTransform(zoom * ratio, 0, 0, zoom * ratio, left * ratio, top * ratio);
      const side = report.sides[report.sides.length - 1];
      const all = { x: frame.x, y: frame.y, width: frame.width, height: frame.height };
      const work = { ...job(report, side, colours, NOTHING), view: all, zoom: Math.max(zoom, 0.02) };
      draw(new CanvasPainter(ctx), frame, { ...work, marks: { ...work.marks, selected: null } });
    }
    const all = report.view();
    const whole =
      all.x <= 0 && all.y <= 0 && all.x + all.width >= frame.width && all.y + all.height >= frame.height;
    canvas.classList.toggle("whole", whole);
    const ctx = canvas.getContext("2d")!;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.clearRect(0, 0, canvas.width, canvas.height);
    ctx.drawImage(this.still, 0, 0);
    const view = report.view();
    const x = Math.max(1, left + view.x * zoom);
    const y = Math.max(1, top + view.y * zoom);
    const right = Math.min(SIZE.width - 1, left + (view.x + view.width) * zoom);
    const bottom = Math.min(SIZE.height - 1, top + (view.y + view.height) * zoom);
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.fillStyle = colours.halo;
    ctx.strokeStyle = colours.accent;
    ctx.lineWidth = 1.5;
    ctx.fillRect(x, y, Math.max(3, right - x), Math.max(3, bottom - y));
    ctx.strokeRect(x, y, Math.max(3, right - x), Math.max(3, bottom - y));
  }
}

export function Minimap({ report }: { report: Report }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const view = new MiniView(report, canvas.current!);
    return () => view.close();
  }, [report]);
  return <canvas class="minimap" ref={canvas} aria-hidden="true" />;
}
