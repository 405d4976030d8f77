"""graphopt passes: what passes there are, and what one of them does."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import options
from graphopt.cli.output import Output

if TYPE_CHECKING:
    from graphopt.transform import Pass


def passes(
    name: Annotated[
        str | None, typer.Argument(metavar="[PASS]", help="Show this pass in full.", show_default=False)
    ] = None,
    *,
    json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """List the passes, or show one in full."""
    output = Output(json, verbose, quiet)
    from graphopt import passes as registry

    if name is None:
        _show_all(output, [registry.find(each) for each in registry.names()])
    else:
        _show_one(output, registry.find(name.partition("{")[0]))


def _show_all(output: Output, found: list[type[Pass]]) -> None:
    output.document("graphopt.passes/1", {"passes": [_describe(cls) for cls in found]})
    rows = [
        (
            cls.pass_name(),
            cls.exactness.value,
            " ".join(_option_name(f) for f in cls.options()),
            cls.summary(),
        )
        for cls in found
    ]
    output.table(["pass", "exactness", "options", "effect"], rows)
    output.line()
    output.line("`graphopt passes PASS` shows one in full; --pipeline 'PASS{option=value},PASS' runs them.")


def _show_one(output: Output, cls: type[Pass]) -> None:
    import inspect

    described = _describe(cls)
    output.document("graphopt.passes/1", {"passes": [described]})
    output.line(described["name"], "bold")
    output.line(inspect.cleandoc(cls.__doc__ or ""))
    output.line()
    output.facts([("exactness", described["exactness"])])
    if described["options"]:
        output.table(
            ["option", "type", "default"],
            [(o["name"], o["type"], o["default"]) for o in described["options"]],
            title="options",
        )
    if described["rules"]:
        output.table(
            ["rule", "at", "equation"],
            [(r["name"], " ".join(r["op_types"]), r["summary"]) for r in described["rules"]],
            title="rules",
        )


def _option_name(field: dataclasses.Field[Any]) -> str:
    return field.name.replace("_", "-")


def _describe(cls: type[Pass]) -> dict[str, Any]:
    return {
        "name": cls.pass_name(),
        "exactness": cls.exactness.value,
        "summary": cls.summary(),
        "options": [
            {"name": _option_name(f), "type": str(f.type), "default": _default(f)} for f in cls.options()
        ],
        "rules": [
            {"name": r.name, "op_types": list(r.op_types), "summary": r.summary}
            for r in getattr(cls, "rules", ())
        ],
    }


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default is not dataclasses.MISSING:
        return str(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    return None
