"""Compare results with a reference, output by output.

Two numbers agree when ``|actual - expected| <= atol + rtol * |expected|``, where ``atol`` is a fraction
of the largest finite magnitude in that output: rounding errors of a sum are as large as its terms,
however small the sum turns out. How much is allowed follows from what the passes promise:

* bit-exact: nothing. (NaN equals NaN, and -0.0 equals 0.0.)
* reassociates: rounding in another order, at the precision of the output's own type.
* lossy: rounding at the precision of the narrower type that was used on the way.

Where a model is found to blow up rounding errors (:mod:`graphopt.verification.conditioning`), the error
that it makes of a change in the last bits of its inputs is allowed on top.

Integers, booleans and strings always have to be equal, NaN and infinities to stand in the same places.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 and the float8 types with numpy)
import numpy as np

from graphopt.transform import Exactness


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far results may be off.

    Attributes:
        rtol: relative to each expected number.
        atol_of_range: relative to the largest finite magnitude of the output.
        atol: in the output's own unit, for tolerances that a user states.
    """

    rtol: float
    atol_of_range: float
    atol: float = 0.0


EXACT = Tolerance(0.0, 0.0)

_BY_TYPE = {
    "float64": Tolerance(1e-9, 1e-10),
    "complex128": Tolerance(1e-9, 1e-10),
    "float32": Tolerance(1e-4, 1e-5),
    "complex64": Tolerance(1e-4, 1e-5),
    "tf32": Tolerance(5e-3, 2e-3),
    "float16": Tolerance(1e-2, 5e-3),
    "bfloat16": Tolerance(3e-2, 2e-2),
}
_NARROWEST = Tolerance(0.25, 0.15)
"""For float8 and narrower, which keep 2 or 3 bits of the mantissa."""

_PRECISION_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}


def tolerance_for(dtype: str, exactness: Exactness, precision: str | None = None) -> Tolerance:
    """The tolerance for an output of type `dtype`.

    Args:
        dtype: a numpy dtype name.
        precision: for lossy results, the narrowest type that was used (``fp16``, ``bf16``, ``fp8``, …);
            None: bfloat16 is assumed.
    """
    if exactness is Exactness.BIT_EXACT:
        return EXACT
    own = _BY_TYPE.get(dtype, _NARROWEST)
    if exactness is Exactness.REASSOCIATES:
        return own
    name = precision or "bf16"
    narrow = _BY_TYPE.get(_PRECISION_TYPES.get(name, name), _NARROWEST)
    return Tolerance(max(own.rtol, narrow.rtol), max(own.atol_of_range, narrow.atol_of_range))


@dataclasses.dataclass(frozen=True)
class OutputComparison:
    """How one output differs from the reference.

    Attributes:
        problem: what is wrong in words; None if the output agrees.
        max_abs_error, max_rel_error, mean_abs_error: over the numbers that are finite on both sides.
        mismatches: number of elements outside the tolerance, misplaced NaN and infinities included.
        nonfinite_mismatches: number of NaN and infinities on one side only, or of different sign.
        worst_index: where an element is furthest outside (or nearest to) its tolerance.
        rtol, atol: what was allowed.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    problem: str | None = None
    elements: int = 0
    max_abs_error: float = 0.0
    max_rel_error: float = 0.0
    mean_abs_error: float = 0.0
    mismatches: int = 0
    nonfinite_mismatches: int = 0
    worst_index: tuple[int, ...] | None = None
    worst_expected: Any = None
    worst_actual: Any = None
    rtol: float = 0.0
    atol: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the output agrees."""
        return self.problem is None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; NaN and infinities are written as text."""
        return {"ok": self.ok, **{k: _plain(v) for k, v in dataclasses.asdict(self).items()}}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How all outputs of one run differ from the reference."""

    outputs: list[OutputComparison]

    @property
    def ok(self) -> bool:
        """Whether all outputs agree."""
        return all(output.ok for output in self.outputs)

    @property
    def worst(self) -> OutputComparison | None:
        """The output that is most wrong: by share of mismatching elements, then by error."""
        return max(
            self.outputs,
            key=lambda o: (not o.ok, o.mismatches / max(o.elements, 1), o.max_rel_error),
            default=None,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {"ok": self.ok, "outputs": [output.to_json() for output in self.outputs]}

    def table(self) -> list[tuple[str, ...]]:
        """Rows for display, the first one the header."""
        rows: list[tuple[str, ...]] = [
            ("output", "type", "max abs error", "max rel error", "allowed", "result")
        ]
        for o in self.outputs:
            rows.append(
                (
                    o.name,
                    f"{o.dtype}[{'x'.join(map(str, o.shape))}]",
                    f"{o.max_abs_error:.3g}",
                    f"{o.max_rel_error:.3g}",
                    "equal" if o.rtol == o.atol == 0 else f"{o.atol:.2g} + {o.rtol:.2g}·|x|",
                    o.problem or "ok",
                )
            )
        return rows


def compare(
    expected: Mapping[str, Any],
    actual: Mapping[str, Any],
    exactness: Exactness | Tolerance = Exactness.REASSOCIATES,
    *,
    precision: str | None = None,
    noise: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare each output of `actual` with the one of `expected` of the same name.

    Args:
        expected: the reference. A sequence is a list of arrays.
        exactness: what the passes promise, or a tolerance for all floating-point outputs.
        precision: for lossy passes, the narrowest type (see :func:`tolerance_for`).
        noise: absolute errors that rounding was measured to cause, by output; allowed on top.
    """
    wanted, found = _flat(expected), _flat(actual)
    outputs = []
    for name, reference in wanted.items():
        if name not in found:
            outputs.append(_problem(name, reference, "the output is missing"))
            continue
        tolerance = (
            exactness
            if isinstance(exactness, Tolerance)
            else tolerance_for(reference.dtype.name, exactness, precision)
        )
        if noise and name in noise:
            tolerance = dataclasses.replace(tolerance, atol=tolerance.atol + noise[name])
        outputs.append(compare_arrays(name, reference, found[name], tolerance))
    outputs += [
        _problem(n, a, "the reference has no such output") for n, a in found.items() if n not in wanted
    ]
    return Comparison(outputs)


def _flat(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by name; those of a sequence as ``name[0]``, ``name[1]``, …"""
    flat = {}
    for name, value in outputs.items():
        if isinstance(value, (list, tuple)):
            flat.update(_flat({f"{name}[{i}]": item for i, item in enumerate(value)}))
            flat[f"{name}.length"] = np.asarray(len(value))
        else:
            flat[name] = np.asarray(value)
    return flat


def _problem(name: str, array: np.ndarray, problem: str) -> OutputComparison:
    return OutputComparison(name, array.dtype.name, array.shape, problem, elements=array.size)


def compare_arrays(
    name: str, expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance
) -> OutputComparison:
    """Compare one output; types and shapes must be the same."""
    if _kind(expected) != _kind(actual):
        return _problem(name, expected, f"its type is {actual.dtype}, not {expected.dtype}")
    if expected.shape != actual.shape:
        return _problem(name, expected, f"its shape is {list(actual.shape)}, not {list(expected.shape)}")
    if expected.size == 0:
        return OutputComparison(name, expected.dtype.name, expected.shape)
    if not _is_float(expected):
        return _compare_exactly(name, expected, actual)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    return _compare_floats(name, expected, expected.astype(wide), actual.astype(wide), tolerance)


def _kind(array: np.ndarray) -> str:
    return "string" if array.dtype.kind in "OUST" else array.dtype.name


def _is_float(array: np.ndarray) -> bool:
    # ml_dtypes' floats are of kind V; its narrow integers too, and those are told by their names.
    return array.dtype.kind in "fc" or (array.dtype.kind == "V" and "int" not in array.dtype.name)


def _compare_exactly(name: str, expected: np.ndarray, actual: np.ndarray) -> OutputComparison:
    wrong = np.asarray(expected != actual).reshape(-1)
    count = int(np.count_nonzero(wrong))
    result = OutputComparison(name, expected.dtype.name, expected.shape, elements=expected.size)
    if count == 0:
        return result
    where = int(np.argmax(wrong))
    errors: dict[str, Any] = {}
    if expected.dtype.kind in "iu":
        differences = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
        errors = {
            "max_abs_error": float(differences.max()),
            "mean_abs_error": float(differences.mean()),
        }
    return dataclasses.replace(
        result,
        problem=f"{count} of {expected.size} elements differ",
        mismatches=count,
        worst_index=_index(where, expected.shape),
        worst_expected=_item(expected, where),
        worst_actual=_item(actual, where),
        **errors,
    )


def _compare_floats(
    name: str, original: np.ndarray, expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance
) -> OutputComparison:
    """Compare in float64 (complex128): `original` only tells the type."""
    expected, actual = expected.reshape(-1), actual.reshape(-1)
    finite = np.isfinite(expected) & np.isfinite(actual)
    same_nonfinite = (np.isnan(expected) & np.isnan(actual)) | (expected == actual)
    misplaced = ~finite & ~same_nonfinite
    magnitude = np.abs(np.where(finite, expected, 0))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        error = np.where(finite, np.abs(actual - expected), 0)
        atol = tolerance.atol + tolerance.atol_of_range * float(magnitude.max())
        allowed = atol + tolerance.rtol * magnitude
        relative = np.divide(error, magnitude, out=np.zeros_like(error), where=magnitude > 0)
        excess = np.where(misplaced, np.inf, error - allowed)
    wrong = excess > 0
    count, nonfinite = int(np.count_nonzero(wrong)), int(np.count_nonzero(misplaced))
    where = int(np.argmax(excess))
    problem = None
    if count:
        problem = f"{count} of {expected.size} elements are off"
        if nonfinite:
            problem += f", {nonfinite} of them NaN or infinite on one side"
    return OutputComparison(
        name=name,
        dtype=original.dtype.name,
        shape=original.shape,
        problem=problem,
        elements=expected.size,
        max_abs_error=float(error.max()),
        max_rel_error=float(relative.max()),
        mean_abs_error=float(error.mean()),
        mismatches=count,
        nonfinite_mismatches=nonfinite,
        worst_index=_index(where, original.shape),
        worst_expected=_item(expected, where),
        worst_actual=_item(actual, where),
        rtol=tolerance.rtol,
        atol=atol,
    )


def _index(flat: int, shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))


def _item(array: np.ndarray, flat: int) -> Any:
    item = array.reshape(-1)[flat]
    item = item.item() if isinstance(item, np.generic) else item
    return item if isinstance(item, (bool, int, float, complex, str)) else str(item)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, complex):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
