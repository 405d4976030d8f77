"""Pictures of graphs: one model, a model before and after, or what every pass of a pipeline did.

``graphopt.visualize("model.onnx")`` shows itself in a notebook; ``.save("report.html")`` writes a page
to look around in, ``.save("model.svg")`` a drawing. Each file needs nothing else.
"""

from __future__ import annotations

import dataclasses
import html
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from graphopt.errors import OutputError, UsageError
from graphopt.ir import Model
from graphopt.ir.io import ModelSource
from graphopt.viz.collapse import collapse
from graphopt.viz.matching import match
from graphopt.viz.mermaid import to_mermaid
from graphopt.viz.model_explorer import to_model_explorer
from graphopt.viz.page import to_html, to_json
from graphopt.viz.picture import Pane, Picture, pane_of
from graphopt.viz.sight import hidden_constant
from graphopt.viz.svg import to_svg
from graphopt.viz.timeline import Timeline
from graphopt.viz.view import Measured, model_view, prepared, run_view

__all__ = [
    "SUFFIXES",
    "Measured",
    "Pane",
    "Picture",
    "Timeline",
    "Visualization",
    "check_suffix",
    "frame",
    "is_small",
    "model_view",
    "run_view",
    "shown_nodes",
    "to_html",
    "visualize",
    "write",
]

SUFFIXES = (".html", ".svg", ".mmd", ".json")
"""What a picture is saved as: a page, a drawing, Mermaid text, or a graph for Model Explorer."""

MAX_INLINE = 4 << 20
"""A page of more characters than this is not put into a notebook: its drawing is."""

MAX_INLINE_NODES = 3000


@dataclasses.dataclass(frozen=True)
class Visualization:
    """A picture that can be looked at.

    Attributes:
        models: what is shown, each with the names that were made up for its nodes.
        heading: the title; None for the name of the graph.
        measured: what is known of the last model beside its structure.
    """

    models: tuple[tuple[Model, frozenset[str]], ...] = dataclasses.field(repr=False)
    heading: str | None = None
    measured: Measured | None = dataclasses.field(default=None, repr=False)

    @cached_property
    def picture(self) -> Picture:
        """What the drawing shows, as plain data: large graphs are collapsed into few boxes."""
        panes = [pane_of(model) for model, _ in self.models]
        if len(panes) == 2:
            panes = list(match(*panes))
        panes = list(collapse(panes))
        return Picture(self.heading if self.heading is not None else panes[0].name or "graph", *panes)

    @cached_property
    def view(self) -> dict[str, Any]:
        """What the page shows, as plain data (schema ``graphopt.view/1``)."""
        return model_view(*self.models, title=self.heading, measured=self.measured)

    def html(self) -> str:
        """The page that shows the graph: one HTML document that loads nothing."""
        return to_html(self.view)

    def svg(self) -> str:
        """The drawing, as an SVG document of its own."""
        return self._svg

    @cached_property
    def _svg(self) -> str:
        return to_svg(self.picture)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture to `path`: ``.html``, ``.svg``, ``.mmd`` or ``.json`` (for Model Explorer).

        Raises:
            UsageError: GO701, for another suffix, or a graph too large for Mermaid.
            OutputError: GO111, if the file cannot be written.
        """
        suffix = check_suffix(path)
        texts: dict[str, Callable[[], str]] = {
            ".html": self.html,
            ".svg": self.svg,
            ".mmd": lambda: to_mermaid(self.view),
            ".json": lambda: to_json(to_model_explorer(self.view)),
        }
        write(path, texts[suffix]())

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        """The page in a frame of its own; of a large graph the drawing."""
        if is_small(*(model for model, _ in self.models)):
            page = self.html()
            if len(page) <= MAX_INLINE:
                return frame(page)
        return f'<div style="overflow:auto;max-height:85vh">{self.svg()}</div>'


def is_small(*models: Model) -> bool:
    """Whether a page of `models` belongs into a notebook."""
    return sum(map(shown_nodes, models)) <= MAX_INLINE_NODES


def frame(page: str) -> str:
    """`page` as an element of a notebook: its script runs apart from the notebook's own."""
    return (
        '<iframe sandbox="allow-scripts allow-downloads allow-popups" '
        'style="width:100%;height:80vh;border:0" title="graphopt report" '
        f'srcdoc="{html.escape(page)}"></iframe>'
    )


def visualize(
    before: ModelSource,
    after: ModelSource | None = None,
    *,
    title: str | None = None,
    measured: Measured | None = None,
) -> Visualization:
    """The picture of a model, or of a model before and after a change.

    Nodes of a pair are matched by provenance (:mod:`graphopt.ir.provenance`): where `after` was made
    by graphopt it knows which nodes of `before` each of its nodes stands for; else names decide, and on
    the page then the structure.

    Args:
        before, after: models, or anything that :func:`graphopt.load` takes. They are shown as they were
            written, with the shapes that can be inferred, and never changed.
        title: the heading; the name of the graph by default.
        measured: what is known of the last model: cycles, placement, errors, its device.

    Raises:
        ModelError: a model cannot be read.
    """
    models = tuple(prepared(source) for source in (before, after) if source is not None)
    return Visualization(models, title, measured)


def shown_nodes(model: Model) -> int:
    """Nodes of `model`, nested ones included, but not the Constants, which are shown as weights."""
    return sum(1 for node in model.graph.all_nodes() if not hidden_constant(node))


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of `path` in lower case. Raises UsageError (GO701) for one that names no form."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            "GO701",
            "a picture is saved as a page, a drawing, Mermaid text or a graph for Model Explorer",
            where=str(path),
            found=repr(suffix),
            expected=f"a file name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
        )
    return suffix


def write(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` in UTF-8. Raises OutputError (GO111) if that cannot be done."""
    try:
        Path(path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(
            "GO111", f"the picture cannot be written: {error.strerror or error}", where=str(path)
        ) from error
