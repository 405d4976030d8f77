"""Op lowerings by family. Importing this package registers all of them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from graphopt.lowering.registry import Registry

registry = Registry("xla")
lowers = registry.lowers


@cache
def load_all() -> Registry:
    """Import every family and return the filled registry."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return registry
