"""The options that commands share, each written once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

_OUTPUT = "Output"
_MODEL = "Model"
_OPTIMIZE = "Optimization"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document with a versioned schema.")]
Verbose = Annotated[
    int, typer.Option("-v", "--verbose", count=True, help="Say more on stderr; twice: logs of libraries.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No notes and no progress on stderr.")]

Source = Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file.")]
SourceOrArtifact = Annotated[
    str, typer.Argument(metavar="MODEL|ARTIFACT", help="An ONNX file, or a folder that compile wrote.")
]
Target = Annotated[
    str,
    typer.Option("--target", "-t", metavar="T", help="What to compile for: `graphopt targets` lists them."),
]
Shapes = Annotated[
    list[str],
    typer.Option(
        "--shape",
        metavar="NAME:DIMS",
        help="Shape of an input: x:1x3x224x224 or x:1,3,224,224; letters leave a dimension free (Nx3xHxW).",
        default_factory=list,
        show_default=False,
    ),
]
Dims = Annotated[
    list[str],
    typer.Option(
        "--dim",
        metavar="NAME=SIZE",
        help="Size of a named dimension: N=8; for tensorrt and tensorrt-rtx also N=min:opt:max.",
        default_factory=list,
        show_default=False,
    ),
]
BucketDims = Annotated[
    list[str],
    typer.Option(
        "--dim",
        metavar="NAME=SIZE,…",
        help="Size of a named dimension: N=8; several (N=1,8,32, for tpu and xla-cpu) make a program "
        "for each and feeds are padded to the next; for tensorrt also N=min:opt:max.",
        default_factory=list,
        show_default=False,
    ),
]
Buckets = Annotated[
    str,
    typer.Option(
        "--buckets",
        metavar="pad|exact",
        help="With several sizes: pad feeds to the next (refused unless proven to change nothing), or take "
        "feeds of exactly these sizes.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        metavar="N",
        min=1,
        help="Compilers at once [default: processors].",
        show_default=False,
    ),
]
Constants = Annotated[
    list[str],
    typer.Option(
        "--constant",
        metavar="NAME=VALUE",
        help="An input that is always the same: sr=16000, flags=[1,0], w=@file.npy.",
        default_factory=list,
        show_default=False,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", metavar="P", help="fp32 (default), tf32, bf16 or fp16.", show_default=False),
]
KeepFp32 = Annotated[
    str | None,
    typer.Option(
        "--keep-fp32", metavar="REGEX", help="Nodes whose names match stay in float32.", show_default=False
    ),
]
Level = Annotated[
    int,
    typer.Option(
        "-O",
        metavar="LEVEL",
        help="0 (only what is asked for) to 3. 2 may take sums in another order, 1 may not.",
    ),
]
PipelineText = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        metavar="TEXT",
        help="Passes to run instead of a level's: fold-constants{max-bytes=64K},fuse-conv-bn",
        show_default=False,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.1,
        help="Stop the device's compiler after this long [default: an hour].",
        show_default=False,
    ),
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Neither use nor fill the compile cache (see `graphopt cache`).")
]
Strict = Annotated[bool, typer.Option("--strict", help="Fail rather than fall back to the CPU.")]
StrictRun = Annotated[
    bool | None,
    typer.Option(
        "--strict/--no-strict",
        help="Fail rather than fall back to the CPU [default: for cuda and tensorrt].",
        show_default=False,
    ),
]
Verify = Annotated[
    str | None,
    typer.Option(
        "--verify",
        metavar="each|end",
        help="Compare results around every pass (and undo one that changes them), or once at the end.",
        show_default=False,
    ),
]
RuleLimit = Annotated[
    int | None,
    typer.Option(
        "--rule-limit",
        metavar="N",
        min=0,
        help="Stop after N applications of rules, over all passes: `graphopt bisect` finds the bad one.",
        show_default=False,
    ),
]
OptionalTarget = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        metavar="T",
        help="Choose this target's passes; default: plain ONNX.",
        show_default=False,
    ),
]
OptionalOutput = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT.onnx",
        help="Where to write; without it, only report.",
        show_default=False,
    ),
]
RequiredOutput = Annotated[str, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where to write.")]
Reproducers = Annotated[
    str | None,
    typer.Option(
        "--reproducer",
        metavar="FOLDER",
        help="Where --verify each writes a small failing model for a pass that it undoes; default: "
        "OUT.reproducers beside the output.",
        show_default=False,
    ),
]
MaxError = Annotated[
    float | None,
    typer.Option(
        "--max-error",
        metavar="E",
        min=0.0,
        help="Refuse (exit code 4) if an output is off by more than this share of its largest magnitude.",
        show_default=False,
    ),
]
ListDeclined = Annotated[
    bool, typer.Option("--list-declined", help="Also list what passes left alone, and why.")
]
RuntimeOptimized = Annotated[
    bool,
    typer.Option(
        "--runtime-optimized",
        help="Run the models with ONNX Runtime's own optimizations on, as its users do.",
    ),
]
Dump = Annotated[
    str | None,
    typer.Option(
        "--dump",
        metavar="FOLDER",
        help="Write a listing of the graph there after every pass that changed it.",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="PATH", help="Feeds: a .npz, a .npy, or a folder of them.", show_default=False
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Feeds to calibrate with (.npz, .npy or a folder): what exceeds float16 there keeps float32.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of generated feeds.")]
Report = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="[OUT.html]",
        help="Show what every pass did: as an HTML page with a file name, else as a table.",
        show_default=False,
    ),
]


def with_report_values(arguments: Sequence[str]) -> list[str]:
    """`arguments` with an empty value for each ``--report`` that no name of a page follows.

    The parser knows options with a value and options without one, not both: ``--report model.onnx`` is
    a flag and a model, ``--report out.html`` a flag with its value.
    """
    found: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return [*found, *arguments[index:]]
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        bare = argument == "--report" and not following.lower().endswith((".html", ".htm"))
        found.append("--report=" if bare else argument)
    return found
