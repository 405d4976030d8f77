"""Presets: which passes each level runs, for each kind of target. One deliberate line enables a pass."""

from __future__ import annotations

import re

from graphopt.errors import UsageError
from graphopt.platforms import NEW_CUDA_KERNELS, onnxruntime_version
from graphopt.target import Target

LEVELS = (0, 1, 2, 3)

CLEAN = (
    "inline-branches",
    "eliminate-identity",
    "eliminate-noops",
    "move-quantization",
    "fold-sequences",
    "fold-constants",
    "fold-shapes",
    "fold-comparisons",
    "simplify-masks",
    "merge-casts",
    "widen-scalars",
    "merge-slices",
    "merge-concats",
    "merge-gathers",
    "merge-small-layouts",
    "merge-pads",
    "eliminate-index-grids",
    "eliminate-expands",
    "hoist-shapes",
    "raise-batched-matmul",
    "merge-reshapes",
    "merge-transposes",
    "hoist-invariants",
    "unroll-loops",
    "eliminate-common-subexpressions",
    "eliminate-dead-nodes",
)
"""Cleaning and folding. What a fold makes constant, a second round may clean away."""

REFOLD = ("fold-constants", "fold-shapes")
"""A size that takes a division (patches, windows) is known one round after the shape it is made of,
and what the fusions ask for is known sizes."""

FUSE = (
    "canonicalize-sums",
    "canonicalize-arithmetic",
    "raise-matmul",
    "merge-reductions",
    "fuse-pad",
    "fuse-bias",
    "fuse-conv-bn",
    "raise-layer-normalization",
    "raise-instance-normalization",
    "raise-mean",
    "raise-softmax",
    "raise-sigmoid",
    "raise-rectifiers",
    "raise-hard-swish",
)

SCALES = ("merge-arithmetic", "fold-scales")
"""Behind what raises activations and normalizations: their constants are not to be taken apart before."""

LAYOUT = (
    "push-transposes",
    "cancel-transposes",
    "absorb-transposes",
    "raise-depth-to-space",
    "fuse-rolls",
    "raise-split",
)
"""What would hide a pattern from the passes that raise one comes after them."""

SELECT: dict[str | None, tuple[str, ...]] = {
    None: ("select-residual-sum", "select-global-pools", "select-rms-parts", "guard-quantization"),
    "cpu": (
        "select-global-pools",
        "lower-activations",
        "select-activations",
        "select-fused-matmul",
        "select-attention",
        "select-residual-sum",
        "select-fused-conv",
        "select-batch-normalization",
        "guard-quantization",
    ),
    "cuda": (
        "select-activations{provider=cuda}",
        "select-fused-matmul{provider=cuda}",
        "select-attention{provider=cuda}",
        "select-multi-head-attention",
        "select-skip-normalization",
        "select-fused-conv{provider=cuda}",
        "guard-quantization",
    ),
    "tpu": (
        "raise-batched-matmul",
        "raise-causal-masks",
        "shrink-masks",
        "split-projections",
        "fold-strides",
        "arrange-kernels",
        "deduplicate-initializers{transposed=true}",
    ),
}
"""Operators of ONNX Runtime's own, and forms that the TPU compiler fuses best, by kind of target: what was
measured to help, or to cost nothing.

Without a target they are standard ones still, in the spelling that ONNX Runtime's CPU provider runs fastest:
it is where such a model is most likely to run."""

TENSORRT_RTX_WIDE = {
    "fp16": ("Celu",),
    "bf16": ("Celu", "ConvTranspose", "GRU", "HardSwish", "LpNormalization", "Mish"),
}
"""What TensorRT-RTX (1.7) takes in float32, but refuses in the narrow type: its parser, or its builder."""

UNSIGNED = ("select-unsigned-quantization", "move-quantization")
"""At level 3 for ONNX Runtime's CPU provider: half the time of networks quantised to int8. By the standard
no number changes, but ONNX Runtime fuses more, and its integer kernels round some by one step otherwise."""

FINISH = ("deduplicate-initializers", "eliminate-dead-nodes")


def pipeline_text(
    level: int, target: Target | None = None, precision: str | None = None, keep_fp32: str | None = None
) -> str:
    """The pipeline of `level` for `target`, as text.

    * 0: nothing but what was asked for (a precision).
    * 1: cleaning and folding.
    * 2: fusions, raised operators and layout too: sums may be taken in another order.
    * 3: as 2, with folding budgets eight times as large; for ``cpu`` activations are quantised to uint8.

    Raises UsageError (GO701) for another level.
    """
    if level not in LEVELS:
        raise UsageError("GO701", "unknown optimisation level", found=level, expected="0, 1, 2 or 3")
    steps: list[str] = []
    if level >= 1 and target is not None and target.kind == "tensorrt":
        steps.append("expand-functions")
    if level >= 1:
        clean, refold = ([_with_budget(s) if level == 3 else s for s in part] for part in (CLEAN, REFOLD))
        steps += [*clean, *refold]
        if level >= 2:
            steps += [*FUSE, *_raised(target), "canonicalize-gates", *_attention(target)]
            steps += [*SCALES, "fuse-matmul-add", *_layout(target)]
        steps += [*map(_by_value, clean), *FINISH]
    steps += _precision(target, precision, keep_fp32, level)
    selected = [_for_precision(s, precision) for s in SELECT.get(None if target is None else target.kind, ())]
    if level >= 2 and selected:
        # After the precision is settled: which kernels there are depends on it.
        if level == 3 and target is not None and target.kind == "cpu":
            steps += UNSIGNED
        steps += [*selected, *FINISH]
    return ",".join(steps)


def _for_precision(step: str, precision: str | None) -> str:
    """Kernels are padded with zeros where numbers are rounded anyway: infinities may spread by that."""
    return "fold-strides{padded=true}" if step == "fold-strides" and precision in ("bf16", "fp16") else step


def _by_value(step: str) -> str:
    return f"{step}{{by-value=true}}" if step == "eliminate-common-subexpressions" else step


def _with_budget(step: str) -> str:
    return "fold-constants{max-bytes=8M}" if step == "fold-constants" else step


def _layout(target: Target | None) -> list[str]:
    """Gathering a rolled axis is faster on ONNX Runtime; XLA's slices and concatenations are."""
    return [s for s in LAYOUT if s != "fuse-rolls" or target is None or not target.is_xla]


def _raised(target: Target | None) -> list[str]:
    """Operators that need a newer opset, or that not every runtime has a kernel for.

    Gelu is of opset 20: one kernel in the place of five on ONNX Runtime's CPU, where it takes as long as
    the one order that ONNX Runtime would fuse itself, and 0.4 to 0.7 of the time of all others. Its CUDA
    kernels thin out above 18. GroupNormalization has no kernel in ONNX Runtime.
    """
    if target is not None and target.is_xla:
        return ["raise-gelu{upgrade=true}", "raise-group-normalization{upgrade=true}"]
    return ["raise-gelu{upgrade=true}" if target is None or target.kind == "cpu" else "raise-gelu"]


def _attention(target: Target | None) -> list[str]:
    """Operators of opset 23, for XLA and for ONNX Runtime on the CPU and, from 1.31 on, on CUDA.

    On the CPU they take 0.4 to 0.9 of the time of their parts. Before 1.31 the CUDA kernels thin out above
    opset 18. Without a target the model is for any runtime, and few know opset 23, nor does TensorRT's
    parser.
    """
    kinds = ("cpu", "cuda") if onnxruntime_version() >= NEW_CUDA_KERNELS else ("cpu",)
    upgrade = target is not None and (target.is_xla or target.kind in kinds)
    names = ("raise-rms-normalization", "raise-rotary-embedding", "raise-attention")
    provider = " provider=cuda" if target is not None and target.kind == "cuda" else ""
    return [f"{name}{{upgrade=true{provider}}}" for name in names] if upgrade else []


def _precision(target: Target | None, precision: str | None, keep_fp32: str | None, level: int) -> list[str]:
    steps = []
    if precision in ("bf16", "fp16"):
        if target is not None and (target.is_xla or target.kind == "tensorrt-rtx"):
            steps.append("upgrade-opset{to=22}")  # from here on Conv and its like take bfloat16
        keep = f" keep={_quoted(keep_fp32)}" if keep_fp32 else ""
        on_cuda = target is not None and target.kind == "cuda"
        # XLA and ONNX Runtime's CUDA kernels take the statistics of normalizations in float32 anyway.
        wide = " wide-inside=true" if target is not None and (target.is_xla or on_cuda) else ""
        if on_cuda and level >= 2:
            # What is narrowed in parts, with casts between them, is no longer recognised.
            steps.append("select-activations{provider=cuda}")
            wide += " contrib=true"
        if target is not None and target.kind == "tensorrt-rtx":
            wide = f' wide-ops="{" ".join(TENSORRT_RTX_WIDE[precision])}"'
        steps.append(f"narrow-float{{to={precision}{wide}{keep}}}")
    if level >= 1 and target is not None and target.kind == "tpu":
        # A TPU has no 64-bit integers: the compiler would emulate index arithmetic in pairs.
        steps.append("narrow-int")
    return [*steps, "eliminate-dead-nodes"] if steps else steps


def _quoted(text: str) -> str:
    plain = re.fullmatch(r"[\w.+/\-]+", text)
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
