"""What a pass is: a frozen dataclass whose fields are its options, and a record of what it changed."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
from collections import Counter
from typing import Any, ClassVar

import onnx_ir.passes

from graphopt.ir import Model


class Exactness(enum.Enum):
    """How far a pass may move a result; verification takes its tolerance from it.

    ``BIT_EXACT`` results are the same bits. ``REASSOCIATES`` the same real numbers, rounded in
    another order. ``LOSSY`` another precision on purpose.
    """

    BIT_EXACT = "bit-exact"
    REASSOCIATES = "reassociates"
    LOSSY = "lossy"


@dataclasses.dataclass
class Changes:
    """What one run of a pass did.

    Attributes:
        counts: how often each thing (a rule, an operator) was applied.
        declined: how often each reason kept a candidate from being changed.
        seconds: time by rule, where the pass has rules.
    """

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    declined: Counter[str] = dataclasses.field(default_factory=Counter)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def modified(self) -> bool:
        """Whether the model is different from what it was."""
        return self.counts.total() > 0


class Pass(onnx_ir.passes.InPlacePass):
    """Base of all passes: subclass it as a frozen dataclass and implement :meth:`run`.

    The class ``FuseConvBn`` in ``passes/fuse_conv_bn.py`` is ``fuse-conv-bn`` in pipeline text, and
    its dataclass fields are its options there.
    """

    exactness: ClassVar[Exactness] = Exactness.BIT_EXACT

    def run(self, model: Model) -> Changes:
        """Change `model` in place and say what was changed."""
        raise NotImplementedError

    def call(self, model: Model) -> onnx_ir.passes.PassResult:
        """Run as an onnx-ir pass."""
        return onnx_ir.passes.PassResult(model, self.run(model).modified)

    @classmethod
    def pass_name(cls) -> str:
        """The name in pipeline text: the class name in kebab case."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else ""

    @classmethod
    def example(cls) -> str | None:
        """The paragraph of the docstring that shows a model before and after; None if there is none."""
        paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
        return next((p for p in paragraphs if re.match(r"(given|before): ", p)), None)

    @classmethod
    def options(cls) -> tuple[dataclasses.Field[Any], ...]:
        """The options: the dataclass fields."""
        return dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()

    def __str__(self) -> str:
        shown = []
        for field in self.options():
            value = getattr(self, field.name)
            if value != field.default and not (
                field.default_factory is not dataclasses.MISSING and value == field.default_factory()
            ):
                shown.append(f"{field.name.replace('_', '-')}={_option_text(value)}")
        return self.pass_name() + (f"{{{' '.join(shown)}}}" if shown else "")


def _option_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        text = ":".join(re.sub(r"([\\:])", r"\\\1", str(v)) for v in value)
    else:
        text = str(value)
    return (
        text
        if re.fullmatch(r"[\w.+/\-=:]+", text)
        else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    )
