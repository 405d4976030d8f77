import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { GLYPHS } from "../palette";
import type { Report } from "../report";
import type { Status } from "../types";
import { printable, tail } from "../text";

export const MEANING: Record<Status, string> = {
  same: "Same on both sides",
  changed: "Changed: its attributes or tensors differ",
  fused: "Fused: one node stands for several, or is one of them",
  removed: "Removed: nothing stands for it",
  added: "Added: it comes from no node before",
};

export function Glyph({ status }: { status: Status }) {
  return (
    <svg class={`glyph ${status}`} viewBox="-3 -3 16 16" width="16" height="16" aria-hidden="true">
      <circle cx="5" cy="5" r="8" />
      <path d={GLYPHS[status]} />
    </svg>
  );
}

export function Badge({ status, children }: { status: Status; children?: ComponentChildren }) {
  return (
    <span class={`badge ${status}`} title={MEANING[status]}>
      <Glyph status={status} />
      {status}
      {children}
    </span>
  );
}

/** A button that shows a node: operator, end of the name, what became of it. */
export function NodeLink({ report, node, extra }: { report: Report; node: number; extra?: string }) {
  const { graph, lens } = report;
  const lives = lens.lives(node, "both");
  const status = lens.diff.statusAfter.get(node) ?? lens.diff.statusBefore.get(node);
  return (
    <button
      type="button"
      class="node-link"
      disabled={!lives}
      title={printable(graph.name(node))}
      data-node={graph.key(node)}
      onClick={() => report.reveal(node)}
    >
      {status && !lens.plain && <Glyph status={status} />}
      <b>{printable(graph.op(node), 60)}</b>
      <span>{printable(tail(graph.name(node)), 60)}</span>
      {extra && <em>{extra}</em>}
    </button>
  );
}

/** A list that begins short and grows when asked. */
export function Long<T>({
  all,
  step = 60,
  children,
}: {
  all: T[];
  step?: number;
  children: (item: T, i: number) => ComponentChildren;
}) {
  const [most, setMost] = useState(step);
  return (
    <>
      {all.slice(0, most).map(children)}
      {all.length > most && (
        <button type="button" class="more" onClick={() => setMost(most + step * 4)}>
          Show more ({(all.length - most).toLocaleString("en")} left)
        </button>
      )}
    </>
  );
}

export function Section({
  title,
  aside,
  children,
}: {
  title: string;
  aside?: ComponentChildren;
  children: ComponentChildren;
}) {
  return (
    <section class="section">
      <h3>
        {title}
        {aside !== undefined && <span class="aside">{aside}</span>}
      </h3>
      {children}
    </section>
  );
}
