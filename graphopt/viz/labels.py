"""Text from a model as text in a picture: names are data, whatever is in them."""

from __future__ import annotations

import unicodedata

MAX_TITLE_CHARACTERS = 16_384
"""Longest text in a tooltip: a name of 10 kB is shown in full, a name of 1 MB is not."""

_NARROW = frozenset("iljtfrI.,:;|!'()[]/\\ `")
_WIDE = frozenset("mwMW@%—…")
# Zero width, line breaks, direction marks, surrogates: what would hide, reorder or break the text.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str) -> str:
    """`text` with every control, format and direction character written out as ``\\u{202E}``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"\\u{{{ord(c):04X}}}" if unicodedata.category(c) in _UNSEEN or (ord(c) & 0xFFFE) == 0xFFFE else c
        for c in text
    )


def escape(text: str) -> str:
    """`text` made visible and safe as XML character data and as a quoted attribute."""
    return (
        visible(text)
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace('"', "&quot;")
        .replace("'", "&#39;")
    )


def tooltip(text: str) -> str:
    """`text` in full, but for what goes beyond 16,384 characters; escaped."""
    return escape(text if len(text) <= MAX_TITLE_CHARACTERS else text[: MAX_TITLE_CHARACTERS - 1] + "…")


def text_width(text: str, size: float, *, mono: bool = False) -> float:
    """The width of `text` in pixels at font size `size`, estimated from above for common fonts."""
    total = 0.0
    for c in text:
        if unicodedata.east_asian_width(c) in "WF":
            total += 1.0
        elif mono:
            total += 0.61
        elif c in _NARROW:
            total += 0.34
        elif c in _WIDE or unicodedata.category(c) == "So":
            total += 0.95
        else:
            total += 0.68 if c.isupper() else 0.58
    return total * size


def shorten(text: str, width: float, size: float, *, mono: bool = False, keep_end: bool = False) -> str:
    """`text`, visible, cut to `width` pixels with an ellipsis at its end, or at its start."""
    most = int(width / (size * 0.3)) + 2  # more characters than this never fit
    cut = len(text) > most
    text = visible(text[-most:] if keep_end else text[:most])
    if not cut and text_width(text, size, mono=mono) <= width:
        return text
    room = width - text_width("…", size, mono=mono)
    kept = ""
    for c in reversed(text) if keep_end else text:
        room -= text_width(c, size, mono=mono)
        if room < 0:
            break
        kept = c + kept if keep_end else kept + c
    return f"…{kept.lstrip('./')}" if keep_end else f"{kept}…"


def bytes_text(count: int) -> str:
    """A number of bytes for people: ``412 B``, ``36.9 kB``, ``1.2 GB`` (powers of 1000)."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value:.3g} PB"


def counted(count: int, noun: str) -> str:
    """``1 node``, ``1,024 nodes``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
