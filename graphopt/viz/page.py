"""The report: a view and the program that shows it, as one HTML file that needs nothing else.

The page's policy allows its own script and style by their hashes, images that are in it, and nothing
else: no network, no evaluated text. The view is data in a script element that no browser runs; ``<`` is
written as an escape in it, so that no name of a model can end the element.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from graphopt.errors import InvariantError

COMPRESS_FROM = 1 << 20
"""A view of more characters than this is compressed."""

_CLOSING = re.compile(r"</(?:script|style)|<!--", re.IGNORECASE)


def to_html(view: Mapping[str, Any]) -> str:
    """The page that shows `view` (schema ``graphopt.view/1``); the same for the same view.

    What comes from a model is ASCII in it, so that no character hides or reorders the text of the file.
    """
    script, style = bundle()
    data = to_json(view)
    if len(data) > COMPRESS_FROM:
        packed = base64.b64encode(gzip.compress(data.encode("ascii"), 6, mtime=0)).decode("ascii")
        element = f'<script type="application/octet-stream;base64" id="view-gz">{packed}</script>'
    else:
        element = f'<script type="application/json" id="view">{data}</script>'
    title = html.escape(_plain(str(view.get("title", "graph")))[:200])
    title = title.encode("ascii", "xmlcharrefreplace").decode("ascii")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(script, style)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{title} - graphopt</title>\n<style>{style}</style>\n</head>\n<body>\n"
        '<div id="app"></div>\n'
        "<noscript>This report draws the graph with the script that it holds: allow scripts for this "
        "file. It loads nothing from anywhere.</noscript>\n"
        f"{element}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def to_json(view: Mapping[str, Any]) -> str:
    """`view` as ASCII that may stand in an HTML element: ``<``, ``>`` and ``&`` are escapes."""
    text = json.dumps(view, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def policy(script: str, style: str) -> str:
    """The content security policy of a page with this script and this style."""
    return (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


@functools.cache
def bundle() -> tuple[str, str]:
    """The front end's script and style, as they were built from ``web/``.

    Raises:
        InvariantError: GO901, the installation is not complete, or a file could end its own element.
    """
    texts = []
    for name in ("report.js", "report.css"):
        try:
            text = (resources.files("graphopt.viz") / "static" / name).read_text(encoding="utf-8")
        except OSError as error:
            raise InvariantError(
                "GO901",
                f"the front end of the report is missing: {name}",
                next_step="Install graphopt again.",
            ) from error
        if _CLOSING.search(text):
            raise InvariantError("GO901", f"{name} holds text that would end its own element")
        texts.append(text.replace("\r\n", "\n"))
    return texts[0], texts[1]


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _plain(text: str) -> str:
    """`text` without characters that would hide or reorder it."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
