"""Presets: which passes each level runs, for each kind of target. One deliberate line enables a pass."""

from __future__ import annotations

import re

from graphopt.errors import UsageError
from graphopt.target import Target

LEVELS = (0, 1, 2, 3)

CLEAN = (
    "inline-branches",
    "eliminate-identity",
    "eliminate-noops",
    "fold-constants",
    "fold-shapes",
    "merge-casts",
    "merge-reshapes",
    "merge-transposes",
    "eliminate-common-subexpressions",
    "eliminate-dead-nodes",
)
"""Cleaning and folding. What a fold makes constant, a second round may clean away."""

REFOLD = ("fold-constants", "fold-shapes")
"""A size that takes a division (patches, windows) is known one round after the shape it is made of,
and what the fusions ask for is known sizes."""

FUSE = (
    "canonicalize-arithmetic",
    "fuse-pad",
    "fuse-bias",
    "fuse-conv-bn",
    "raise-layer-normalization",
    "raise-hard-swish",
)

FINISH = ("deduplicate-initializers", "eliminate-dead-nodes")


def pipeline_text(
    level: int, target: Target | None = None, precision: str | None = None, keep_fp32: str | None = None
) -> str:
    """The pipeline of `level` for `target`, as text.

    * 0: nothing but what was asked for (a precision).
    * 1: cleaning and folding.
    * 2: fusions, raised operators and layout too: sums may be taken in another order.
    * 3: as 2, with folding budgets eight times as large.

    Raises UsageError (GO701) for another level.
    """
    if level not in LEVELS:
        raise UsageError("GO701", "unknown optimisation level", found=level, expected="0, 1, 2 or 3")
    steps: list[str] = []
    if level >= 1:
        clean, refold = ([_with_budget(s) if level == 3 else s for s in part] for part in (CLEAN, REFOLD))
        steps += [*clean, *refold]
        if level >= 2:
            steps += [*FUSE, *_raises(target), _gelu(target), "fuse-matmul-add", "push-transposes"]
        steps += [*clean, *FINISH]
    steps += _precision(target, precision, keep_fp32, level)
    return ",".join(steps)


def _with_budget(step: str) -> str:
    return "fold-constants{max-bytes=8M}" if step == "fold-constants" else step


def _raises(target: Target | None) -> list[str]:
    """Operators of opset 23, for XLA and ONNX Runtime on the CPU: its CUDA kernels thin out above 18."""
    if target is not None and not target.is_xla and target.kind != "cpu":
        return []
    names = ("raise-rms-normalization", "raise-rotary-embedding", "raise-attention")
    return [f"{name}{{upgrade=true}}" for name in names]


def _gelu(target: Target | None) -> str:
    """Gelu is of opset 20. XLA takes any opset; ONNX Runtime's CUDA kernels thin out above 18."""
    return "raise-gelu{upgrade=true}" if target is not None and target.is_xla else "raise-gelu"


def _precision(target: Target | None, precision: str | None, keep_fp32: str | None, level: int) -> list[str]:
    steps = []
    if precision in ("bf16", "fp16"):
        if target is not None and target.is_xla:
            steps.append("upgrade-opset{to=22}")  # from here on Conv and its like take bfloat16
        keep = f" keep={_quoted(keep_fp32)}" if keep_fp32 else ""
        steps.append(f"narrow-float{{to={precision}{keep}}}")
    if level >= 1 and target is not None and target.kind == "tpu":
        # A TPU has no 64-bit integers: the compiler would emulate index arithmetic in pairs.
        steps.append("narrow-int")
    return [*steps, "eliminate-dead-nodes"] if steps else steps


def _quoted(text: str) -> str:
    plain = re.fullmatch(r"[\w.+/\-]+", text)
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
