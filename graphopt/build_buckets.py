"""Build one executable for several sizes of a dimension: a program for each, the weights once.

The model is optimised once with the dimension free, and traced for each size; so every program takes the
same weights. Whether feeds between the sizes may be padded is proven on that optimised model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from graphopt.analysis.padding import prove_padding
from graphopt.build_xla import Say, begin, compile_ahead, trace
from graphopt.dimensions import Dims, bind_sizes, require_static
from graphopt.errors import GraphoptError, UsageError
from graphopt.executable import Executable
from graphopt.ir import Model
from graphopt.ir.bind import dimension_symbol
from graphopt.runtime.buckets import Buckets
from graphopt.target import SizeRange, Target
from graphopt.transform import Report

if TYPE_CHECKING:
    from graphopt.lowering.xla.export import Exported

MAX_BUCKETS = 64
MAX_SIZE = 2**31 - 1
Mode = Literal["pad", "exact"]
MODES = ("pad", "exact")
RANGED = ("tensorrt", "tensorrt-rtx")
"""Targets whose optimisation profiles are ranges of sizes."""


class Sizes(NamedTuple):
    """The sizes that a caller asks for, by dimension: one, a range, or several."""

    fixed: dict[str, int]
    ranges: dict[str, tuple[int, int, int]]
    buckets: dict[str, tuple[int, ...]]


def split_dims(dims: Dims, target: Target) -> Sizes:
    """Sort sizes by their kind: plain tuples are ranges for TensorRT, and buckets for XLA.

    Raises:
        UsageError: GO701, a kind that the target does not take, no positive size, or too many programs.
    """
    sizes = Sizes({}, {}, {})
    for name, given in dims.items():
        where = f"--dim {name}"
        several = [given] if isinstance(given, int) else list(given)
        if not several or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in several):
            raise UsageError("GO701", "a dimension is a positive number", where=where, found=given)
        if isinstance(given, int):
            sizes.fixed[name] = given
        elif target.kind in RANGED and isinstance(given, tuple) and len(given) == 3:
            sizes.ranges[name] = SizeRange(*given)
        elif isinstance(given, SizeRange):
            raise UsageError(
                "GO701",
                "a range min:opt:max is for TensorRT profiles",
                where=where,
                expected="one size, or several for XLA's targets (1,8,32)",
            )
        elif not target.is_xla:
            raise UsageError(
                "GO701",
                "several sizes of a dimension (buckets) are for XLA's targets: tpu, xla-cpu, xla-gpu",
                where=where,
                expected="one size" + (", or min:opt:max" if target.kind in RANGED else ""),
            )
        elif max(several) > MAX_SIZE:
            raise UsageError("GO701", "no dimension is that large", where=where, found=max(several))
        else:
            sizes.buckets[name] = tuple(sorted(set(several)))
    count = math.prod(map(len, sizes.buckets.values()))
    if count > MAX_BUCKETS:
        raise UsageError(
            "GO701",
            "too many buckets: there is a program for every combination of sizes",
            where=" ".join(f"--dim {name}" for name in sizes.buckets),
            found=" x ".join(str(len(each)) for each in sizes.buckets.values()) + f" = {count}",
            expected=f"at most {MAX_BUCKETS}",
        )
    return sizes


def plan_buckets(model: Model, sizes: Mapping[str, Sequence[int]], mode: Mode) -> Buckets:
    """The buckets of the optimised `model`, dimensions by their symbols.

    Raises:
        UsageError: GO701, a name is none of a free dimension.
        UnsupportedError: GO210, padding is asked for and could change results.
    """
    by_symbol: dict[str, tuple[int, ...]] = {}
    for name, several in sizes.items():
        symbol = dimension_symbol(model, name)
        if symbol is None or symbol in by_symbol:
            raise UsageError(
                "GO701",
                "the dimension is given twice" if symbol else f"the inputs have no free dimension {name!r}",
                where=f"--dim {name}",
                found=symbol,
                next_step="A dimension without a name is given by input and axis, such as x.0=1,8.",
            )
        by_symbol[symbol] = tuple(several)
    if mode == "exact":
        return Buckets(by_symbol, None)
    return Buckets(
        by_symbol, {name: prove_padding(model, name, several[-1]) for name, several in by_symbol.items()}
    )


def lower_buckets(
    model: Model,
    buckets: Buckets,
    target: Target,
    report: Report,
    pipeline: str,
    options: Mapping[str, Any],
    *,
    say: Say = None,
    compiler: Mapping[str, Any] | None = None,
) -> Executable:
    """The executable of `model` with a program for each combination of the sizes in `buckets`.

    Its ``cost``, ``memory`` and ``placement`` are those of the largest; those of each are in
    ``manifest["buckets"]["programs"]``.

    Args:
        compiler: as :func:`graphopt.build_xla.lower_xla` takes it, and ``jobs``: compilers at once.
    """
    whole = begin(model, target, report, pipeline, options)
    combinations = list(buckets.combinations())
    parts: list[tuple[Executable, dict[str, Exported]]] = []
    for index, sizes in enumerate(combinations):
        if say is not None:
            say("trace the XLA programs", index, len(combinations))
        dims = {name: size for name, size in options["dims"].items() if isinstance(size, int)} | sizes
        bound = bind_sizes(model, sizes)
        if target.is_ahead_of_time:
            require_static(bound)
        part = begin(bound, target, report, pipeline, {**options, "dims": dims})
        try:
            parts.append((part, trace(part)))
        except GraphoptError as error:
            error.where = ", ".join(filter(None, (error.where, _spelled(sizes))))
            raise
    compile_ahead(parts, say, compiler or {})
    _gather(whole, buckets, combinations, [part for part, _ in parts])
    return whole


def _gather(
    whole: Executable, buckets: Buckets, combinations: Sequence[dict[str, int]], parts: Sequence[Executable]
) -> None:
    """Put the parts' files and figures into the whole."""
    largest = parts[-1]
    rows = []
    for sizes, part in zip(combinations, parts, strict=True):
        prefix = bucket_prefix(sizes)
        whole.files.update({prefix + name: data for name, data in part.files.items()})
        row = {"sizes": sizes, "prefix": prefix, "cost": part.cost, "memory": part.memory}
        row |= {key: part.manifest[key] for key in ("transfers",) if key in part.manifest}
        rows.append(row)
    whole.cost, whole.memory, whole.placement = largest.cost, largest.memory, largest.placement
    whole.kernels = largest.kernels
    whole.manifest |= {
        key: largest.manifest[key] for key in ("compiler", "transfers") if key in largest.manifest
    }
    whole.manifest["buckets"] = {**buckets.to_json(), "programs": rows}
    whole.notes += dict.fromkeys(itertools.chain.from_iterable(part.notes for part in parts))
    whole.seconds["trace"] = sum(part.seconds["trace"] for part in parts)
    whole.seconds |= {stage: spent for stage, spent in largest.seconds.items() if stage == "compiler"}
    caches = [part.cache for part in parts if part.cache is not None]
    if caches:
        whole.cache = {
            "hit": all(cache["hit"] for cache in caches),
            "remark": next((cache["remark"] for cache in caches if cache["remark"]), None),
        }


def _spelled(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def bucket_prefix(sizes: Mapping[str, int]) -> str:
    """What the names of a bucket's files begin with."""
    return f"bucket-{'x'.join(map(str, sizes.values()))}."
