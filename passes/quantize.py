"""quantize: matrix products and convolutions in 8-bit integers."""

from __future__ import annotations

import dataclasses
import re

from graphopt.errors import UsageError
from graphopt.ir import DataType, Model
from graphopt.ir.edit import remove_unused_initializers
from graphopt.ir.query import is_op, walk_graphs
from graphopt.passes._dynamic_quantization import DynamicQuantizer, WeightPolicy
from graphopt.passes._integer_grid import grid
from graphopt.passes._static_quantization import StaticQuantizer
from graphopt.transform import CalibratedPass, Changes, Exactness, NoMatch, Ranges, Rewriter
from graphopt.transform.calibration import observable

MODES, TYPES = ("dynamic", "static"), ("int8", "uint8")


@dataclasses.dataclass(frozen=True)
class Quantize(CalibratedPass):
    """Compute products with constant weights in 8-bit integers.

    given:  float[N, 16] x
    before: y = MatMul(x, float[16, 16] 127.0)
    after:  q, s, z = DynamicQuantizeLinear(x);
            y = Mul(Cast<to = 1>(MatMulInteger(q, int8[16, 16] 127, z)), Mul(s, float[16] 1.0))
    pass:   quantize{mode=dynamic}

    ``dynamic`` quantises the activations of MatMul and Gemm when they are known, and the rows of large
    tables that Gather takes; it needs no data. ``static`` puts QuantizeLinear and DequantizeLinear
    around Conv, MatMul, Gemm and what can follow them in integers (pooling, Add, Concat, moves of
    data), with scales from the ranges that calibration feeds showed; main graph only. Outputs of the
    model are never quantised. Weights must be constant, finite float32; they are read once for their
    scales and converted when they are written.

    Options:
        mode: ``dynamic``, or ``static``, which needs calibration feeds.
        type: of weights: ``int8`` (symmetric) or ``uint8``.
        activations: their type in static mode: ``uint8``, or ``int8`` (with int8 weights).
        per_channel: a scale for each output channel, not one for the whole weight.
        reduce_range: weights of 7 bits, for x86 processors without VNNI, where pairs of products overflow.
        min_elements: smaller weights keep float32.
        keep: nodes whose name matches this regular expression keep float32.

    Spec: https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html,
    https://onnx.ai/onnx/operators/onnx__MatMulInteger.html,
    https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
    """

    mode: str = "dynamic"
    type: str = "int8"
    activations: str = "uint8"
    per_channel: bool = True
    reduce_range: bool = False
    min_elements: int = 256
    keep: str | None = None

    exactness = Exactness.LOSSY

    def __post_init__(self) -> None:
        for option, choices in (("mode", MODES), ("type", TYPES), ("activations", TYPES)):
            found = getattr(self, option)
            if found not in choices:
                raise _wrong(option, found, " or ".join(choices))
        if self.activations == "int8" and self.type == "uint8":
            raise _wrong("activations", "int8", "uint8: no runtime multiplies int8 with uint8 weights")
        try:
            re.compile(self.keep or "")
        except re.error as error:
            raise _wrong("keep", self.keep, f"a regular expression ({error})") from error

    def wanted(self, model: Model) -> list[str]:
        """All float32 values for static scales."""
        return observable(model, DataType.FLOAT) if self.mode == "static" else []

    def run_with(self, model: Model, ranges: Ranges | None) -> Changes:
        """Quantise in graph order."""
        policy = WeightPolicy(
            grid(self.type, reduce_range=self.reduce_range),
            self.per_channel,
            self.min_elements,
            re.compile(self.keep) if self.keep else None,
        )
        changes = Changes()
        if self.mode == "dynamic":
            _run_dynamic(model, policy, changes)
        elif ranges is None:
            raise UsageError(
                "GO701",
                "static quantisation needs calibration feeds",
                where="quantize{mode=static}",
                next_step="Give --data, or use mode=dynamic.",
            )
        else:
            quantizer = StaticQuantizer(model, policy, grid(self.activations), ranges)
            quantizer.run()
            changes.counts, changes.declined = quantizer.counts, quantizer.declined
        if changes.modified:
            remove_unused_initializers(model.graph)
        return changes


def _wrong(option: str, found: object, expected: str) -> UsageError:
    return UsageError(
        "GO303", "a wrong option value", where=f"quantize{{{option}}}", found=found, expected=expected
    )


def _run_dynamic(model: Model, policy: WeightPolicy, changes: Changes) -> None:
    rewriter = Rewriter(model)
    quantizer = DynamicQuantizer(rewriter, policy)
    for graph in walk_graphs(model.graph):
        for node in list(graph):
            if not is_op(node, "MatMul", "Gemm", "Gather"):
                continue
            rewriter.begin(node)
            answer = quantizer.replacement(node)
            if isinstance(answer, NoMatch):
                rewriter.abandon()
                changes.declined[f"{node.op_type}: {answer.reason}"] += 1
            else:
                rewriter.commit([answer])
                changes.counts[node.op_type] += 1
