"""What `make demo` shows: real models compiled for TPU here, checked, and what they will cost.

Compiles an OCR text classifier, a voice detector, a digit classifier and a small BERT with Google's
TPU compiler, checks each against ONNX Runtime, and prints one table; then one model node by node.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import all_models
from catalogue import samples
from rich.console import Console

import graphopt

SMALL_SET = ["mnist-cnn", "bert-tiny", "recommender", "ppocr-cls", "silero-vad-sequence", "magika"]


def main() -> int:
    """Run the demo; 0 when every result agrees with ONNX Runtime."""
    console = Console()
    failures = all_models.main(SMALL_SET)
    (sample,) = samples(["ppocr-cls"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = graphopt.compile(sample.path, "tpu:v5e", shapes=sample.shapes).save(
            Path(scratch, "ppocr-cls.tpu")
        )
        executable = graphopt.load_artifact(folder)
        result = executable.run(sample.feeds())
        console.print(f"\n[bold]{sample.name}[/]: {sample.what}")
        console.print("The artifact:", ", ".join(sorted(p.name for p in folder.iterdir())))
        console.print("Run from it :", {k: v.round(3).tolist() for k, v in result.items()})
    if executable.cost is None:
        console.print(*executable.notes, sep="\n")
        return failures
    console.print("Where a TPU v5e spends its cycles, by the TPU compiler's own estimate:")
    for node in executable.cost["nodes"][:8]:
        console.print(f"  {node['share']:6.1%}  {node['op_type']:12} {', '.join(node['origins'])[:70]}")
    console.print("\nNext: .venv/bin/graphopt compile YOUR.onnx --target tpu:v5e")
    return failures


if __name__ == "__main__":
    sys.exit(main())
