"""The passes: one file each. The folder is the registry.

``fuse_conv_bn.py`` holds the class ``FuseConvBn``, which is ``fuse-conv-bn`` in pipeline text.
A file that is there is registered; a line in :mod:`graphopt.passes.presets` enables it.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache

from graphopt.errors import UsageError
from graphopt.transform import Pass

if __name__ != "graphopt.passes":
    raise ImportError(f"import graphopt.passes, not {__name__!r}")

_NOT_PASSES = frozenset({"presets"})


@cache
def names() -> tuple[str, ...]:
    """The names of all passes, sorted."""
    found = (
        m.name
        for m in pkgutil.iter_modules(__path__)
        if m.name not in _NOT_PASSES and not m.name.startswith("_")
    )
    return tuple(sorted(name.replace("_", "-") for name in found))


@cache
def find(name: str) -> type[Pass]:
    """The pass class called `name` in pipeline text. Raises UsageError (GO303) with the nearest names."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3)
        raise UsageError(
            "GO303",
            f"there is no pass {name!r}",
            expected=f"one of {', '.join(near)}" if near else None,
            next_step="`graphopt passes` lists all of them.",
        )
    module = importlib.import_module(f"graphopt.passes.{name.replace('-', '_')}")
    for item in vars(module).values():
        if isinstance(item, type) and issubclass(item, Pass) and item.pass_name() == name:
            return item
    raise ImportError(f"passes/{name.replace('-', '_')}.py holds no pass class called {name}")
