"""Build an image without network: fetch its wheels on this machine, and label it with the digest of its sources.

``python3.11 containers/build_image.py trainer`` makes ``tollgate/trainer:0.1.0``. A second run with the same pins
fetches nothing and changes only the layers of the sources. By the label Tollgate knows an image that is older than the
sources it runs with (``tollgate/stack/image_sources.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import IO

CONTAINERS = Path(__file__).resolve().parent
PROJECT = CONTAINERS.parent
sys.path[:0] = [str(PROJECT / "include"), str(CONTAINERS)]

from tollgate.stack import image_sources  # noqa: E402
from wheelhouse import fetch  # noqa: E402

SOURCES = ("requirements.txt", "dags", "plugins", "include/tollgate", "containers")
"""What the Dockerfiles copy, beside the wheels."""

WHEEL_ONLY = {"requirements-cpu.txt": ("requirements-cpu-wheel.txt",)}
"""Files of pins that stand alone as their wheels are checked by hash, by the file that they belong to."""


def main(arguments: list[str]) -> int:
    """Build one image; returns the exit status."""
    options = _parser().parse_args(arguments)
    folder = CONTAINERS / options.image
    wheels = PROJECT / "build" / "wheelhouse" / options.image
    pins = [folder / name for name in (options.requirements, *WHEEL_ONLY.get(options.requirements, ()))]
    missing = [path for path in pins if not path.is_file()]
    if missing:
        print(f"{missing[0]} does not exist", file=sys.stderr)  # ruff: ignore[T201]
        return 2
    return fetch(pins, wheels) or _build(options, wheels)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", choices=sorted(path.parent.name for path in CONTAINERS.glob("*/requirements.txt")))
    parser.add_argument("--requirements", default="requirements.txt", help="file of pins in the image's folder")
    parser.add_argument("--base-image", help="default: the Dockerfile's")
    parser.add_argument("--tag", help="default: tollgate/<image>:<version of the project>")
    return parser


def _build(options: argparse.Namespace, wheels: Path) -> int:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    values = {"VERSION": version}
    if options.base_image:
        values["BASE_IMAGE"] = options.base_image
    if options.image in image_sources.IMAGES:
        values |= {"REQUIREMENTS": options.requirements, "SOURCES": image_sources.digest(options.image)}
    file = CONTAINERS / options.image / "Dockerfile"
    if not file.is_file():  # another training backend: the trainer's with other pins
        file, values["TRAINER"] = CONTAINERS / "trainer" / "Dockerfile", options.image
    tag = options.tag or f"tollgate/{options.image}:{version}"
    command = ["docker", "build", "--quiet", "--tag", tag, "--file", str(file.relative_to(PROJECT))]
    command += [f"--build-arg={name}={value}" for name, value in values.items()]
    builder = subprocess.Popen([*command, "-"], stdin=subprocess.PIPE, env=_environment())
    assert builder.stdin is not None, "asked for above"
    with contextlib.suppress(BrokenPipeError), builder.stdin:  # where the builder ended, it has said why
        _send_context(builder.stdin, wheels)
    if status := builder.wait():
        return status
    print(f"{tag} is built.")  # ruff: ignore[T201]
    return 0


def _environment() -> dict[str, str]:
    """Debian's engine has no BuildKit client; its classic builder does the same."""
    has_buildkit = subprocess.run(["docker", "buildx", "version"], capture_output=True).returncode == 0
    return {**({} if has_buildkit else {"DOCKER_BUILDKIT": "0"}), **os.environ}


def _send_context(stream: IO[bytes], wheels: Path) -> None:
    """Write what the builder needs, as a tar file: the sources, and of all wheels those of this image."""
    # Of Python's default format the classic builder does not see that it is a tar file.
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as context:
        for name in (*SOURCES, str(wheels.relative_to(PROJECT))):
            context.add(PROJECT / name, name, filter=_without_caches)


def _without_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in Path(entry.name).parts else entry


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
