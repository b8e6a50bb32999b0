"""Fetch the wheels of an image on this machine, so that building the image needs no network.

``python containers/wheelhouse.py trainer build/wheelhouse/trainer`` downloads what
``containers/trainer/requirements.txt`` pins, by pip and therefore from wherever this machine's pip settings point. A
second run with the same pins does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CONTAINERS = Path(__file__).resolve().parent
PYTHON = "3.11"
PIP = "pip==26.3"
STAMP = ".complete"
SOURCES_ONLY = frozenset(
    {
        "axolotl-contribs-lgpl",
        "axolotl-contribs-mit",
        "deepspeed",
        "langdetect",
        "rouge-score",
        "sqlitedict",
        "word2number",
    }
)
"""Projects without wheels on PyPI."""


def main(arguments: list[str]) -> int:
    """Download the wheels unless they are there; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", choices=sorted(path.parent.name for path in CONTAINERS.glob("*/requirements.txt")))
    parser.add_argument("folder", type=Path, help="where the wheels go; replaced as a whole")
    parser.add_argument(
        "--requirements", nargs="+", default=["requirements.txt"], help="files of pins in the image's folder"
    )
    options = parser.parse_args(arguments)
    files = [CONTAINERS / options.image / name for name in options.requirements]
    for path in files:
        if not path.is_file():
            parser.error(f"{path} does not exist")
    return fetch(files, options.folder)


def fetch(requirements: Sequence[Path], folder: Path) -> int:
    """Download the wheels of all ``requirements`` and of pip itself into ``folder``; all of them or none."""
    pins = b"".join(path.read_bytes() for path in requirements)
    stamp = f"{PYTHON} {PIP} {hashlib.sha256(pins).hexdigest()}"
    if (folder / STAMP).is_file() and (folder / STAMP).read_text(encoding="utf-8") == stamp:
        print(f"{folder} is up to date.")  # ruff: ignore[T201]
        return 0
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in requirements:
        # A file at a time: where one pin has a hash, pip asks for everyone's.
        if status := _download(path.read_text(encoding="utf-8").splitlines(), partial):
            return status
    (partial / STAMP).write_text(stamp, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels, {size:.0f} MiB")  # ruff: ignore[T201]
    return 0


def _download(pins: list[str], folder: Path) -> int:
    """Fetch wheels, and build those of projects that publish none; returns the first exit status that is not 0."""
    built = [pin for pin in pins if pin.partition("==")[0] in SOURCES_ONLY]
    # The pins are complete, so nothing is resolved; pip comes along because a small base image has none.
    command = [*_pip(), "download", "--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}", "-qq"]
    hashed = any("--hash=" in pin for pin in pins)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as others:
        others.write("\n".join(pin for pin in pins if pin not in built))
        others.flush()
        status = subprocess.run(
            [*command, f"--dest={folder}", f"--requirement={others.name}", *([] if hashed else [PIP])]
        ).returncode
    if status or not built:
        return status
    # Its own operations are compiled where they are first used; as a wheel it is Python alone.
    build = [*_pip(), "wheel", "--no-deps", "-qq", f"--wheel-dir={folder}", *built]
    return subprocess.run(build, env={**os.environ, "DS_BUILD_OPS": "0"}).returncode


def _pip() -> list[str]:
    """Return a command that is pip: an environment made by uv has none of its own."""
    for python in (sys.executable, f"python{PYTHON}", "python3"):
        command = [python, "-m", "pip"]
        if shutil.which(python) and subprocess.run([*command, "--version"], capture_output=True).returncode == 0:
            return command
    if shutil.which("uvx"):
        return ["uvx", "pip"]
    sys.exit("No pip was found. Install it: apt-get install python3-pip")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
