import { useMemo } from "preact/hooks";
import { bytesByType, operators, roofline, type Pair } from "../figures";
import type { Report } from "../report";
import { bytesText, count, delta, printable, quantity, scaled, tail } from "../text";
import { Section } from "./pieces";

export function Charts({ report }: { report: Report }) {
  const { graph, lens, from, state } = report;
  const ops = useMemo(() => operators(graph, from, state.step), [lens]);
  const weights = useMemo(() => bytesByType(graph, from, state.step, true), [lens]);
  const others = useMemo(() => bytesByType(graph, from, state.step, false), [lens]);
  const before = graph.raw.steps[from].label;
  const after = graph.raw.steps[state.step].label;
  return (
    <>
      {!lens.plain && (
        <p class="key">
          <svg width="12" height="12" aria-hidden="true">
            <rect width="12" height="12" class="bar-before" />
          </svg>{" "}
          {printable(before, 40)}
          <svg width="12" height="12" aria-hidden="true">
            <rect width="12" height="12" class="bar-after" />
          </svg>{" "}
          {printable(after, 40)}
        </p>
      )}
      <Section title="Nodes by operator">
        <Bars rows={ops} plain={lens.plain} text={count} most={24} change />
      </Section>
      <Section title="Weights by dtype">
        <Bars rows={weights} plain={lens.plain} text={bytesText} most={12} />
      </Section>
      <Section title="Activations by dtype">
        <Bars rows={others} plain={lens.plain} text={bytesText} most={12} />
      </Section>
      <Roofline report={report} />
    </>
  );
}

function Bars({
  rows,
  plain,
  text,
  most,
  change,
}: {
  rows: Pair[];
  plain: boolean;
  text: (n: number) => string;
  most: number;
  change?: boolean;
}) {
  if (!rows.length) return <p class="quiet">Nothing to show.</p>;
  const top = Math.max(1, ...rows.map((row) => Math.max(row.before, row.after)));
  const bar = (value: number, kind: string) => (
    <svg width="100%" height="7">
      <rect class={kind} width={`${(100 * value) / top}%`} height="7" rx="1.5" />
    </svg>
  );
  return (
    <table class="bars">
      <thead class="sr">
        <tr>
          <th scope="col">Kind</th>
          {!plain && <th scope="col">Before</th>}
          <th scope="col">After</th>
          <th scope="col">Chart</th>
        </tr>
      </thead>
      <tbody>
        {rows.slice(0, most).map((row) => (
          <tr key={row.label}>
            <th scope="row" title={printable(row.label)}>
              {printable(row.label, 30)}
            </th>
            {!plain && <td>{text(row.before)}</td>}
            <td>
              {text(row.after)}
              {change && !plain && row.after !== row.before && <em> {delta(row.before, row.after)}</em>}
            </td>
            <td class="bar" aria-hidden="true">
              {!plain && bar(row.before, "bar-before")}
              {bar(row.after, "bar-after")}
            </td>
          </tr>
        ))}
        {rows.length > most && (
          <tr>
            <td colSpan={4} class="quiet">
              and {count(rows.length - most)} more kinds
            </td>
          </tr>
        )}
      </tbody>
    </table>
  );
}

const [WIDE, HIGH, LEFT, BELOW] = [330, 230, 44, 34];

function Roofline({ report }: { report: Report }) {
  const roof = report.graph.raw.roofline;
  const spots = useMemo(() => roofline(report), [report]);
  if (!roof) return null;
  if (!spots.length) {
    return (
      <Section title={`Roofline of ${roof.device}`}>
        <p class="quiet">It needs FLOPs and bytes of the nodes, which this report lacks.</p>
      </Section>
    );
  }
  const ridge = roof.flops / roof.bandwidth;
  const log = Math.log10;
  const xs = spots.map((spot) => spot.intensity);
  const low = Math.floor(log(Math.min(ridge / 10, ...xs.slice(0, 5000))));
  const high = Math.ceil(log(Math.max(ridge * 10, ...xs.slice(0, 5000))));
  const rates = spots.slice(0, 5000).map((spot) => spot.rate);
  const bottom = Math.floor(log(Math.min(...rates)));
  const top = Math.ceil(log(roof.flops) + 0.15);
  const x = (v: number): number => LEFT + ((log(v) - low) / (high - low)) * (WIDE - LEFT - 8);
  const y = (v: number): number => 8 + ((top - log(v)) / (top - bottom)) * (HIGH - BELOW - 8);
  const decades = (a: number, b: number): number[] => {
    const step = Math.max(1, Math.ceil((b - a) / 6));
    return Array.from({ length: Math.floor((b - a) / step) + 1 }, (_, i) => a + i * step);
  };
  const reach = Math.max(10 ** bottom / roof.bandwidth, 10 ** low);
  const bound = spots.filter((spot) => spot.intensity < ridge).length;
  const largest = Math.sqrt(spots[0].flops);
  return (
    <Section title={`Roofline of ${printable(roof.device, 60)}`}>
      <svg
        class="roofline"
        viewBox={`0 0 ${WIDE} ${HIGH}`}
        role="img"
        aria-label={`${count(bound)} of ${count(spots.length)} nodes are bound by memory, below ${scaled(ridge)} FLOP for each byte`}
      >
        {decades(low, high).map((d) => (
          <g key={`x${d}`}>
            <line class="grid" x1={x(10 ** d)} x2={x(10 ** d)} y1="8" y2={HIGH - BELOW} />
            <text x={x(10 ** d)} y={HIGH - BELOW + 13} text-anchor="middle">
              {power(d)}
            </text>
          </g>
        ))}
        {decades(bottom, top).map((d) => (
          <g key={`y${d}`}>
            <line class="grid" x1={LEFT} x2={WIDE - 8} y1={y(10 ** d)} y2={y(10 ** d)} />
            <text x={LEFT - 5} y={y(10 ** d) + 3.5} text-anchor="end">
              {power(d)}
            </text>
          </g>
        ))}
        <polyline
          class="roof"
          points={`${x(reach)},${y(reach * roof.bandwidth)} ${x(ridge)},${y(roof.flops)} ${x(10 ** high)},${y(roof.flops)}`}
        />
        {spots.slice(0, 1500).map((spot) => (
          <circle
            key={spot.node}
            class={spot.intensity < ridge ? "memory" : "compute"}
            cx={x(spot.intensity)}
            cy={y(Math.max(spot.rate, 10 ** bottom))}
            r={2 + (5 * Math.sqrt(spot.flops)) / largest}
            onClick={() => report.reveal(spot.node)}
          >
            <title>{`${printable(report.graph.op(spot.node), 40)} ${printable(tail(report.graph.name(spot.node)), 60)}: ${scaled(spot.intensity)} FLOP/B, ${quantity(spot.flops, "FLOP")}`}</title>
          </circle>
        ))}
        <text x={(LEFT + WIDE) / 2} y={HIGH - 4} text-anchor="middle">
          FLOP for each byte
        </text>
        <text x={-(HIGH - BELOW) / 2} y="10" text-anchor="middle" transform="rotate(-90)">
          FLOP/s
        </text>
      </svg>
      <p class="quiet">
        {count(bound)} of {count(spots.length)} nodes are bound by memory, {count(spots.length - bound)} by
        compute; the ridge is at {scaled(ridge)} FLOP/B. Peak {quantity(roof.flops, "FLOP/s")},{" "}
        {quantity(roof.bandwidth, "B/s").replace(/\/s$/, "")}/s
        {roof.source ? `; source: ${printable(roof.source)}` : ""}. Larger dots do more work.
      </p>
    </Section>
  );
}

function power(decade: number): string {
  const digits = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  const text = [...String(Math.abs(decade))].map((d) => digits[Number(d)]).join("");
  return `10${decade < 0 ? "⁻" : ""}${text}`;
}
