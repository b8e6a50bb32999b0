"""From which sources an image is made, as one digest that its label keeps; standard library only, as builds run it.

    python -m tollgate.stack.image_sources trainer

prints the digest of the sources beside this package: in a checkout, in Airflow's image, and in the image itself while
it is built. Two equal digests mean that the job in the container reads the same ``spec.json`` as whoever writes it.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]

LABEL = "tollgate.sources"
"""The image's label that holds the digest."""

REQUIREMENTS_LABEL = "tollgate.requirements"
"""The image's label that names its file of pins, where it is not ``requirements.txt``."""

TITLE_PREFIX = "tollgate-"
"""What the title (``org.opencontainers.image.title``) of every image of this project begins with."""

_TRAINER = ("containers/trainer/Dockerfile", "containers/trainer/**/*.py")

IMAGES: Mapping[str, tuple[str, ...]] = {
    "trainer": ("containers/trainer/**/*",),
    "trainer-axolotl": (*_TRAINER, "containers/trainer-axolotl/*"),
    "trainer-llamafactory": (*_TRAINER, "containers/trainer-llamafactory/*"),
    "vllm": ("containers/vllm/**/*",),
}
"""Images that jobs run in, with patterns of their own files; what these import of ``tollgate`` is added."""


def digest(image: str, project: Path = PROJECT) -> str:
    """The SHA-256 of an image's sources: of each file its path below the project and its content.

    Files of ``tollgate`` count where the image's programs import them, directly or through others, also inside of
    functions, and with them the files beside them that are no Python. Changes elsewhere make no image old.

    Args:
        image: Name in :data:`IMAGES`.
        project: The folder that holds ``containers`` and ``include``.

    Returns:
        64 hexadecimal digits.

    Raises:
        FileNotFoundError: One of the image's own folders is not there.
    """
    own = [path for pattern in IMAGES[image] for path in _matching(project, pattern)]
    programs = [path for path in own if path.suffix == ".py"]
    total = hashlib.sha256()
    for path in sorted({*own, *_imported(programs, project / "include")}):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(project).as_posix()} {content}\n".encode())
    return total.hexdigest()


def _matching(project: Path, pattern: str) -> list[Path]:
    found = [path for path in project.glob(pattern) if _is_source(path)]
    if not found:
        raise FileNotFoundError(f"{project / pattern} matches no file")
    return found


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _imported(programs: Iterable[Path], include: Path) -> set[Path]:
    """Files of ``tollgate`` that the programs import, and the data beside them."""
    found: set[Path] = set()
    waiting = list(programs)
    while waiting:
        new = {path for name in _imports(waiting.pop()) if (path := _module_file(include, name))} - found
        found |= new
        waiting += new
    data = {path for folder in {path.parent for path in found} for path in folder.iterdir() if path.suffix != ".py"}
    return found | {path for path in data if _is_source(path)}


def _imports(program: Path) -> Iterator[str]:
    """Absolute names that a file may import; of ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(program.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_file(include: Path, name: str) -> Path | None:
    if name.partition(".")[0] != "tollgate":
        return None
    module = include.joinpath(*name.split("."))
    return next((path for path in (module.with_suffix(".py"), module / "__init__.py") if path.is_file()), None)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in IMAGES:
        sys.exit(f"usage: python -m tollgate.stack.image_sources {{{','.join(IMAGES)}}}")
    print(digest(sys.argv[1]))  # ruff: ignore[T201]
