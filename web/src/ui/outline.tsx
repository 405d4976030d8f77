import { useMemo, useState } from "preact/hooks";
import { isBox, itemBox } from "../layout";
import type { Report } from "../report";
import { bytesText, count, printable, tail, typeOf } from "../text";
import { Glyph, Long, NodeLink } from "./pieces";

/** The graph for readers who do not see the drawing: a tree of groups and nodes, and a table of all nodes. */
export function Outline({ report }: { report: Report }) {
  const [form, setForm] = useState<"tree" | "table">("tree");
  return (
    <>
      <div class="segmented small" role="group" aria-label="Form of the outline">
        {(["tree", "table"] as const).map((name) => (
          <button type="button" key={name} aria-pressed={form === name} onClick={() => setForm(name)}>
            {name === "tree" ? "Tree" : "Table"}
          </button>
        ))}
      </div>
      {form === "tree" ? <Tree report={report} /> : <Table report={report} />}
    </>
  );
}

interface Row {
  id: string;
  depth: number;
  box: number;
  node: number;
  open: boolean;
  more: number;
  parent: string;
}

const EACH = 250;

function rows(report: Report, open: Set<number>): Row[] {
  const { graph, lens } = report;
  const all: Row[] = [];
  const visit = (box: number, depth: number): void => {
    const { boxes, slots } = graph.boxes.get(box);
    const parent = `b${box}`;
    const items = [
      ...slots.map((slot) => ({ at: graph.order[slot], slot, box: -1 })),
      ...boxes.map((child) => ({ at: firstOrder(report, child), slot: -1, box: child })),
    ].sort((a, b) => a.at - b.at);
    let shown = 0;
    for (const item of items) {
      if (shown++ >= EACH) {
        all.push({ id: `m${box}`, depth, box: -1, node: -1, open: false, more: items.length - EACH, parent });
        break;
      }
      if (item.box >= 0) {
        if (!lens.inBox(item.box, "both", false).nodes) continue;
        const isOpen = open.has(item.box);
        all.push({ id: `b${item.box}`, depth, box: item.box, node: -1, open: isOpen, more: 0, parent });
        if (isOpen) visit(item.box, depth + 1);
      } else {
        const node = lens.nodeIn(item.slot, "both");
        if (node >= 0) all.push({ id: `n${item.slot}`, depth, box: -1, node, open: false, more: 0, parent });
      }
    }
  };
  visit(0, 1);
  return all;
}

function firstOrder(report: Report, box: number): number {
  for (const slot of report.graph.boxes.slotsIn(box)) return report.graph.order[slot];
  return Infinity;
}

function Tree({ report }: { report: Report }) {
  const { graph, lens, state } = report;
  const [open, setOpen] = useState<Set<number>>(() => new Set());
  const all = rows(report, open);
  const selectedId =
    state.selected === null
      ? ""
      : isBox(state.selected)
        ? `b${itemBox(state.selected)}`
        : `n${state.selected}`;
  const [focused, setFocused] = useState("");
  const current = all.some((row) => row.id === focused)
    ? focused
    : all.some((row) => row.id === selectedId)
      ? selectedId
      : all[0]?.id;
  const flip = (box: number): void => {
    const next = new Set(open);
    if (!next.delete(box)) next.add(box);
    setOpen(next);
  };
  const activate = (row: Row): void => {
    if (row.node >= 0) report.reveal(row.node);
    else if (row.box >= 0) {
      report.revealBox(row.box);
    }
    report.set({ tab: "outline" });
  };
  const move = (id: string | undefined): void => {
    if (!id) return;
    setFocused(id);
    requestAnimationFrame(() => document.getElementById(`tree-${id}`)?.focus());
  };
  const onKey = (event: KeyboardEvent, row: Row): void => {
    const at = all.indexOf(row);
    const acts: Record<string, () => void> = {
      ArrowDown: () => move(all[at + 1]?.id),
      ArrowUp: () => move(all[at - 1]?.id),
      Home: () => move(all[0]?.id),
      End: () => move(all[all.length - 1]?.id),
      ArrowRight: () => (row.box >= 0 && !row.open ? flip(row.box) : move(all[at + 1]?.id)),
      ArrowLeft: () => (row.open ? flip(row.box) : move(row.parent)),
      Enter: () => activate(row),
      " ": () => activate(row),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    acts[event.key]();
  };
  if (!all.length) return <p class="hint">There is nothing in this graph.</p>;
  return (
    <ul role="tree" aria-label="Groups and nodes" class="tree">
      {all.map((row) => (
        <li
          key={row.id}
          id={`tree-${row.id}`}
          role="treeitem"
          class={`depth-${Math.min(row.depth, 12)}`}
          aria-level={row.depth}
          aria-selected={row.id === selectedId}
          aria-expanded={row.box >= 0 ? row.open : undefined}
          tabIndex={row.id === current ? 0 : -1}
          onKeyDown={(event) => onKey(event, row)}
          onFocus={() => setFocused(row.id)}
          onClick={() => activate(row)}
        >
          {row.box >= 0 && (
            <>
              <span
                class="twist"
                aria-hidden="true"
                onClick={(event) => {
                  event.stopPropagation();
                  flip(row.box);
                }}
              >
                {row.open ? "▾" : "▸"}
              </span>
              <b>{printable(graph.boxes.get(row.box).label, 60) || "group"}</b>
              <span class="quiet">{count(lens.inBox(row.box, "both", false).nodes)}</span>
            </>
          )}
          {row.node >= 0 && (
            <>
              {!lens.plain && <Glyph status={lens.status(row.node, "both")} />}
              <b>{printable(graph.op(row.node), 40)}</b>
              <span class="quiet">{printable(tail(graph.name(row.node)), 60)}</span>
              {!lens.plain && <span class="sr">{lens.status(row.node, "both")}</span>}
            </>
          )}
          {row.more > 0 && <span class="quiet">{count(row.more)} more; search for them</span>}
        </li>
      ))}
    </ul>
  );
}

type Column = "op" | "name" | "status" | "type" | "bytes";

function Table({ report }: { report: Report }) {
  const { graph, lens } = report;
  const [sort, setSort] = useState<{ by: Column; down: boolean } | null>(null);
  const nodes = useMemo(() => {
    const all = new Set([...lens.diff.statusAfter.keys(), ...lens.diff.statusBefore.keys()]);
    const shown = [...all].filter(
      (node) => node < graph.realNodes && (lens.lives(node, "after") || !replaced(node)),
    );
    function replaced(node: number): boolean {
      return graph.nodeOf(graph.key(node), lens.after) >= 0;
    }
    const first = (node: number): number => graph.outputs(node).find((value) => value >= 0) ?? -1;
    const key: Record<Column, (node: number) => string | number> = {
      op: (node) => graph.op(node),
      name: (node) => graph.name(node),
      status: (node) => lens.status(node, "both"),
      type: (node) => (first(node) < 0 ? "" : typeOf(graph, first(node))),
      bytes: (node) => (first(node) < 0 ? -1 : (graph.bytes(first(node)) ?? -1)),
    };
    const of = sort ? key[sort.by] : (node: number): number => graph.order[graph.slot[node]];
    const keys = new Map(shown.map((node) => [node, of(node)]));
    shown.sort((a, b) => {
      const [x, y] = [keys.get(a)!, keys.get(b)!];
      return (x < y ? -1 : x > y ? 1 : a - b) * (sort?.down ? -1 : 1);
    });
    return shown;
  }, [lens, sort]);
  const head = (by: Column, label: string) => (
    <th scope="col" aria-sort={sort?.by === by ? (sort.down ? "descending" : "ascending") : "none"}>
      <button
        type="button"
        onClick={() => setSort({ by, down: sort?.by === by ? !sort.down : by === "bytes" })}
      >
        {label}
        {sort?.by === by ? (sort.down ? " ↓" : " ↑") : ""}
      </button>
    </th>
  );
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="All nodes">
      <table class="plain">
        <thead>
          <tr>
            {!lens.plain && head("status", "Change")}
            {head("op", "Operator")}
            {head("name", "Name")}
            {head("type", "First output")}
            {head("bytes", "Size")}
          </tr>
        </thead>
        <tbody>
          <Long all={nodes} step={120}>
            {(node) => {
              const out = graph.outputs(node).find((value) => value >= 0) ?? -1;
              return (
                <tr key={node}>
                  {!lens.plain && (
                    <td class="nowrap">
                      <Glyph status={lens.status(node, "both")} /> {lens.status(node, "both")}
                    </td>
                  )}
                  <td>{printable(graph.op(node), 60)}</td>
                  <td>
                    <button
                      type="button"
                      class="plain-link"
                      title={printable(graph.name(node))}
                      onClick={() => report.reveal(node)}
                    >
                      {printable(tail(graph.name(node)), 60) || "(no name)"}
                    </button>
                  </td>
                  <td>{out < 0 ? "" : typeOf(graph, out)}</td>
                  <td class="number">{out < 0 ? "" : bytesText(graph.bytes(out))}</td>
                </tr>
              );
            }}
          </Long>
        </tbody>
      </table>
    </div>
  );
}

/** Everything that changed between the two steps, by what became of it. */
export function Changes({ report }: { report: Report }) {
  const { lens, graph } = report;
  const groups = useMemo(() => {
    const { statusBefore, statusAfter, origins } = lens.diff;
    const inOrder = (a: number, b: number): number => graph.order[graph.slot[a]] - graph.order[graph.slot[b]];
    const pick = (from: Map<number, string>, status: string): number[] =>
      [...from]
        .filter(([, s]) => s === status)
        .map(([node]) => node)
        .sort(inOrder);
    return {
      fused: pick(statusAfter, "fused").map((node) => ({
        node,
        note: `from ${origins.get(node)?.length ?? 0}`,
      })),
      added: pick(statusAfter, "added").map((node) => ({ node, note: "" })),
      removed: pick(statusBefore, "removed").map((node) => ({ node, note: "" })),
      changed: pick(statusAfter, "changed").map((node) => ({ node, note: "" })),
    };
  }, [lens]);
  const titles = { fused: "Fused", added: "Added", removed: "Removed", changed: "Changed" };
  const some = Object.values(groups).some((list) => list.length);
  if (lens.plain)
    return <p class="hint">This report shows one model. There is nothing to compare it with.</p>;
  if (!some) return <p class="hint">Nothing changed between these two steps.</p>;
  return (
    <>
      {(Object.keys(titles) as (keyof typeof titles)[])
        .filter((status) => groups[status].length)
        .map((status) => (
          <section class="section" key={status}>
            <h3>
              <Glyph status={status} /> {titles[status]}
              <span class="aside">{count(groups[status].length)}</span>
            </h3>
            <div class="links">
              <Long all={groups[status]} step={30}>
                {({ node, note }) => <NodeLink key={node} report={report} node={node} extra={note} />}
              </Long>
            </div>
          </section>
        ))}
    </>
  );
}
