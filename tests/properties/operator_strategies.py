"""The strategies of all families, the operators that have none, and which oracle is right where they differ."""

from __future__ import annotations

import operator_strategies_elementwise as elementwise
import operator_strategies_layers  # noqa: F401  (registers its cases)
import operator_strategies_movement as movement
import operator_strategies_spatial  # noqa: F401  (registers its cases)
from operator_cases import REFERENCE, RUNTIME

STRATEGIES = {**elementwise.STRATEGIES, **movement.STRATEGIES}

PREFERRED: dict[str, tuple[str, str]] = {
    "AffineGrid": (REFERENCE, "the runtime takes no axis of one point between aligned corners"),
    "AveragePool": (RUNTIME, "the reference leaves dilations out of the size under VALID"),
    "Col2Im": (REFERENCE, "the runtime misplaces dilated blocks"),
    "GRU": (RUNTIME, "the reference knows neither clip, activations, lengths nor two directions"),
    "GlobalMaxPool": (RUNTIME, "the reference reduces two spatial axes, whatever their number"),
    "LRN": (RUNTIME, "the reference sums over one channel too few at the end"),
    "LSTM": (RUNTIME, "the reference knows neither clip, activations, lengths nor coupled gates"),
    "LpPool": (RUNTIME, "the reference leaves dilations out of the size under VALID"),
    "MaxPool": (RUNTIME, "the reference counts positions in one channel, and dilations not under VALID"),
    "ReduceSumSquare": (RUNTIME, "the reference widens int32"),
    "RNN": (RUNTIME, "the reference does not clip"),
    "Shrink": (REFERENCE, "the runtime computes doubles in float32"),
    "Squeeze": (REFERENCE, "the runtime takes no axes for all of them"),
}
"""By operator: the oracle that follows the standard's text where the two differ, and what the other does."""

LEFT_OUT = {
    "control flow and containers have tests of their own": {
        "If", "Loop", "Scan", "SequenceMap", "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
        "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence",
    },
    "no operands": {"Constant"},
    "draws of their own, which no oracle repeats": {
        "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
    },
    "results as large as the data says, and tests of their own": {"NonMaxSuppression", "TfIdfVectorizer"},
    "one of the oracles has it, and its tests cover it": {
        "CausalConvWithState", "LinearAttention", "MaxRoiPool", "MelWeightMatrix", "SimplifiedLayerNormalization", "Unique",
    },
}  # fmt: skip
"""The operators without a strategy, by reason."""
