"""upgrade-opset: the model's operators are read by a newer operator set."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Model
from graphopt.ir.opset import CANONICAL_OPSET, upgrade
from graphopt.transform import Changes, Pass


@dataclasses.dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Raise the default operator set, where a target or a later pass needs a newer one.

    Before: ``opset_import: ["" : 18]`` (Conv takes no bfloat16)
    After:  ``opset_import: ["" : 22]`` (Conv takes bfloat16)

    Attributes:
        to: the version; a model that is there or above is left alone.
    """

    to: int = CANONICAL_OPSET

    def run(self, model: Model) -> Changes:
        """Upgrade every node. Raises ModelError (GO109) for one that has no newer form."""
        changes = Changes()
        before = model.opset_imports.get("", 0)
        if upgrade(model, self.to):
            changes.counts[f"opset {before} to {self.to}"] += 1
        return changes
