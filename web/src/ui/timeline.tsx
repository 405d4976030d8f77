import type { Report } from "../report";
import { bytesText, count, delta, plural, printable, seconds } from "../text";

/** Steps that can be chosen: all, or those that changed something, and always the first and the current one. */
export function shownSteps(report: Report): number[] {
  const { steps } = report.graph.raw;
  const { hideUnchanged, step } = report.state;
  return steps.map((_, i) => i).filter((i) => !hideUnchanged || steps[i].changed || i === 0 || i === step);
}

export function Timeline({ report }: { report: Report }) {
  const { steps } = report.graph.raw;
  if (steps.length < 2) return null;
  const { step, hideUnchanged, base } = report.state;
  const shown = shownSteps(report);
  const at = shown.indexOf(step);
  const hidden = steps.length - shown.length;
  const now = steps[step];
  return (
    <footer class="timeline" aria-label="Pass timeline">
      <div class="track">
        <button
          type="button"
          class="round"
          aria-label="Previous step (k)"
          disabled={step === 0}
          onClick={() => report.step(-1)}
        >
          ‹
        </button>
        <div class="slide">
          <Ticks report={report} shown={shown} />
          <input
            type="range"
            min={0}
            max={shown.length - 1}
            value={at}
            aria-label="Step of the pipeline"
            aria-valuetext={`Step ${step} of ${steps.length - 1}: ${printable(now.label, 80)}`}
            onInput={(event) => report.set({ step: shown[Number(event.currentTarget.value)] })}
          />
        </div>
        <button
          type="button"
          class="round"
          aria-label="Next step (j)"
          disabled={at === shown.length - 1}
          onClick={() => report.step(1)}
        >
          ›
        </button>
        <div class="options">
          <label>
            <input
              type="checkbox"
              checked={hideUnchanged}
              onChange={(event) => report.set({ hideUnchanged: event.currentTarget.checked })}
            />{" "}
            Only changes{hidden > 0 && ` (${hidden} hidden)`}
          </label>
          <label for="base">
            Compare with{" "}
            <select
              id="base"
              value={base}
              onChange={(event) => report.set({ base: event.currentTarget.value as "first" | "previous" })}
            >
              <option value="first">{printable(steps[0].label, 30)}</option>
              <option value="previous">the step before</option>
            </select>
          </label>
        </div>
      </div>
      <StepText report={report} />
    </footer>
  );
}

/** A bar for each step, as tall as what it changed. */
function Ticks({ report, shown }: { report: Report; shown: number[] }) {
  const { steps } = report.graph.raw;
  const size = (i: number): number =>
    i === 0 ? 0 : (steps[i].add?.length ?? 0) + (steps[i].del?.length ?? 0);
  const most = Math.max(1, ...shown.map(size));
  return (
    <svg class="ticks" width="100%" height="22" aria-hidden="true">
      {shown.map((i, n) => {
        const share = shown.length === 1 ? 0 : n / (shown.length - 1);
        const high = size(i) ? 4 + 16 * Math.sqrt(size(i) / most) : 2;
        return (
          <svg key={i} x={`${share * 100}%`} overflow="visible">
            <rect
              class={`tick${i === report.state.step ? " now" : ""}${steps[i].changed || i === 0 ? "" : " idle"}`}
              x="-3"
              y={22 - high}
              width="6"
              height={high}
              rx="1.5"
            >
              <title>{printable(steps[i].label, 80)}</title>
            </rect>
          </svg>
        );
      })}
    </svg>
  );
}

function StepText({ report }: { report: Report }) {
  const { steps } = report.graph.raw;
  const { step } = report.state;
  const now = steps[step];
  const first = steps[0];
  const last = step > 0 ? steps[step - 1] : null;
  const why = (now.why ?? []).filter(([, n]) => n > 0);
  return (
    <div class="step" aria-live="polite">
      <span class="step-number">
        {step}/{steps.length - 1}
      </span>
      <b class="step-name">{printable(now.label, 120)}</b>
      {now.nodes !== undefined && (
        <span>
          {plural(now.nodes, "node")}
          {last?.nodes !== undefined && (
            <em class={now.nodes < last.nodes ? "good" : ""}> {delta(last.nodes, now.nodes)}</em>
          )}
        </span>
      )}
      {now.bytes !== undefined && (
        <span>
          {bytesText(now.bytes)}
          {last?.bytes !== undefined && now.bytes !== last.bytes && (
            <em class={now.bytes < last.bytes ? "good" : ""}>
              {" "}
              {now.bytes < last.bytes ? "−" : "+"}
              {bytesText(Math.abs(now.bytes - last.bytes))}
            </em>
          )}
        </span>
      )}
      {step > 0 && now.seconds !== undefined && <span>{seconds(now.seconds)}</span>}
      {step > 0 && now.exactness && (
        <span class={`chip ${now.exactness === "lossy" ? "lossy" : ""}`}>{printable(now.exactness, 40)}</span>
      )}
      {step > 0 && !now.changed && <span class="quiet">changed nothing</span>}
      {why.slice(0, 6).map(([rule, n]) => (
        <span class="why" key={rule}>
          <code>{printable(rule, 80)}</code> ×{count(n)}
        </span>
      ))}
      {why.length > 6 && (
        <span
          class="quiet"
          title={why
            .slice(6)
            .map(([rule, n]) => `${printable(rule, 80)} ×${n}`)
            .join("\n")}
        >
          and {why.length - 6} more
        </span>
      )}
      {report.from === 0 && step > 1 && first.nodes !== undefined && now.nodes !== undefined && (
        <span class="quiet whole">
          since {printable(first.label, 30)}: {count(first.nodes)} → {count(now.nodes)} nodes in{" "}
          {seconds(steps.slice(1, step + 1).reduce((sum, each) => sum + (each.seconds ?? 0), 0))}
        </span>
      )}
      {(now.notes ?? []).slice(0, 3).map((note) => (
        <span class="quiet note" key={note}>
          {printable(note, 200)}
        </span>
      ))}
    </div>
  );
}
