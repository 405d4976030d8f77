"""Colours and line styles, light and dark. Text has a contrast of at least 4.5 to 1 on every fill."""

from __future__ import annotations

from graphopt.viz.picture import State

# family: (strip, fill) in light, (strip, fill) in dark
FAMILY_COLOURS: dict[str, tuple[str, str, str, str]] = {
    "linear": ("#0969da", "#ddf0ff", "#58a6ff", "#10294a"),
    "normalization": ("#8250df", "#f1e8ff", "#a371f7", "#2b1f47"),
    "activation": ("#bc4c00", "#ffead9", "#f0883e", "#3d2411"),
    "pooling": ("#1a7f37", "#dcf5e3", "#3fb950", "#12331d"),
    "arithmetic": ("#6e7781", "#eceff2", "#8b949e", "#272d35"),
    "layout": ("#0a7580", "#d8f3f5", "#39c5cf", "#0d3236"),
    "conversion": ("#bf3989", "#ffe4f3", "#f778ba", "#401a31"),
    "control": ("#9a6700", "#fff3c9", "#d29922", "#3a2c0a"),
    "other": ("#24292f", "#ffffff", "#c9d1d9", "#1c2128"),
}

# state: colour in light, colour in dark, stroke width, dash pattern
STATE_BORDERS: dict[State, tuple[str, str, float, str]] = {
    State.SAME: ("#848d97", "#6e7681", 1.0, ""),
    State.CHANGED: ("#9a6700", "#d29922", 2.0, "7 3"),
    State.FUSED: ("#8250df", "#b083ff", 3.0, ""),
    State.REMOVED: ("#cf222e", "#ff7b72", 2.0, "2 3"),
    State.ADDED: ("#1a7f37", "#3fb950", 1.5, ""),
}

# Drawn as lines in a circle of radius 8, so that no font has to have them.
STATE_GLYPHS: dict[State, str] = {
    State.SAME: "M-3.5-1.8h7M-3.5 1.8h7",
    State.CHANGED: "M0-4L4.2 3.2H-4.2z",
    State.FUSED: "M-3.6-4L0 0L3.6-4M0 0V4.4",
    State.REMOVED: "M-3.2-3.2L3.2 3.2M-3.2 3.2L3.2-3.2",
    State.ADDED: "M-4.2 0h8.4M0-4.2v8.4",
}

FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',Arial,sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"


def style_sheet() -> str:
    """The CSS of a picture; every selector starts at its root, so nothing leaks into a page around it."""
    base = [
        f".go text{{font-family:{FONT};font-size:10px;fill:#1b1f24}}",
        ".go .page{fill:#ffffff}.go .panel{fill:#f6f8fa;stroke:#d0d7de}",
        ".go .h1{font-size:18px;font-weight:600}.go .h2{font-size:13px;font-weight:600}",
        ".go .op{font-size:12.5px;font-weight:600}.go .muted{fill:#4d5761}",
        f".go .mono{{font-family:{MONO};font-size:9.5px}}",
        ".go .key{font-size:11px}.go .end{text-anchor:end}.go .mid{text-anchor:middle}",
        ".go .edge{fill:none;stroke:#6e7781;stroke-width:1.2}.go .head{fill:#6e7781;stroke:none}",
        ".go .port{fill:#ffffff;stroke:#6e7781}.go .plain{stroke:#848d97;stroke-width:1}",
        ".go .stack{stroke:#848d97;stroke-width:1}",
        ".go .tag{fill:#ffffff;stroke:#57606a}.go .tagout{fill:#57606a;stroke:#57606a}",
        ".go .tagtext{font-size:9px;text-anchor:middle}.go .tagouttext{fill:#ffffff}",
        ".go .badge{fill:#ffffff;stroke-width:1.5}.go .glyph{fill:none;stroke-width:1.7}",
        ".go .inner{fill:none;stroke-width:1}.go .gone{opacity:.72}",
    ]
    dark = [
        ".go text{fill:#e6edf3}.go .page{fill:#0d1117}.go .panel{fill:#151b23;stroke:#30363d}",
        ".go .muted{fill:#9da7b3}.go .edge{stroke:#8b949e}.go .head{fill:#8b949e}",
        ".go .port{fill:#0d1117;stroke:#8b949e}.go .badge{fill:#0d1117}",
        ".go .tag{fill:#0d1117;stroke:#9da7b3}.go .tagout{fill:#9da7b3;stroke:#9da7b3}",
        ".go .tagouttext{fill:#0d1117}",
    ]
    for family, (strip, fill, dark_strip, dark_fill) in FAMILY_COLOURS.items():
        base.append(f".go .f-{family}{{fill:{fill}}}.go .s-{family}{{fill:{strip}}}")
        dark.append(f".go .f-{family}{{fill:{dark_fill}}}.go .s-{family}{{fill:{dark_strip}}}")
    for state, (colour, dark_colour, width, dashes) in STATE_BORDERS.items():
        dash = f";stroke-dasharray:{dashes}" if dashes else ""
        base.append(f".go .b-{state.value}{{stroke:{colour};stroke-width:{width:g}{dash}}}")
        base.append(f".go .c-{state.value}{{stroke:{colour}}}")
        dark.append(f".go .b-{state.value},.go .c-{state.value}{{stroke:{dark_colour}}}")
    return "\n".join([*base, "@media (prefers-color-scheme:dark){", *dark, "}"])
