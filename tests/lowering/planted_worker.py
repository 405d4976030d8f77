"""A compiler that misbehaves as ``PLANTED`` says; run as the compile's child process by tests."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

NOISE = "E0000 chatter of the compiler"


def main(folder: Path) -> None:
    """Do as planted; without a plan write the results that the parent expects."""
    os.write(1, f"{NOISE} on stdout\n".encode())
    os.write(2, f"{NOISE} on stderr\n".encode())
    plan = os.environ.get("PLANTED", "")
    if plan == "refuse-and-crash":
        rows = [{"code": "UNSUPPORTED_NODE", "node": "Relu_0", "op_type": "Relu", "message": "false"}]
        (folder / "result.json").write_text(json.dumps({"refused": rows}))
    if plan in ("crash", "refuse-and-crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if plan == "abort":
        os.write(2, b"F0000 00:00:00 shape.cc:1] Check failed: rank == 2\n*** stack of the compiler ***\n")
        os.abort()
    if plan == "hang":
        # Deaf to anything but SIGKILL, with a child of its own.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            Path(os.environ["PLANTED_PID"]).write_text(str(os.getpid()))
        time.sleep(600)
    if plan == "eat":
        kept = []
        while True:
            kept.append(bytearray(os.urandom(1 << 16)) * 256)
            time.sleep(0.01)
    if plan == "exit":
        sys.exit(3)
    if plan == "refuse":
        raise ValueError("INVALID_ARGUMENT: no such thing")
    if plan == "count":
        with Path(os.environ["PLANTED_COUNT"]).open("a") as stream:
            stream.write("x")
        time.sleep(float(os.environ.get("PLANTED_SECONDS", "0")))
    (folder / "executable.bin").write_bytes(b"executable")
    (folder / "engine.bin").write_bytes(b"engine")
    (folder / "compiled.hlo.txt").write_text("HloModule m, is_scheduled=true\n")
    memory = dict.fromkeys(("argument", "output", "temp", "alias", "generated_code"), 1)
    result = {
        "memory": memory,
        "flops": 1.0,
        "bytes_accessed": 2.0,
        "device_kind": "planted",
        "compiler": "c 1",
        "layers": "",
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
