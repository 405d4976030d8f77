"""The thin path: ingest, a pass, emission and execution on XLA:CPU."""

from __future__ import annotations

import numpy as np
from checking import check_op, check_pass

from graphopt.passes.eliminate_identity import EliminateIdentity


def test_identity_chain_disappears() -> None:
    check_pass(
        EliminateIdentity(),
        before="""g (float[N, 4] x) => (float[N, 4] y) {
            a = Identity(x)
            b = Relu(a)
            y = Identity(b)
        }""",
        after="""g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }""",
    )


def test_identity_from_input_to_output_stays() -> None:
    check_pass(EliminateIdentity(), before="g (float[N] x) => (float[N] y) { y = Identity(x) }")


def test_reshape_with_a_fed_shape_is_specialised() -> None:
    x = np.arange(6, dtype=np.float32)
    check_op("Reshape", {"x": x, "shape": np.array([2, 3], np.int64)})
    check_op("Add", {"a": x, "b": x})
