"""Scorers of the user's own: a Python file, or an installed package's entry points."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path

from tollgate.errors import BadInputError, Problem

GROUP = "tollgate.scorers"
"""Entry points of this group name modules whose decorated functions are scorers."""


def load_own_scorers(files: Iterable[Path] = ()) -> None:
    """Run the files, and import the installed packages' modules, so that what they decorate is registered.

    A file runs with all rights of this process: name only files that you trust. A file is run once.

    Raises:
        BadInputError: A file is not there or fails; every one is named.
    """
    problems = [problem for file in files if (problem := _run(file)) is not None]
    if problems:
        raise BadInputError("Own scorers cannot be loaded.", problems)
    for point in entry_points(group=GROUP):
        point.load()


def _run(file: Path) -> Problem | None:
    path = file.absolute()
    name = f"tollgate_own_scorers_{sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return None
    spec = importlib.util.spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        return Problem(str(file), "no such Python file", "a file whose functions are decorated with @scorer")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises is for the user to read
        del sys.modules[name]
        return Problem(str(file), f"{type(error).__name__}: {error}", "Python that runs")
    return None
