"""The passes: one file each. The folder is the registry (see :mod:`graphopt.transform.registry`)."""

if __name__ != "graphopt.passes":
    raise ImportError(f"import graphopt.passes, not {__name__!r}")
