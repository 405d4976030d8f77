import { useMemo, useState } from "preact/hooks";
import type { HeatMap } from "../heat";
import { CATEGORY_COUNT } from "../palette";
import type { Report } from "../report";
import { count, printable, tail } from "../text";
import { Long } from "./pieces";

export function HeatSelect({ report, id }: { report: Report; id: string }) {
  return (
    <select
      id={id}
      value={report.state.heat ?? ""}
      onChange={(event) => report.set({ heat: event.currentTarget.value || null })}
    >
      <option value="">{report.lens.plain ? "Nothing" : "What changed"}</option>
      {report.heats.map(({ raw }) => (
        <option key={raw.id} value={raw.id}>
          {raw.label}
        </option>
      ))}
    </select>
  );
}

export function HeatLegend({ heat }: { heat: HeatMap }) {
  if (heat.raw.kind === "category") {
    return (
      <ul class="categories">
        {heat.categories.slice(0, CATEGORY_COUNT * 2).map((name, i) => (
          <li key={name}>
            <svg width="14" height="14" aria-hidden="true">
              <rect width="14" height="14" rx="3" class={`category-${i % CATEGORY_COUNT}`} />
            </svg>
            {printable(name, 60)}
          </li>
        ))}
      </ul>
    );
  }
  const [low, middle, high] = heat.ticks();
  return (
    <div class="ramp">
      <div
        class="ramp-bar"
        role="img"
        aria-label={`Colours from ${low.text} to ${high.text}${heat.log ? ", logarithmic" : ""}`}
      />
      <div class="ramp-ticks">
        <span>{low.text}</span>
        <span>{middle.text}</span>
        <span>{high.text}</span>
      </div>
    </div>
  );
}

type Column = "value" | "op" | "name";

/** The nodes with the largest figures. */
export function Hot({ report }: { report: Report }) {
  const heat = report.heat() ?? null;
  return (
    <>
      <label class="field" for="heat-panel">
        Heat map <HeatSelect report={report} id="heat-panel" />
      </label>
      {report.heats.length === 0 && <p class="hint">This report carries no figures for its nodes.</p>}
      {heat ? (
        <Top report={report} heat={heat} />
      ) : (
        report.heats.length > 0 && (
          <p class="hint">
            Choose a heat map to colour the nodes by a figure and to list the largest. <kbd>h</kbd> goes
            through them.
          </p>
        )
      )}
    </>
  );
}

function Top({ report, heat }: { report: Report; heat: HeatMap }) {
  const { graph, lens } = report;
  const [sort, setSort] = useState<{ by: Column; down: boolean }>({ by: "value", down: true });
  const number = heat.raw.kind === "number";
  const rows = useMemo(() => {
    const nodes = [...heat.of.keys()];
    const key: Record<Column, (node: number) => number | string> = {
      value: (node) => (number ? Number(heat.of.get(node)) : String(heat.of.get(node))),
      op: (node) => graph.op(node),
      name: (node) => graph.name(node),
    };
    const of = key[sort.by];
    return nodes.sort((a, b) => {
      const [x, y] = [of(a), of(b)];
      return (x < y ? -1 : x > y ? 1 : a - b) * (sort.down ? -1 : 1);
    });
  }, [heat, sort]);
  const total = useMemo(
    () => [...heat.of.values()].reduce<number>((sum, v) => sum + (Number(v) || 0), 0),
    [heat],
  );
  const most = number ? Math.max(1e-300, ...rows.slice(0, 5000).map((node) => Number(heat.of.get(node)))) : 1;
  const head = (by: Column, label: string) => (
    <th scope="col" aria-sort={sort.by === by ? (sort.down ? "descending" : "ascending") : "none"}>
      <button
        type="button"
        onClick={() => setSort({ by, down: sort.by === by ? !sort.down : by === "value" })}
      >
        {label}
        {sort.by === by ? (sort.down ? " ↓" : " ↑") : ""}
      </button>
    </th>
  );
  const step = graph.raw.steps[heat.raw.step];
  return (
    <>
      <HeatLegend heat={heat} />
      <p class="quiet">
        {count(heat.of.size)} nodes{number && heat.adds ? `, ${heat.text(total)} in all` : ""}
        {step && graph.steps > 1 ? `; measured on step “${printable(step.label, 60)}”` : ""}
        {heat.raw.note ? `; ${printable(heat.raw.note)}` : ""}
      </p>
      {heat.raw.step !== report.state.step && heat.raw.step !== report.from && (
        <p class="warn" role="note">
          The figures belong to another step.{" "}
          <button type="button" class="plain-link" onClick={() => report.set({ step: heat.raw.step })}>
            Go there
          </button>
        </p>
      )}
      <table class="plain top">
        <thead>
          <tr>
            {head("value", heat.raw.label)}
            {head("op", "Operator")}
            {head("name", "Name")}
          </tr>
        </thead>
        <tbody>
          <Long all={rows} step={40}>
            {(node) => {
              const value = heat.of.get(node)!;
              return (
                <tr key={node}>
                  <td class="value">
                    {number && (
                      <svg
                        class="share"
                        width="100%"
                        height="100%"
                        preserveAspectRatio="none"
                        aria-hidden="true"
                      >
                        <rect width={`${Math.max(0, (100 * Number(value)) / most)}%`} height="100%" />
                      </svg>
                    )}
                    <span>{heat.text(value)}</span>
                  </td>
                  <td>{printable(graph.op(node), 40)}</td>
                  <td>
                    {lens.lives(node, "both") ? (
                      <button
                        type="button"
                        class="plain-link"
                        title={printable(graph.name(node))}
                        onClick={() => {
                          report.reveal(node);
                          report.set({ tab: "hot" });
                        }}
                      >
                        {printable(tail(graph.name(node)), 60) || "(no name)"}
                      </button>
                    ) : (
                      printable(tail(graph.name(node)), 60)
                    )}
                  </td>
                </tr>
              );
            }}
          </Long>
        </tbody>
      </table>
    </>
  );
}
