"""Peak memory of one candidate, in a process of its own: ``python -m graphopt.cli.bench_memory FOLDER``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.cli.bench import Candidate

TIMEOUT_S = 600.0
FEEDS, CALLS = "feeds.npz", 2


def child_peak_bytes(candidate: Candidate, feeds: dict[str, Any], scratch: Path) -> int | None:
    """The peak of a new process that loads `candidate` and runs it on `feeds`; None if nobody knows.

    Python and the libraries are in it: it is what a service needs that serves this model alone.
    """
    from graphopt.cli.feeds import write_npz

    if candidate.executable is None:
        what = {"original": candidate.source, "target": candidate.target}
    else:
        folder = candidate.executable.folder or candidate.executable.save(scratch / "artifact")
        what = {"artifact": str(folder)}
    write_npz(scratch / FEEDS, feeds)
    (scratch / "what.json").write_text(json.dumps(what), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "graphopt.cli.bench_memory", str(scratch)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    last = (done.stdout.split() or [""])[-1]
    return int(last) if done.returncode == 0 and last.isdigit() else None


def main(scratch: Path) -> None:
    """Load what the folder names, run it, and print this process's peak."""
    from graphopt.bench import peak_bytes
    from graphopt.cli.bench import open_original
    from graphopt.cli.feeds import read_feeds
    from graphopt.driver import load_artifact

    what = json.loads((scratch / "what.json").read_text(encoding="utf-8"))
    if "artifact" in what:
        executable = load_artifact(what["artifact"])
        specs, run = executable.inputs, executable.run
    else:
        session = open_original(what["original"], what["target"])
        specs, run = [{"name": s.name, "dtype": s.dtype} for s in session.specs], session.run
    feeds = read_feeds([str(scratch / FEEDS)], specs)
    for _ in range(CALLS):
        run(feeds)
    print(peak_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
