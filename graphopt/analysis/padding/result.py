"""What a proof says of padding: where it goes, and what is cut from the results."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class PaddedAxis:
    """An axis of a result that the dimension lengthens, in stretches that each begin with their real part.

    Attributes:
        factor, names: the number of stretches: `factor` times the sizes of the dimensions `names`.
    """

    axis: int
    factor: int = 1
    names: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The axis, JSON-ready."""
        return {"axis": self.axis, "factor": self.factor, "names": list(self.names)}


@dataclasses.dataclass(frozen=True)
class Padding:
    """Where one dimension is padded, and what of each result is real.

    Attributes:
        dim: the dimension's symbol.
        inputs: by name of the input the axes that are of this size.
        outputs: by name of the output the axes to cut; outputs that do not change are left out.
    """

    dim: str
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[PaddedAxis, ...]]

    def to_json(self) -> dict[str, Any]:
        """The padding, JSON-ready."""
        return {
            "dim": self.dim,
            "inputs": {name: list(axes) for name, axes in self.inputs.items()},
            "outputs": {name: [each.to_json() for each in axes] for name, axes in self.outputs.items()},
        }

    @classmethod
    def from_json(cls, data: Any) -> Padding:
        """What :meth:`to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        inputs = {str(name): tuple(int(axis) for axis in axes) for name, axes in data["inputs"].items()}
        outputs = {
            str(name): tuple(
                PaddedAxis(int(row["axis"]), int(row["factor"]), tuple(map(str, row["names"])))
                for row in rows
            )
            for name, rows in data["outputs"].items()
        }
        return cls(str(data["dim"]), inputs, outputs)
