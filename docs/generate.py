"""Write the generated pages of the documentation: `python docs/generate.py`; `--check` only compares.

The pages say what the code says: passes and rules their docstrings, operators their registrations,
errors their codes, targets the device table. The figures of the backend suite come from
tests/onnx_backend/results.json, which `pytest tests/onnx_backend --update-results` renews.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx.defs
import onnx.utils

import graphopt
from graphopt import errors, passes
from graphopt.ir.opset import OLDEST_OPSET
from graphopt.lowering.xla.ops import load_all
from graphopt.passes import presets
from graphopt.target import CAPABILITIES, KINDS, Device, Target, devices
from graphopt.transform import Pass

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "tests" / "onnx_backend" / "results.json"
TYPES = ROOT / "tests" / "onnx_backend" / "types.json"
OPSET = 28  # the newest one that the pages speak of; an older onnx cannot write them
REFRESH = "python docs/generate.py"
NOTE = f"<!-- Written by docs/generate.py; to refresh it: {REFRESH} -->\n\n"


def first_paragraph(text: str | None) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())


def cell(text: str) -> str:
    """`text` as the content of a Markdown table cell."""
    text = text.replace("|", "\\|").replace("``", "`").replace("\n", " ")
    parts = text.split("`")  # every second one is code
    return "`".join(p if i % 2 else p.replace("*", "\\*").replace("<", "&lt;") for i, p in enumerate(parts))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell(c) for c in line)} |\n" for line in lines)


# --- passes --------------------------------------------------------------------------------------


def default_text(field: dataclasses.Field[Any]) -> str:
    """The default of an option in pipeline text."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return ":".join(str(v) for v in value) or "empty"
    return str(value)


def option_summaries(cls: type[Pass]) -> dict[str, str]:
    """What the ``Attributes`` or ``Args`` section of a docstring says about each option."""
    found: dict[str, str] = {}
    name = ""
    inside = False
    for line in inspect.cleandoc(cls.__doc__ or "").splitlines():
        if not line.startswith(" "):
            inside = line.rstrip() in ("Attributes:", "Args:", "Options:")
        elif inside and line.startswith("    ") and not line.startswith("     ") and ":" in line:
            name, _, rest = line.strip().partition(":")
            found[name] = rest.strip()
        elif inside and name:
            found[name] += " " + line.strip()
    return found


def pass_section(name: str) -> str:
    """One pass: what it does, a model before and after, its options, its rules."""
    cls = passes.find(name)
    text = f"## {name}\n\n{first_paragraph(cls.__doc__).replace('``', '`')}\n\n"
    example = cls.example()
    if example is not None:
        text += f"```text\n{example}\n```\n\n"
    text += f"Exactness: **{cls.exactness.value}**.\n\n"
    if cls.options():
        said = option_summaries(cls)
        rows = [
            (
                f"`{f.name.replace('_', '-')}`",
                f"`{f.type}`",
                f"`{default_text(f)}`",
                said.get(f.name, ""),
            )
            for f in cls.options()
        ]
        text += table(("option", "type", "default", "effect"), rows) + "\n"
    rules = getattr(cls, "rules", ())
    if rules:
        rows = [(f"`{r.name}`", first_paragraph(r.function.__doc__)) for r in rules]
        text += table(("rule", "equation"), rows) + "\n"
    return text


def passes_page() -> str:
    """All passes, and what the presets run."""
    text = "# Passes\n\n" + NOTE
    text += (
        "A pass is named in pipeline text: `--pipeline 'fold-constants{max-bytes=64K},fuse-conv-bn'`. "
        "*Bit-exact* passes keep every bit of every result, those that *reassociate* round the same real "
        "numbers in another order, *lossy* ones change the precision on purpose.\n\n"
        "Each pass is shown at work on a small model, and the tests run what is shown. Statements stand "
        "between semicolons, and those of `given` belong to both models: `float[N, 8] x` is an input, "
        "`=> y` names the outputs where they are not just what nothing reads, `opset 20` is the operator "
        "set if it is not 18. A constant fills the shape in front of it, and attributes may be left out "
        "where they are the default. `pass` has the options of the run.\n\n"
    )
    overview = [
        (f"[{n}](#{n})", passes.find(n).exactness.value, first_paragraph(passes.find(n).__doc__))
        for n in passes.names()
    ]
    text += table(("pass", "exactness", "effect"), overview) + "\n"
    text += "".join(pass_section(name) for name in passes.names())
    text += "## Presets\n\nWhat `-O` runs, by kind of target.\n\n"
    by_text: dict[str, list[str]] = defaultdict(list)
    for level in presets.LEVELS:
        for kind in KINDS:
            by_text[presets.pipeline_text(level, Target.parse(kind))].append(f"`-O{level}` {kind}")
    for pipeline, where in by_text.items():
        steps = f"```\n{wrap_pipeline(pipeline)}\n```" if pipeline else "Nothing."
        text += f"{', '.join(where)}:\n\n{steps}\n\n"
    return text.rstrip() + "\n"


def wrap_pipeline(text: str, width: int = 100) -> str:
    """Pipeline text in lines."""
    lines = [""]
    for step in text.split(","):
        if lines[-1] and len(lines[-1]) + len(step) > width:
            lines.append("")
        lines[-1] += step + ","
    return "\n".join(lines).removesuffix(",")


# --- operators -----------------------------------------------------------------------------------


BY_EMITTER = ("Shape", "Size")  # the emitter answers these itself, from the shapes that it knows


def operators_page() -> str:
    """The operators of the default domain, and which versions of them XLA gets."""
    registry = load_all()
    versions: dict[str, set[int]] = defaultdict(set)
    gone = set()  # a model in canonical form has what they were replaced by
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain != "" or schema.since_version > OPSET:
            continue
        if schema.deprecated:
            gone.add(schema.name)
        else:
            versions[schema.name].add(schema.since_version)
    for name in gone:
        versions.pop(name, None)
    lowered: dict[str, dict[int, frozenset[str]]] = defaultdict(dict)
    for name in BY_EMITTER:
        lowered[name] = dict.fromkeys(versions[name], frozenset())
    for domain, op_type, version in registry.entries():
        entry = registry.find(domain, op_type, version)
        if domain == "" and version <= OPSET and entry is not None:
            lowered[op_type][version] = entry.static
    figures = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"operators": {}}
    rows = []
    for op_type in sorted(versions | lowered.keys()):
        done = lowered.get(op_type, {})
        missing = sorted(
            v for v in versions[op_type] if v not in done and v >= oldest_seen(versions[op_type])
        )
        static = sorted({name for names in done.values() for name in names})
        counts = figures["operators"].get(op_type)
        rows.append(
            (
                f"[{op_type}](https://onnx.ai/onnx/operators/onnx__{op_type}.html)",
                ", ".join(str(v) for v in sorted(done)) or "not yet",
                ", ".join(str(v) for v in missing) if done else "",
                ", ".join(f"`{name}`" for name in static),
                f"{counts['passed']} of {counts['cases']}" if counts else "",
            )
        )
    count = sum(1 for op_type in versions if lowered.get(op_type))
    text = "# Operators\n\n" + NOTE
    text += (
        f"{count} of the {len(versions)} operators of the default ONNX domain, up to opset {OPSET}, have a "
        "lowering to XLA. The numbers are the opset versions that an operator's definition dates from. "
        "Models older than opset 18 are upgraded when they are read, so older definitions are not needed. "
        "Operands that are *static* must be known when the model is compiled. Which element types were "
        "tried in which version, and what came of it, is in [operator-types.md](operator-types.md).\n\n"
    )
    if figures["operators"]:
        text += (
            f"The last column counts the cases of the ONNX project's own backend suite (onnx "
            f"{figures['onnx']}) that contain the operator: how many pass on XLA, of how many. In all "
            f"{figures['passed']:,} of {figures['cases']:,} cases pass.\n\n"
        )
    head = ("operator", "lowered since", "versions without", "static operands", "backend cases")
    return text + table(head, rows)


def oldest_seen(versions: Iterable[int], canonical: int = 18) -> int:
    """The oldest version of an operator that a model in canonical form can have."""
    return max((v for v in versions if v <= canonical), default=0)


SHORT = {"float": "f32", "double": "f64", "bfloat16": "bf16", "complex64": "c64", "complex128": "c128"}


def short(dtype: str) -> str:
    """The short name of an element type: ``f32``, ``i8``, ``u4``, ``f8e4m3fn``."""
    if dtype in SHORT:
        return SHORT[dtype]
    for long, letter in (("float", "f"), ("uint", "u"), ("int", "i")):
        if dtype.startswith(long):
            return letter + dtype.removeprefix(long)
    return dtype


def types_page() -> str:
    """What came of each operator's versions and element types."""
    known = json.loads(TYPES.read_text(encoding="utf-8"))
    found = known["operators"]
    kinds = ("xla", "host", "unsupported", "unchecked")
    counts: dict[str, int] = defaultdict(int)
    rows = []
    for op_type, versions in found.items():
        for version, variables in sorted(versions.items(), key=lambda item: int(item[0])):
            cells: dict[str, list[str]] = {kind: [] for kind in kinds}
            for variable, by_kind in variables.items():
                for kind, dtypes in by_kind.items():
                    # What differs from the oracles for a reason that is written down still runs on XLA.
                    shown = "xla" if kind == "differs" else kind
                    counts[kind] += len(dtypes)
                    types = " ".join(short(d) + ("\u00b9" if kind == "differs" else "") for d in dtypes)
                    cells[shown].append(f"{variable}: {types}" if len(variables) > 1 else types)
            rows.append((op_type, version, *("; ".join(cells[kind]) for kind in kinds)))
    text = "# Element types of operators\n\n" + NOTE
    text += (
        "What came of each operator of the default domain in each version of its definition (from opset 7 "
        "on) and each element type that its schema allows for each of its type variables, when it was "
        "compiled for `xla-cpu`, run, and compared with ONNX Runtime without optimisations and with "
        f"onnx.reference (onnx {known['onnx']}): {sum(counts.values()):,} models, made of the one-node cases "
        f"of ONNX's backend suite. {counts['xla']:,} agree and run on XLA, {counts['host']:,} agree and run "
        f"on the host, {counts['unsupported']:,} are refused, {counts['unchecked']:,} no oracle takes, and "
        f"in {counts['differs']:,} (¹) XLA differs from every oracle that takes them, for the reasons in "
        "tests/onnx_backend/type_differences.toml. An element type that is not listed was not tried: the "
        "suite has no case that can be written so, or it holds strings.\n\n"
        "Another type of one variable is tried with the types of the others as the case has them. "
        "`f`, `bf`, `i`, `u` and `c` stand for floating point, bfloat, signed, unsigned and complex "
        "numbers, the number for their bits.\n\n"
    )
    head = ("operator", "since", "on XLA", "on the host", "refused", "without an oracle")
    return text + table(head, rows)


# --- errors --------------------------------------------------------------------------------------

AREAS = {
    "1": "The model file",
    "2": "Lowering to a target",
    "3": "Passes and pipelines",
    "4": "Accuracy",
    "5": "Policy",
    "6": "Artifacts and running them",
    "7": "Usage",
    "9": "graphopt itself",
}


def raised_as() -> dict[str, set[str]]:
    """For each code the names of the error classes that it is raised with anywhere in the sources."""
    classes = {n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, Exception)}
    found: dict[str, set[str]] = defaultdict(set)
    for folder in ("graphopt", "passes", "lowering"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and name_of(node.func) in classes:
                    found[code_of(node)].add(name_of(node.func))
                elif isinstance(node, ast.ClassDef):  # a subclass that fixes the code
                    bases = {name_of(base) for base in node.bases} & classes
                    for inner in ast.walk(node):
                        if isinstance(inner, ast.Call) and name_of(inner.func) == "__init__":
                            found[code_of(inner)] |= bases
    return found


def name_of(node: ast.expr) -> str:
    """The last part of a name: ``ModelError`` of ``errors.ModelError``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def code_of(call: ast.Call) -> str:
    """The error code that a call names, or nothing."""
    first = call.args[0] if call.args else None
    return str(first.value) if isinstance(first, ast.Constant) else ""


def errors_page() -> str:
    """All error codes."""
    used = raised_as()
    text = "# Errors\n\n" + NOTE
    text += (
        "Every error that graphopt raises on purpose has a code that stays the same. The command line ends "
        "with the exit code of the error's class; with `--json` the error is a JSON object of the schema "
        "`graphopt.error/1`. A code without a class is the command line's own, or not in use yet.\n\n"
    )
    for area, title in AREAS.items():
        rows = []
        for code, meaning in errors.CODES.items():
            if code[2] == area:
                names = sorted(used.get(code, ()))
                exits = sorted({getattr(errors, name).exit_code for name in names})
                rows.append((code, meaning, ", ".join(names), ", ".join(map(str, exits))))
        text += f"## {title}\n\n" + table(("code", "meaning", "class", "exit code"), rows) + "\n"
    rows = [
        (name, str(cls.exit_code), first_paragraph(cls.__doc__))
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, errors.GraphoptError)
    ]
    return text + "## Classes\n\n" + table(("class", "exit code", "meaning"), rows)


# --- targets -------------------------------------------------------------------------------------


def device_row(device: Device) -> tuple[str, ...]:
    """One line of the device table."""
    rates = ", ".join(f"{name} {rate / 1e12:g}" for name, rate in device.flops.items())
    return (
        f"`{device.name}`",
        device.title,
        device.topology or "",
        f"{device.clock_hz / 1e6:g}" if device.clock_hz else "not published",
        f"{device.hbm_bytes / 2**30:.4g}",
        f"{device.hbm_bytes_per_s / 1e9:g}",
        rates,
        device.source,
    )


def targets_page() -> str:
    """The kinds of targets and the device table."""
    text = "# Targets\n\n" + NOTE + f"{first_paragraph(Target.__doc__)}\n\n"
    text += "Written " + ", ".join(f"`{t}`" for t in TARGET_EXAMPLES) + ".\n\n"
    text += table(("kind", "what runs the model"), [(f"`{k}`", v) for k, v in KINDS.items()])
    head = (
        "name",
        "device",
        "smallest topology",
        "clock, MHz",
        "memory, GiB",
        "bandwidth, GB/s",
        "peak, 10¹² operations/s",
        "source",
    )
    for kind, title in (("tpu", "TPUs"), ("gpu", "GPUs")):
        text += f"\n## {title}\n\n" + table(head, [device_row(d) for d in devices(kind).values()])
    text += "\n## Compute capabilities\n\nWhat `tensorrt-rtx:CAPABILITY,…` builds engines for.\n\n"
    return text + table(("capability", "GPUs"), [(f"`{name}`", gpus) for name, gpus in CAPABILITIES.items()])


TARGET_EXAMPLES = [
    str(Target.parse(t))
    for t in ("cpu", "tensorrt-rtx:sm89,sm120", "xla-gpu:h100", "tpu:v5e", "tpu:v5p:4x4x4")
]


# --- pictures ------------------------------------------------------------------------------------


def feed_forward() -> onnx.ModelProto:
    """The feed-forward half of an encoder layer of bert-tiny, as PyTorch exports it."""
    model = onnx.load(ROOT / "samples" / "generated" / "bert-tiny.onnx")
    layer = "/encoder/layer.0/"
    ends = {
        f"{layer}attention/output/LayerNorm/Add_1_output_0": "x",
        f"{layer}output/LayerNorm/Add_1_output_0": "y",
    }
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [ends.get(name, name) for name in names]
    shape = ["batch", "sequence", 64]
    for name in ends.values():
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        model.graph.value_info.append(info)
    return onnx.utils.Extractor(model).extract_model(["x"], ["y"])


def bert_layer_picture() -> str:
    """That half, before and after `-O2` for a TPU."""
    before = feed_forward()
    after = graphopt.optimize(before, target="tpu", level=2).model
    title = "Feed-forward half of a BERT encoder layer, before and after -O2"
    return graphopt.visualize(before, after, title=title).svg()


def readme_page() -> str:
    """README.md with its generated part made anew."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = "<!-- generated: support -->\n", "<!-- end -->"
    head, _, rest = text.partition(begin)
    return head + begin + "\n" + support_table() + "\n" + end + rest.partition(end)[2]


def support_table() -> str:
    """What is supported, counted from the registries and the backend suite's results."""
    registry = load_all()
    operators = {op for domain, op, _ in registry.entries() if domain == ""} | set(BY_EMITTER)
    figures = json.loads(RESULTS.read_text(encoding="utf-8"))
    rules = sum(len(getattr(passes.find(name), "rules", ())) for name in passes.names())
    rows = [
        ("Model opsets", f"{OLDEST_OPSET} to {OPSET}"),
        ("Default-domain operators with an XLA lowering", f"{len(operators)} ([list](docs/operators.md))"),
        (
            f"ONNX backend suite ({figures['onnx']}) on XLA",
            f"{figures['passed']:,} of {figures['cases']:,} cases",
        ),
        ("Passes", f"{len(passes.names())}, with {rules} rewrite rules ([catalogue](docs/passes.md))"),
        ("TPUs, compiled ahead of time", ", ".join(f"`tpu:{name}`" for name in devices("tpu"))),
        ("GPUs, compiled ahead of time by XLA", ", ".join(f"`xla-gpu:{name}`" for name in devices("gpu"))),
        ("Engines for GPUs, by TensorRT-RTX", ", ".join(f"`tensorrt-rtx:{name}`" for name in CAPABILITIES)),
        ("Other targets", ", ".join(f"`{k}`" for k in KINDS if k not in ("tpu", "tensorrt-rtx", "xla-gpu"))),
    ]
    return table(("what", "how much"), rows)


PAGES: dict[str, Callable[[], str]] = {
    "passes.md": passes_page,
    "operators.md": operators_page,
    "operator-types.md": types_page,
    "errors.md": errors_page,
    "targets.md": targets_page,
    "images/bert-layer.svg": bert_layer_picture,
    "../README.md": readme_page,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages; with ``--check`` say which ones differ instead, and return 1 if any does."""
    parser = argparse.ArgumentParser(description="Write the generated pages of the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a page is stale")
    check = parser.parse_args(arguments).check
    stale = []
    for name, page in PAGES.items():
        path = DOCS / name
        text = page()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
    if stale and check:
        print(f"stale: {', '.join(stale)}. To refresh: {REFRESH}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
