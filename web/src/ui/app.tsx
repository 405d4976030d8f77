import { useEffect, useRef } from "preact/hooks";
import { STATUSES } from "../diff";
import { listen } from "../keys";
import type { Mode, Report, Tab } from "../report";
import { download, fileName, viewAsPng, viewAsSvg } from "../svg";
import { count, printable } from "../text";
import { link } from "../url";
import { Charts } from "./charts";
import { Detail } from "./detail";
import { Help } from "./help";
import { isDark, palette, useReport } from "./hooks";
import { HeatLegend, HeatSelect, Hot } from "./hot";
import { Minimap } from "./minimap";
import { Changes, Outline } from "./outline";
import { Pane } from "./pane";
import { Glyph, MEANING } from "./pieces";
import { Timeline } from "./timeline";

export function App({ report }: { report: Report }) {
  useReport(report);
  useEffect(() => listen(report), [report]);
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const changed = (): void => report.tell();
    media.addEventListener("change", changed);
    return () => media.removeEventListener("change", changed);
  }, [report]);
  document.documentElement.dataset.theme = isDark(report) ? "dark" : "light";
  const { state } = report;
  return (
    <>
      <Top report={report} />
      <main class={state.panel ? "" : "wide"}>
        <div class="stage">
          <div class="panes">
            {report.sides.map((side) => (
              <Pane key={side} report={report} side={side} />
            ))}
          </div>
          <Legend report={report} />
          {state.minimap && <Minimap report={report} />}
          <Controls report={report} />
        </div>
        {state.panel && <Panel report={report} />}
      </main>
      <Timeline report={report} />
      <p class="sr" role="status" aria-live="polite">
        {printable(state.message)}
      </p>
      {state.help && <Help report={report} />}
    </>
  );
}

const MODES: [Mode, string][] = [
  ["split", "Side by side"],
  ["overlay", "Overlay"],
  ["before", "Before"],
  ["after", "After"],
];

function Top({ report }: { report: Report }) {
  const { graph, state } = report;
  return (
    <header class="top">
      <h1 title={printable(graph.raw.title)}>{printable(graph.raw.title, 120)}</h1>
      {graph.steps > 1 && (
        <div class="segmented" role="group" aria-label="View">
          {MODES.map(([mode, label]) => (
            <button
              type="button"
              key={mode}
              aria-pressed={state.mode === mode}
              onClick={() => report.set({ mode })}
            >
              {label}
            </button>
          ))}
        </div>
      )}
      {report.heats.length > 0 && (
        <label class="field" for="heat">
          Colour <HeatSelect report={report} id="heat" />
        </label>
      )}
      <SearchBox report={report} />
      <div class="tools">
        <Export report={report} />
        <button
          type="button"
          class="icon"
          aria-label={isDark(report) ? "Light colours (t)" : "Dark colours (t)"}
          title="Light or dark (t)"
          onClick={() => report.toggleTheme()}
        >
          <Icon
            path={
              isDark(report)
                ? "M10 6.2A3.8 3.8 0 1 0 10 13.8A3.8 3.8 0 1 0 10 6.2M10 1.5V3.5M10 16.5V18.5M1.5 10H3.5M16.5 10H18.5M4 4L5.4 5.4M14.6 14.6L16 16M16 4L14.6 5.4M5.4 14.6L4 16"
                : "M16.5 12A7 7 0 1 1 8 3.5A5.6 5.6 0 0 0 16.5 12Z"
            }
          />
        </button>
        <button
          type="button"
          class="icon"
          aria-label="Side panel (i)"
          title="Side panel (i)"
          aria-pressed={state.panel}
          onClick={() => report.set({ panel: !state.panel })}
        >
          <Icon path="M2.5 3.5H17.5V16.5H2.5ZM12.5 3.5V16.5" />
        </button>
        <button
          type="button"
          class="icon"
          aria-label="Keys (?)"
          title="Keys (?)"
          onClick={() => report.set({ help: true })}
        >
          <Icon path="M7 7.2A3 3 0 1 1 11.3 9.9C10.3 10.4 10 11 10 12.2M10 15V15.4" />
        </button>
      </div>
    </header>
  );
}

function Icon({ path }: { path: string }) {
  return (
    <svg viewBox="0 0 20 20" width="18" height="18" aria-hidden="true" class="line">
      <path d={path} />
    </svg>
  );
}

function SearchBox({ report }: { report: Report }) {
  const { state, found } = report;
  const input = useRef<HTMLInputElement>(null);
  // What is being typed is the field's own; the state follows it, and leads only from elsewhere.
  useEffect(() => {
    if (document.activeElement !== input.current || !state.query) input.current!.value = state.query;
  }, [state.query]);
  return (
    <form
      class="search"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        report.nextMatch(0);
      }}
    >
      <input
        id="search"
        type="search"
        placeholder="Search  /"
        aria-label="Search by name, operator, dtype or shape"
        autocomplete="off"
        spellcheck={false}
        ref={input}
        onInput={(event) => report.find(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter") {
            event.preventDefault();
            report.nextMatch(report.jumped ? (event.shiftKey ? -1 : 1) : 0);
          } else if (event.key === "Escape") {
            report.find("");
            event.currentTarget.blur();
          }
        }}
      />
      {state.query && (
        <span class="hits">
          <span>{found.length ? `${count(state.match + 1)}/${count(found.length)}` : "none"}</span>
          <button
            type="button"
            aria-label="Previous match (N)"
            disabled={!found.length}
            onClick={() => report.nextMatch(-1)}
          >
            ‹
          </button>
          <button
            type="button"
            aria-label="Next match (n)"
            disabled={!found.length}
            onClick={() => report.nextMatch(report.jumped ? 1 : 0)}
          >
            ›
          </button>
        </span>
      )}
    </form>
  );
}

function Export({ report }: { report: Report }) {
  const title = report.graph.raw.title;
  const act = async (what: string): Promise<void> => {
    if (what === "svg")
      download(
        new Blob([viewAsSvg(report, palette(report))], { type: "image/svg+xml" }),
        fileName(title, "svg"),
      );
    if (what === "png") download(await viewAsPng(report, palette(report)), fileName(title, "png"));
    if (what === "link") await copy(`${location.href.split("#")[0]}#${link(report)}`, report);
  };
  return (
    <select
      class="export"
      aria-label="Export this view"
      value=""
      onChange={(event) => {
        const what = event.currentTarget.value;
        event.currentTarget.value = "";
        act(what).catch((error: unknown) => report.set({ message: String(error) }));
      }}
    >
      <option value="">Export…</option>
      <option value="svg">SVG of this view</option>
      <option value="png">PNG of this view</option>
      <option value="link">Copy link to this view</option>
    </select>
  );
}

async function copy(text: string, report: Report): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    report.set({ message: "Link copied" });
  } catch {
    report.set({ message: "The browser did not allow copying; the address bar holds the link" });
  }
}

const TABS: [Tab, string][] = [
  ["detail", "Details"],
  ["changes", "Changes"],
  ["outline", "Outline"],
  ["hot", "Hot spots"],
  ["charts", "Charts"],
];

function Panel({ report }: { report: Report }) {
  const { tab } = report.state;
  const tabs = report.lens.plain ? TABS.filter(([id]) => id !== "changes") : TABS;
  const turn = (event: KeyboardEvent): void => {
    const by = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!by) return;
    event.preventDefault();
    const at = tabs.findIndex(([id]) => id === tab);
    const next = tabs[(at + by + tabs.length) % tabs.length][0];
    report.set({ tab: next });
    requestAnimationFrame(() => document.getElementById(`tab-${next}`)?.focus());
  };
  return (
    <aside class="side" aria-label="Details">
      <div role="tablist" aria-label="Panels" class="tabs" onKeyDown={turn}>
        {tabs.map(([id, label]) => (
          <button
            type="button"
            role="tab"
            key={id}
            id={`tab-${id}`}
            aria-selected={tab === id}
            aria-controls="panel"
            tabIndex={tab === id ? 0 : -1}
            onClick={() => report.set({ tab: id })}
          >
            {label}
          </button>
        ))}
      </div>
      <div class="panel" id="panel" role="tabpanel" aria-labelledby={`tab-${tab}`} tabIndex={0}>
        {tab === "detail" && <Detail report={report} key={String(report.state.selected)} />}
        {tab === "outline" && <Outline report={report} />}
        {tab === "changes" && <Changes report={report} />}
        {tab === "hot" && <Hot report={report} />}
        {tab === "charts" && <Charts report={report} />}
      </div>
    </aside>
  );
}

function Legend({ report }: { report: Report }) {
  const heat = report.heat();
  if (heat) {
    return (
      <section class="legend" aria-label="Legend">
        <h2>
          {printable(heat.raw.label, 60)}
          {heat.raw.unit ? ` (${printable(heat.raw.unit, 20)})` : ""}
        </h2>
        <HeatLegend heat={heat} />
      </section>
    );
  }
  if (report.lens.plain) return null;
  const totals = report.lens.totals();
  return (
    <section class="legend row" aria-label="Legend">
      {STATUSES.map((status) => (
        <span key={status} class={`swatch ${status}`} title={MEANING[status]}>
          <Glyph status={status} />
          {status} <b>{count(totals[status])}</b>
        </span>
      ))}
    </section>
  );
}

function Controls({ report }: { report: Report }) {
  const { state } = report;
  return (
    <div class="controls" role="group" aria-label="Camera and groups">
      <button type="button" aria-label="Zoom in (+)" title="Zoom in (+)" onClick={() => report.zoomBy(1.25)}>
        <Icon path="M10 4V16M4 10H16" />
      </button>
      <button type="button" aria-label="Zoom out (-)" title="Zoom out (-)" onClick={() => report.zoomBy(0.8)}>
        <Icon path="M4 10H16" />
      </button>
      <button
        type="button"
        aria-label="Fit the whole graph (f)"
        title="Fit the whole graph (f)"
        onClick={() => report.fit()}
      >
        <Icon path="M3.5 7.5V3.5H7.5M12.5 3.5H16.5V7.5M16.5 12.5V16.5H12.5M7.5 16.5H3.5V12.5" />
      </button>
      <button
        type="button"
        aria-label="Expand one more level (e)"
        title="Expand one more level (e)"
        onClick={() => report.expandMore()}
      >
        <Icon path="M5 8L10 3L15 8M5 12L10 17L15 12" />
      </button>
      <button
        type="button"
        aria-label="Collapse everything (c)"
        title="Collapse everything (c)"
        onClick={() => report.collapseAll()}
      >
        <Icon path="M5 3L10 8L15 3M5 17L10 12L15 17" />
      </button>
      {!report.lens.plain && (
        <button
          type="button"
          aria-pressed={state.compact}
          aria-label="Draw compactly, without places of other steps (l)"
          title="Draw compactly, without places of other steps (l)"
          onClick={() => report.setCompact(!state.compact)}
        >
          <Icon path="M3 4H17M3 16H17M10 6.5V13.5M7.5 8.5L10 6L12.5 8.5M7.5 11.5L10 14L12.5 11.5" />
        </button>
      )}
    </div>
  );
}
