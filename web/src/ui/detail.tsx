import { Fragment } from "preact";
import { isBox, itemBox } from "../layout";
import type { Report } from "../report";
import type { RawStats } from "../types";
import { STATUSES } from "../diff";
import { bytesText, count, plural, printable, scaled, tail, typeOf } from "../text";
import { Badge, Long, NodeLink, Section } from "./pieces";

export function Detail({ report }: { report: Report }) {
  const { selected } = report.state;
  if (selected === null) return <Overview report={report} />;
  if (isBox(selected)) return <BoxDetail report={report} id={itemBox(selected)} />;
  const { lens } = report;
  const node = report.chosen();
  if (node < 0) return <Overview report={report} />;
  const neighbours = (["after", "before"] as const).map((side) => lens.nodeIn(selected, side));
  return (
    <NodeDetail
      report={report}
      node={node}
      other={neighbours.find((one) => one >= 0 && one !== node) ?? -1}
    />
  );
}

function Overview({ report }: { report: Report }) {
  const { graph, lens } = report;
  const totals = lens.totals();
  const step = graph.raw.steps[report.state.step];
  return (
    <>
      <h2>Overview</h2>
      <dl class="facts">
        {(graph.raw.facts ?? []).map(([label, text], i) => (
          <Fragment key={i}>
            <dt>{printable(label)}</dt>
            <dd>{printable(text)}</dd>
          </Fragment>
        ))}
        <dt>Nodes</dt>
        <dd>
          {lens.plain
            ? count(graph.aliveNodes(0).length)
            : `${count(graph.aliveNodes(report.from).length)} → ${count(graph.aliveNodes(report.state.step).length)}`}
        </dd>
        {step.bytes !== undefined && (
          <>
            <dt>Size</dt>
            <dd>{bytesText(step.bytes)}</dd>
          </>
        )}
      </dl>
      {!lens.plain && (
        <Section title="What became of the nodes">
          <ul class="totals">
            {STATUSES.map((status) => (
              <li key={status}>
                <Badge status={status} />
                <b>{count(totals[status])}</b>
              </li>
            ))}
          </ul>
        </Section>
      )}
      <p class="hint">
        Select a node or a group to see its details. Double-click, or <kbd>Enter</kbd>, opens a group.{" "}
        <kbd>?</kbd> shows all keys.
      </p>
    </>
  );
}

function BoxDetail({ report, id }: { report: Report; id: number }) {
  const { graph, lens } = report;
  const box = graph.boxes.get(id);
  const open = report.open.has(id);
  const stacked = box.template >= 0 && !report.unstacked.has(box.template);
  const { nodes, by } = lens.inBox(id, "both", stacked);
  const ops = [...opsIn(report, id)].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  const kind = {
    root: "Graph",
    scope: "Group",
    body: "Body of a node",
    repeat: "Repeated block",
    part: "Part of a long group",
  }[box.kind];
  const holder = box.holder === null ? -1 : graph.nodeOf(box.holder, report.state.step);
  return (
    <>
      <p class="kicker">{kind}</p>
      <h2>
        {printable(box.label) || "group"}
        {box.copies > 1 && ` ×${box.copies}`}
      </h2>
      <Path report={report} box={box.parent} />
      <div class="buttons">
        <button type="button" onClick={() => report.toggle(id)}>
          {open ? "Collapse" : "Expand"}
        </button>
        {box.template >= 0 && (
          <button type="button" onClick={() => report.unstack(id)}>
            {stacked ? `Show all ${box.copies} copies` : "Show copies as one"}
          </button>
        )}
        <button type="button" onClick={() => report.showItem(-1 - id)}>
          Centre
        </button>
      </div>
      {holder >= 0 && (
        <Section title="Held by">
          <NodeLink report={report} node={holder} />
        </Section>
      )}
      <Section title={stacked ? "Nodes in all copies" : "Nodes"} aside={count(nodes)}>
        {!lens.plain && (
          <ul class="totals">
            {STATUSES.filter((status) => by[status]).map((status) => (
              <li key={status}>
                <Badge status={status} />
                <b>{count(by[status])}</b>
              </li>
            ))}
          </ul>
        )}
        <Bars rows={ops.slice(0, 14)} />
      </Section>
    </>
  );
}

function opsIn(report: Report, box: number): Map<string, number> {
  const { graph, lens } = report;
  const ops = new Map<string, number>();
  for (const slot of graph.boxes.slotsIn(box)) {
    const node = lens.nodeIn(slot, "both");
    if (node < 0 || graph.kind(node) !== "node") continue;
    ops.set(graph.op(node), (ops.get(graph.op(node)) ?? 0) + 1);
  }
  return ops;
}

function Bars({ rows }: { rows: [string, number][] }) {
  const most = Math.max(1, ...rows.map(([, n]) => n));
  return (
    <table class="bars">
      <tbody>
        {rows.map(([op, n]) => (
          <tr key={op}>
            <th scope="row">{printable(op, 40)}</th>
            <td>{count(n)}</td>
            <td class="bar" aria-hidden="true">
              <svg width="100%" height="8">
                <rect width={`${(100 * n) / most}%`} height="8" rx="2" />
              </svg>
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Path({ report, box }: { report: Report; box: number }) {
  const { boxes } = report.graph;
  const chain = box > 0 ? boxes.around(box).reverse() : [];
  if (!chain.length) return null;
  return (
    <nav class="path" aria-label="Groups around it">
      {chain.map((id) => (
        <button type="button" key={id} onClick={() => report.revealBox(id)} title={printable(boxes.path(id))}>
          {printable(boxes.get(id).label, 40) || "group"}
        </button>
      ))}
    </nav>
  );
}

function NodeDetail({ report, node, other }: { report: Report; node: number; other: number }) {
  const { graph, lens } = report;
  const raw = graph.raw.nodes?.[node];
  const status = lens.status(node, lens.lives(node, "after") ? "after" : "before");
  const origins = (lens.diff.origins.get(node) ?? []).filter((origin) => origin !== node);
  const heirs = (lens.diff.heirs.get(node) ?? []).filter((heir) => heir !== node);
  const domain = graph.domain(node);
  const heats = report.heats.filter((heat) => heat.of.has(node));
  return (
    <>
      <p class="kicker">
        {graph.kind(node) === "node"
          ? domain && domain !== "ai.onnx"
            ? printable(domain)
            : "Node"
          : `Graph ${graph.kind(node)}`}
      </p>
      <h2 class="node-op">
        {printable(graph.op(node))}
        {!lens.plain && graph.kind(node) === "node" && <Badge status={status} />}
      </h2>
      <p class="name">{printable(graph.name(node), 600) || "(no name)"}</p>
      <Path report={report} box={graph.boxes.ofSlot[graph.slot[node]]} />
      {raw?.doc && /^https:\/\//.test(raw.doc) && (
        <p>
          <a href={raw.doc} target="_blank" rel="noopener noreferrer">
            {printable(graph.op(node), 60)} in the operator reference
          </a>
        </p>
      )}
      {origins.length > 0 && (
        <Section title="Came from" aside={plural(origins.length, "node")}>
          <div class="links" data-list="origins">
            <Long all={origins}>{(origin) => <NodeLink key={origin} report={report} node={origin} />}</Long>
          </div>
        </Section>
      )}
      {heirs.length > 0 && (
        <Section title="Became" aside={plural(heirs.length, "node")}>
          <div class="links" data-list="heirs">
            <Long all={heirs}>{(heir) => <NodeLink key={heir} report={report} node={heir} />}</Long>
          </div>
        </Section>
      )}
      {other >= 0 && !origins.includes(other) && !heirs.includes(other) && (
        <Section title={lens.lives(node, "after") ? "In this place before" : "In this place after"}>
          <div class="links">
            <NodeLink report={report} node={other} />
          </div>
        </Section>
      )}
      {status === "changed" && origins.length === 1 && (
        <Changes report={report} before={origins[0]} after={node} />
      )}
      {heats.length > 0 && (
        <Section title="Figures">
          <dl class="facts">
            {heats.map((heat) => (
              <Fragment key={heat.raw.id}>
                <dt>{heat.raw.label}</dt>
                <dd>{heat.text(heat.of.get(node)!)}</dd>
              </Fragment>
            ))}
          </dl>
        </Section>
      )}
      {raw?.a && raw.a.length > 0 && (
        <Section title="Attributes">
          <dl class="facts mono">
            {raw.a.map(([name, value], i) => (
              <Fragment key={i}>
                <dt>{printable(graph.strings[name])}</dt>
                <dd>{printable(graph.strings[value])}</dd>
              </Fragment>
            ))}
          </dl>
        </Section>
      )}
      <Tensors report={report} node={node} title="Inputs" values={graph.inputs(node)} />
      <Tensors report={report} node={node} title="Outputs" values={graph.outputs(node)} />
    </>
  );
}

/** What a changed node had before, where it differs. */
function Changes({ report, before, after }: { report: Report; before: number; after: number }) {
  const { graph } = report;
  const rows: [string, string, string][] = [];
  const note = (what: string, a: string, b: string): void => {
    if (a !== b) rows.push([what, a || "none", b || "none"]);
  };
  note("operator", graph.op(before), graph.op(after));
  const attributes = (node: number): Map<string, string> =>
    new Map((graph.raw.nodes?.[node]?.a ?? []).map(([n, v]) => [graph.strings[n], graph.strings[v]]));
  const [a, b] = [attributes(before), attributes(after)];
  for (const name of new Set([...a.keys(), ...b.keys()])) note(name, a.get(name) ?? "", b.get(name) ?? "");
  const names = (values: number[]): string =>
    values.map((v) => (v < 0 ? "–" : tail(graph.valueName(v)))).join(", ");
  note("inputs", names(graph.inputs(before)), names(graph.inputs(after)));
  note("outputs", names(graph.outputs(before)), names(graph.outputs(after)));
  if (!rows.length) return null;
  return (
    <Section title="What changed">
      <table class="plain">
        <thead>
          <tr>
            <th scope="col">What</th>
            <th scope="col">Before</th>
            <th scope="col">After</th>
          </tr>
        </thead>
        <tbody>
          {rows.map(([what, x, y]) => (
            <tr key={what}>
              <th scope="row">{printable(what, 60)}</th>
              <td>{printable(x)}</td>
              <td>{printable(y)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Section>
  );
}

function Tensors({
  report,
  node,
  title,
  values,
}: {
  report: Report;
  node: number;
  title: string;
  values: number[];
}) {
  const { graph, lens } = report;
  if (!values.length) return null;
  const edges = title === "Inputs" ? graph.into[node] : graph.outOf[node];
  return (
    <Section title={title} aside={values.length}>
      <Long all={values} step={24}>
        {(value, i) => {
          if (value < 0)
            return (
              <p key={i} class="tensor quiet">
                {i}: left out
              </p>
            );
          const info = graph.values[value];
          const ends = edges
            .filter((edge) => graph.edges[edge].value === value)
            .map((edge) => (title === "Inputs" ? graph.edges[edge].src : graph.edges[edge].dst))
            .filter((end) => end !== node && lens.lives(end, lens.lives(node, "after") ? "after" : "before"));
          const big = info.k !== "init" && (info.b ?? 0) >= report.bigBytes;
          return (
            <div class="tensor" key={i}>
              <p class="tensor-name" title={printable(graph.valueName(value))}>
                {printable(tail(graph.valueName(value)), 80)}
              </p>
              <p class="tensor-type">
                {typeOf(graph, value)}
                <span class={big ? "big" : ""}>
                  {bytesText(info.b)}
                  {big && " · large"}
                </span>
              </p>
              {info.k === "init" && <Statistics stats={info.stats} />}
              {ends.length > 0 && (
                <div class="links">
                  <Long all={ends} step={8}>
                    {(end) => (
                      <NodeLink
                        key={end}
                        report={report}
                        node={end}
                        extra={title === "Inputs" ? "from" : "to"}
                      />
                    )}
                  </Long>
                </div>
              )}
            </div>
          );
        }}
      </Long>
    </Section>
  );
}

function Statistics({ stats }: { stats?: RawStats }) {
  if (!stats) return <p class="quiet">Initializer; no statistics</p>;
  const rows: [string, number | undefined][] = [
    ["min", stats.min],
    ["mean", stats.mean],
    ["max", stats.max],
    ["std", stats.std],
  ];
  const hist = stats.hist ?? [];
  const most = Math.max(1, ...hist.map(([, , n]) => n));
  const wide = 100 / Math.max(1, hist.length);
  const first = hist[0];
  const last = hist[hist.length - 1];
  return (
    <div class="stats">
      <p class="quiet">
        Initializer{stats.n !== undefined && `, ${count(stats.n)} elements`}
        {stats.sampled && ", figures from a sample"}
        {stats.zeros ? `, ${count(stats.zeros)} zeros` : ""}
        {stats.nonfinite ? `, ${count(stats.nonfinite)} not finite` : ""}
      </p>
      {hist.length > 0 && (
        <svg
          class="hist"
          viewBox="0 0 100 34"
          preserveAspectRatio="none"
          role="img"
          aria-label={`Histogram of the values from ${scaled(first[0])} to ${scaled(last[1])}`}
        >
          {hist.map(([, , n], i) => (
            <rect
              key={i}
              x={i * wide}
              width={wide * 0.86}
              y={34 - (33 * n) / most}
              height={(33 * n) / most}
            />
          ))}
        </svg>
      )}
      <dl class="row">
        {rows
          .filter(([, value]) => value !== undefined && value !== null)
          .map(([label, value]) => (
            <div key={label}>
              <dt>{label}</dt>
              <dd>{scaled(value!)}</dd>
            </div>
          ))}
      </dl>
    </div>
  );
}
