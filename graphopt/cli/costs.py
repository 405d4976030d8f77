"""How costs on a target are shown: the estimate, memory, the dearest nodes, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphopt.cli.output import Output, bar, duration, size

if TYPE_CHECKING:
    from graphopt.target import Device, Target

TOP = 10
ALIVE = 5
COLUMNS = (">cycles", ">share", "bound", ">MFU", ">padding")


def cost_facts(
    target: Target, cost: dict[str, Any] | None, memory: dict[str, Any] | None
) -> list[tuple[str, object]]:
    """Memory and the compiler's estimate for the whole model, as named lines."""
    from graphopt.target import device_of

    chip = device_of(target)
    device = None if chip is None else chip.per_program()
    found: list[tuple[str, object]] = []
    if memory is not None and "hbm" in memory:
        found.append(("memory", _memory(memory, device)))
    if cost:
        found.append(("estimate", _estimate(cost, device)))
        found.append(("bound by", _bound(cost)))
        found.append(("matmuls", cost.get("precision")))
    return found


def show_cost(output: Output, cost: dict[str, Any] | None, memory: dict[str, Any] | None) -> None:
    """The dearest nodes, what fills the memory, and plain advice."""
    if not cost:
        return
    _show_nodes(output, cost)
    _show_alive(output, memory or {})
    if cost.get("advice"):
        output.line()
        output.line("what the figures say", "bold")
        for line in cost["advice"]:
            output.line(f"  - {line}")


def show_buckets(output: Output, target: Target, rows: Sequence[dict[str, Any]]) -> None:
    """What each size costs, a row for each; and the facts of the largest, whose nodes are shown next."""
    costed = [row for row in rows if row["cost"]]
    if not costed:
        return
    names = list(costed[0]["sizes"])
    output.table(
        [*(f">{name}" for name in names), ">cycles", ">time", "bound", ">MFU", ">memory at the peak"],
        [
            (
                *row["sizes"].values(),
                f"{row['cost']['total_cycles']:,}",
                duration(row["cost"].get("seconds")),
                row["cost"].get("bound") or "",
                _percent(row["cost"].get("mfu")),
                size(row["memory"].get("peak", row["memory"]["hbm"])),
            )
            for row in costed
        ],
        title="each size",
    )
    largest = costed[-1]
    output.line()
    output.line(" ".join(f"{name}={n}" for name, n in largest["sizes"].items()), "bold")
    output.facts(cost_facts(target, largest["cost"], largest["memory"]))


def transfers(found: dict[str, Any] | None) -> str | None:
    """The segments of a partitioned model and what moves between them in each run, in a line."""
    if found is None:
        return None

    def moved(way: dict[str, Any]) -> str:
        bytes_ = "as many bytes as the data says" if way["bytes"] is None else size(way["bytes"])
        return f"{way['values']} {'value' if way['values'] == 1 else 'values'}, {bytes_}"

    return (
        f"{found['xla_segments']} segments on XLA, {found['host_segments']} on the host; each run moves "
        f"{moved(found['to_host'])}, to the host and {moved(found['to_device'])}, to the device"
    )


def _memory(memory: dict[str, Any], device: Device | None) -> str:
    peak = memory.get("peak", memory["hbm"])
    room = f" of {size(device.hbm_bytes)} ({peak / device.hbm_bytes:.1%})" if device else ""
    parts = [
        f"{name} {size(memory[key])}"
        for name, key in (
            ("weights", "weights"),
            ("activations", "activations"),
            ("arguments", "argument"),
            ("outputs", "output"),
            ("temporaries", "temp"),
            ("code", "generated_code"),
        )
        if memory.get(key)
    ]
    return f"{size(peak)}{room} at the peak" + (f": {', '.join(parts)}" if parts else "")


def _estimate(cost: dict[str, Any], device: Device | None) -> str:
    if cost.get("kind") == "roofline":
        launches = f"{cost['launches']} kernel launches"
        return f"at least {duration(cost['seconds'])} in {launches} ({cost['source']})"
    total, clock = cost["total_cycles"], device.clock_hz if device else None
    if not clock:
        time = ", no published clock to time them"
    else:
        time = f", {duration(total / clock)} at {clock / 1e6:.0f} MHz"
        seconds = cost.get("seconds")
        if seconds and seconds > 1.001 * total / clock:
            time += f"; {duration(seconds)} with its bytes at the memory's speed"
    return f"{total:,} cycles{time} ({cost.get('source', 'the compiler')})"


def _bound(cost: dict[str, Any]) -> str | None:
    if "bound" not in cost:
        return None
    least = cost.get("least_seconds") or {}
    floors = ", ".join(f"{name} needs {duration(spent)}" for name, spent in least.items())
    mfu = cost.get("mfu")
    return f"{cost['bound']} ({floors}" + (f"; MFU {mfu:.1%})" if mfu is not None else ")")


def _show_nodes(output: Output, cost: dict[str, Any]) -> None:
    if cost.get("kind") == "roofline":
        _show_roofline(output, cost)
        return
    shown = cost["nodes"][:TOP]
    merged = any(_origins(row["origins"], row["node"]) for row in shown)
    rows = [
        (
            row["node"],
            row["op_type"],
            *([_origins(row["origins"], row["node"])] if merged else []),
            f"{row['cycles']:,.0f}",
            f"{row['share']:.1%}",
            row.get("bound", ""),
            _percent(row.get("mfu")),
            _padding(row.get("padding")),
            bar(row["share"]),
        )
        for row in shown
    ]
    if rows:
        output.table(
            ["node", "op", *(["stands for"] if merged else []), *COLUMNS, ""],
            rows,
            title=f"dearest {len(rows)} of {len(cost['nodes'])} nodes with cycles of their own",
        )
    total, spent = cost["total_cycles"], cost.get("unattributed_cycles")
    if total and spent:
        output.line(f"{spent:,.0f} cycles ({spent / total:.1%}) belong to no node: copies, transfers, layout")


def _show_roofline(output: Output, cost: dict[str, Any]) -> None:
    """The nodes whose kernels need longest at the device's peaks."""
    rows = [
        (
            row["node"],
            row["op_type"],
            _origins(row["origins"], row["node"]),
            duration(row["seconds"]),
            f"{row['share']:.1%}",
            size(row["hbm_bytes"]),
            len(row["kernels"]),
            bar(row["share"]),
        )
        for row in cost["nodes"][:TOP]
    ]
    if rows:
        output.table(
            ["node", "op", "stands for", ">least time", ">share", ">moved", ">kernels", ""],
            rows,
            title=f"dearest {len(rows)} of {len(cost['nodes'])} nodes, by their kernels' least time",
        )


def _show_alive(output: Output, memory: dict[str, Any]) -> None:
    """The largest tensors alive at the peak: worth a look only where temporaries are among them."""
    alive = memory.get("alive_at_peak") or []
    if not any(each["kind"] == "temporary" for each in alive):
        return
    rows = []
    for each in alive[:ALIVE]:
        where = each["tensor"] if each["kind"] == "argument" else each["node"] or each["tensor"]
        rows.append((where, each["kind"], each["shape"], size(each["bytes"])))
    output.table(
        ["tensor, or node that makes it", "kind", "shape", ">bytes"],
        rows,
        title="largest tensors alive at the peak of memory",
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _padding(padding: dict[str, int] | None) -> str:
    """The share of a node's tensors, in memory, that is padding."""
    if not padding or not padding["padded_bytes"]:
        return ""
    return f"{1 - padding['used_bytes'] / padding['padded_bytes']:.0%}"


def _origins(names: list[str], own: str) -> str:
    others = [name for name in names if name != own]
    shown = ", ".join(others[:3])
    return f"{shown} and {len(others) - 3} more" if len(others) > 3 else shown
