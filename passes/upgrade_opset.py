"""upgrade-opset: the model's operators are read by a newer operator set."""

from __future__ import annotations

import dataclasses

from graphopt.ir import Model
from graphopt.ir.opset import CANONICAL_OPSET, upgrade
from graphopt.transform import Changes, Pass


@dataclasses.dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Raise the default operator set, where a target or a later pass needs a newer one.

    given:  float[1, 3, 8, 8] x; float[2, 3, 1, 1] w; y = Conv(x, w)
    before: opset 18
    after:  opset 22
    pass:   upgrade-opset{to=22}

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
