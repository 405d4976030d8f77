"""Pictures of graphs: one model, or a model before and after.

``graphopt.visualize("model.onnx")`` shows itself in a notebook; ``.save("model.svg")`` writes a file
that needs nothing else.
"""

from __future__ import annotations

import dataclasses
import os
from functools import cached_property
from pathlib import Path

from graphopt.errors import OutputError, UsageError
from graphopt.ir import Model
from graphopt.ir.ingest import name_everything
from graphopt.ir.io import ModelSource, read
from graphopt.ir.shapes import infer_shapes
from graphopt.viz.collapse import collapse
from graphopt.viz.matching import match
from graphopt.viz.picture import Pane, Picture, pane_of
from graphopt.viz.svg import to_svg

__all__ = ["Pane", "Picture", "Visualization", "visualize"]


@dataclasses.dataclass(frozen=True)
class Visualization:
    """A picture that can be looked at.

    Attributes:
        picture: what is shown, as plain data.
    """

    picture: Picture

    def svg(self) -> str:
        """The picture as an SVG document of its own."""
        return self._svg

    @cached_property
    def _svg(self) -> str:
        return to_svg(self.picture)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture to `path`, which ends in ``.svg``.

        Raises:
            UsageError: GO701, for another suffix.
            OutputError: GO111, if the file cannot be written.
        """
        target = Path(path)
        if target.suffix.lower() != ".svg":
            raise UsageError(
                "GO701",
                "a picture is saved as SVG",
                where=str(target),
                found=repr(target.suffix),
                expected="a file name that ends in .svg",
            )
        try:
            target.write_text(self.svg(), encoding="utf-8", newline="\n")
        except OSError as error:
            raise OutputError(
                "GO111", f"the picture cannot be written: {error.strerror or error}", where=str(target)
            ) from error

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        return f'<div style="overflow:auto;max-height:85vh">{self.svg()}</div>'


def visualize(
    before: ModelSource, after: ModelSource | None = None, *, title: str | None = None
) -> Visualization:
    """The picture of a model, or of a model before and after a change.

    Nodes of a pair are matched by provenance (:mod:`graphopt.ir.provenance`): where `after` was made
    by graphopt it knows which nodes of `before` each of its nodes stands for; else names decide.

    Args:
        before, after: models, or anything that :func:`graphopt.load` takes. They are shown as they were
            written, with the shapes that can be inferred, and never changed.
        title: the heading; the name of the graph by default.

    Raises:
        ModelError: a model cannot be read.
    """
    panes = [_pane(source) for source in (before, after) if source is not None]
    if len(panes) == 2:
        panes = list(match(*panes))
    panes = list(collapse(panes))
    heading = title if title is not None else panes[0].name or "graph"
    return Visualization(Picture(heading, *panes))


def _pane(source: ModelSource) -> Pane:
    model = read(source)
    name_everything(model)  # the names that provenance refers to
    if not isinstance(source, Model):
        infer_shapes(model)
    return pane_of(model)
