"""Random models that are odder than what exporters write: see the files whose steps it mixes."""

from __future__ import annotations

from typing import Any

import exporter_blocks  # noqa: F401  (these register their steps)
import exporter_examples  # noqa: F401
import exporter_movement  # noqa: F401
import exporter_operators  # noqa: F401
import exporter_structure as structure
import numpy as np
from exporter_graphs import BATCH, INPUTS, Case, Grower, make_feeds
from exporter_idioms import STEPS
from exporter_inner import INNER
from exporter_rare import RARE
from onnx import helper, numpy_helper

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 17, 18, 18, 18, 19, 20, 21, 22, 23, 23, 24, 25)
MORE_INPUTS: list[tuple[Any, tuple[Any, ...]]] = [
    *INPUTS,
    (np.int8, ("batch", 3)),
    (np.uint8, (2, 3)),
    (np.float32, ("batch", 4, "length")),
    (np.int64, ("batch",)),
    (np.float32, ("batch", 0)),
    (np.bool_, ()),
]
LENGTH = 5


class OddGrower(Grower):
    """A grower that is perhaps inside others, and whose random nodes are never copied."""

    depth = 0

    def const(self, array: Any, dtype: Any = None) -> str:
        """As that of the parent; before opset 9 Constant holds floats only."""
        name = super().const(array, dtype)
        as_node = bool(self.nodes) and self.nodes[-1].output[0] == name
        if self.opset < 9 and as_node and self.arrays[name].dtype.kind != "f":
            self.nodes.pop()
            self.initializers.append(numpy_helper.from_array(self.arrays[name], name))
        return name

    def op(self, kind: str, *inputs: Any, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """As that of the parent."""
        self.need(not kind.startswith("Random"))
        return super().op(kind, *inputs, outputs=outputs, domain=domain, **attributes)


class OddCase:
    """A random model and several sets of feeds: at two sizes, with defaults and without."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 77])
        self.opset = int(rng.choice(OPSETS))
        grower = OddGrower(seed, self.opset)
        first = MORE_INPUTS[int(rng.integers(3))]
        declared = {"x0": first} | {
            f"x{i + 1}": MORE_INPUTS[int(k)] for i, k in enumerate(rng.integers(0, len(MORE_INPUTS), 3))
        }
        free = bool(rng.integers(4))
        feeds = self.feeds_at(seed, declared, BATCH, LENGTH)
        again = self.feeds_at(seed + 1, declared, int(rng.choice([1, 3, 5])), int(rng.choice([1, 5, 7])))
        grower.arrays |= feeds
        grower.values += list(feeds)
        weights = rng.dirichlet([2.0, 1.0, 1.5])
        for _ in range(int(rng.integers(2, 12))):
            steps = (STEPS, INNER, RARE)[int(rng.choice(3, p=weights))]
            before = len(grower.nodes)
            for _ in range(3):  # many steps do not fit
                if len(grower.nodes) == before:
                    grower.grow(steps)
        inputs = [
            helper.make_tensor_value_info(
                n, helper.np_dtype_to_tensor_dtype(np.dtype(t)), s if free else feeds[n].shape
            )
            for n, (t, s) in declared.items()
        ]
        self.feeds = feeds
        self.arrays = grower.arrays
        outputs = Case.outputs(self, grower, rng)  # type: ignore[arg-type]
        graph = helper.make_graph(grower.nodes, f"odd_{seed}", inputs, outputs, grower.initializers)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        self.proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
        self.every: list[dict[str, np.ndarray]] = [feeds] + ([again] if free else [])
        self.distort(rng)

    @staticmethod
    def feeds_at(seed: int, declared: Any, batch: int, length: int) -> dict[str, np.ndarray]:
        sized = {n: (t, tuple(length if d == "length" else d for d in s)) for n, (t, s) in declared.items()}
        return make_feeds(seed, sized, batch)

    def distort(self, rng: np.random.Generator) -> None:
        """Make the whole odd, in ways that leave its answers as they are."""
        proto, arrays = self.proto, self.arrays
        if rng.random() < 0.3:
            structure.false_claims(proto, rng, arrays)
        if rng.random() < 0.3:
            structure.odd_outputs(proto, rng, arrays)
        if rng.random() < 0.3:
            fed = structure.overridable(proto, rng, arrays)
            self.every.append(self.every[0] | fed)
        if rng.random() < 0.3:
            structure.functions(proto, rng)
        if rng.random() < 0.3:
            structure.odd_dimensions(proto, rng)
        if rng.random() < 0.3:
            structure.constants_as(proto, rng)
        if rng.random() < 0.3:
            structure.old_ir(proto, rng)
        if rng.random() < 0.3:
            structure.texts(proto)
        if rng.random() < 0.4:
            names = structure.clashing_names(proto, rng)
            self.every = [{names.get(k, k): v for k, v in feeds.items()} for feeds in self.every]
