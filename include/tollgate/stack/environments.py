"""Make the project's three Python environments; standard library only, for nothing is installed yet when this runs.

    python3.11 include/tollgate/stack/environments.py [--only airflow|ml|harness|dev]

``.venv`` holds Airflow's side and the development tools, ``.venv-ml`` the trainer and the CPU build of vLLM,
``.venv-harness`` lm-evaluation-harness, whose many libraries the trainer's would import where they found them. All are
made by uv, which is fetched when the machine has none, else by venv and pip. A stamp, written last, tells that an
environment is complete for these requirement files: running again then changes nothing. An interrupted run leaves a
mark, and the next one starts that environment afresh.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PROJECT = Path(__file__).resolve().parents[3]

PYTHON = (3, 11)
UV = "uv==0.13.8"
FREE_DISK = 6 * 2**30
"""Bytes that the environments and the downloads need."""

C_LIBRARY = (2, 28)
"""Oldest glibc that the pinned wheels run on."""

STAMP = "tollgate-complete"
INCOMPLETE = "tollgate-incomplete"


class SetUpError(Exception):
    """The set-up cannot go on; the text says what to do."""


@dataclass(frozen=True)
class RequirementSet:
    """Requirement files that are installed together.

    Args:
        files: Paths below the project.
        hashed: Every requirement carries its hash, which is checked.
    """

    files: tuple[str, ...]
    hashed: bool = False


@dataclass(frozen=True)
class Environment:
    """One environment.

    Args:
        name: What ``--only`` calls it.
        title: What it is for, in a few words.
        folder: Its folder below the project.
        steps: What is installed, in this order, without looking for dependencies: the files list them all.
        libraries: Debian packages of the shared libraries it needs, by the library's file name.
    """

    name: str
    title: str
    folder: str
    steps: tuple[RequirementSet, ...]
    libraries: tuple[tuple[str, str], ...] = ()


ENVIRONMENTS = (
    Environment(
        "airflow",
        "Airflow, MLflow, the gates, the command line and the development tools",
        ".venv",
        (RequirementSet(("requirements.txt", "requirements-dev.txt")),),
    ),
    Environment(
        "ml",
        "PyTorch, TRL and vLLM for the CPU",
        ".venv-ml",
        (
            RequirementSet(("containers/trainer/requirements.txt", "containers/vllm/requirements-cpu.txt")),
            RequirementSet(("containers/vllm/requirements-cpu-wheel.txt",), hashed=True),
        ),
        (("libnuma.so.1", "libnuma1"), ("libgomp.so.1", "libgomp1"), ("libstdc++.so.6", "libstdc++6")),
    ),
    Environment(
        "harness",
        "EleutherAI's lm-evaluation-harness, for KoBEST",
        ".venv-harness",
        (RequirementSet(("containers/harness/requirements.txt",)),),
    ),
)


def say(text: str) -> None:
    """Tell the user how far things are."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


# --- What the machine must have -----------------------------------------------------------------------------------


def check_machine(environments: Sequence[Environment], project: Path = PROJECT) -> None:
    """Name everything that is missing, with the command that installs it.

    Args:
        environments: The environments about to be made.
        project: The checkout.

    Raises:
        SetUpError: Something is missing.
    """
    missing: list[str] = []
    if sys.version_info[:2] != PYTHON:
        missing.append(
            f"Python 3.11: this is {platform.python_version()}. Run this file with python3.11 "
            "(apt-get install python3.11 python3.11-venv)."
        )
    missing += [*_wrong_c_library(), *_missing_libraries(environments), *_missing_tools()]
    free = shutil.disk_usage(project).free
    if free < FREE_DISK:
        missing.append(
            f"Disk space: {free / 2**30:.1f} GB are free in {project}, {FREE_DISK / 2**30:.0f} GB are needed."
        )
    if missing:
        raise SetUpError("\n".join(["The machine lacks:", *(f"  - {line}" for line in missing)]))


def _wrong_c_library() -> list[str]:
    name, version = platform.libc_ver()
    found = tuple(int(part) for part in version.split(".") if part.isdigit())
    if name == "glibc" and found >= C_LIBRARY:
        return []
    wanted = ".".join(map(str, C_LIBRARY))
    return [
        f"glibc {wanted} or newer, which the wheels need: found {name or 'another C library'} {version}. Use Debian 12."
    ]


def _missing_libraries(environments: Sequence[Environment]) -> list[str]:
    lines = []
    for environment in environments:
        for library, package in environment.libraries:
            try:
                ctypes.CDLL(library)
            except OSError:
                lines.append(f"{library}: apt-get install {package}")
    return lines


def _missing_tools() -> list[str]:
    if shutil.which("uv") or (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        return []
    return ["Python's venv module: apt-get install python3.11-venv"]


# --- Where packages come from -------------------------------------------------------------------------------------


def pip_settings(listing: str) -> dict[str, str]:
    """Read the output of ``pip config list``: option to value, the environment's before the files'.

    Args:
        listing: Lines such as ``global.find-links='/wheels'`` and ``:env:.cert='/etc/ca.crt'``.
    """
    found: dict[str, str] = {}
    for prefix in ("global.", "install.", ":env:."):
        for line in listing.splitlines():
            name, separator, value = line.strip().partition("=")
            if separator and name.startswith(prefix):
                found[name.removeprefix(prefix)] = str(ast.literal_eval(value)).strip()
    return found


def machine_pip_settings() -> dict[str, str]:
    """What this machine's pip is set to use; empty without pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        return _pip_environment()
    return pip_settings(outcome.stdout)


def _pip_environment() -> dict[str, str]:
    return {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in os.environ.items()
        if name.startswith("PIP_")
    }


def uv_environment(pip: dict[str, str], environ: dict[str, str]) -> dict[str, str]:
    """Environment for uv, which does not read pip's settings: the same sources, unless uv has settings of its own.

    Args:
        pip: pip's settings.
        environ: The environment; its ``UV_*`` variables win.
    """
    translated: dict[str, str] = {}
    if "index-url" in pip:
        translated["UV_DEFAULT_INDEX"] = pip["index-url"]
    if "extra-index-url" in pip:
        # Like pip, take the best version from any index; uv alone would only look into the first that has the package.
        translated |= {"UV_INDEX": " ".join(pip["extra-index-url"].split()), "UV_INDEX_STRATEGY": "unsafe-best-match"}
    if "find-links" in pip:
        translated["UV_FIND_LINKS"] = ",".join(pip["find-links"].split())
    if "cert" in pip:
        translated["SSL_CERT_FILE"] = pip["cert"]
    # A Python of uv's own would have to be downloaded; the one that runs this file is right.
    return translated | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"} | environ


def offers_torch(find_links: str) -> bool:
    """Whether the machine's find-links can be expected to hold PyTorch's CPU build.

    Args:
        find_links: Folders and addresses, separated by commas or spaces; a folder is looked into, an address trusted.
    """
    places = find_links.replace(",", " ").split()
    return any("://" in place or any(Path(place).glob("torch-*cpu*.whl")) for place in places)


# --- Installers ---------------------------------------------------------------------------------------------------


class Installer(Protocol):
    """Makes environments and installs into them."""

    def create(self, folder: Path) -> None:
        """Make an empty environment with the Python that runs this file."""

    def install(self, folder: Path, arguments: Sequence[str]) -> None:
        """Install into an environment, without dependencies; ``arguments`` are those of ``pip install``."""


class UvInstaller:
    """Installs with uv.

    Args:
        program: The uv command.
        environ: Its environment.
    """

    def __init__(self, program: str, environ: dict[str, str]) -> None:
        self._program = program
        self._environ = environ

    def create(self, folder: Path) -> None:
        """Make an empty environment with the Python that runs this file."""
        _run([self._program, "venv", "--quiet", "--python", sys.executable, str(folder)], self._environ)

    def install(self, folder: Path, arguments: Sequence[str]) -> None:
        """Install into an environment, without dependencies."""
        backend = [] if offers_torch(self._environ.get("UV_FIND_LINKS", "")) else ["--torch-backend", "cpu"]
        python = str(folder / "bin" / "python")
        command = [self._program, "pip", "install", "--quiet", "--no-deps", "--python", python, *backend, *arguments]
        _run(command, self._environ)


class PipInstaller:
    """Installs with venv and pip, where there is no uv.

    Args:
        pip: pip's settings.
        environ: Its environment.
    """

    def __init__(self, pip: dict[str, str], environ: dict[str, str]) -> None:
        self._pip = pip
        self._environ = environ

    def create(self, folder: Path) -> None:
        """Make an empty environment with the Python that runs this file."""
        _run([sys.executable, "-m", "venv", str(folder)], self._environ)

    def install(self, folder: Path, arguments: Sequence[str]) -> None:
        """Install into an environment, without dependencies."""
        needs_torch = any(argument.endswith("trainer/requirements.txt") for argument in arguments)
        if needs_torch and not offers_torch(self._pip.get("find-links", "")) and "extra-index-url" not in self._pip:
            raise SetUpError(
                "Without uv, pip must be told where PyTorch's CPU build is: set PIP_EXTRA_INDEX_URL to PyTorch's index "
                "of CPU wheels, or PIP_FIND_LINKS to a folder that holds them, and run this again."
            )
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", *arguments]
        _run(command, self._environ)


def _run(command: Sequence[str], environ: dict[str, str]) -> None:
    if subprocess.run(command, env=environ, check=False).returncode != 0:
        raise SetUpError(f"This command failed; its output above says why:\n  {' '.join(command)}")


def find_installer(project: Path = PROJECT) -> Installer:
    """uv from the machine, or a private one under ``build/tools``, or pip where no uv can be had."""
    pip = machine_pip_settings()
    environ = dict(os.environ)
    program = shutil.which("uv") or _private_uv(project / "build" / "tools" / "uv")
    if program is None:
        say("uv can not be had here; pip does it too, in some minutes more.")
        return PipInstaller(pip, environ)
    return UvInstaller(program, uv_environment(pip, environ))


def _private_uv(folder: Path) -> str | None:
    program = folder / "bin" / "uv"
    if not program.exists():
        say("Fetching uv …")
        shutil.rmtree(folder, ignore_errors=True)
        made = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, check=False)
        if made.returncode != 0:
            return None
        fetch = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", UV]
        subprocess.run(fetch, capture_output=True, check=False)
    return str(program) if _works(program) else None


def _works(program: Path) -> bool:
    try:
        return subprocess.run([str(program), "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


# --- Making an environment ----------------------------------------------------------------------------------------


def fingerprint(environment: Environment, project: Path = PROJECT) -> str:
    """What a complete environment must have been made from: place, Python, requirement files, project description."""
    content = hashlib.sha256(f"{project}\n{sys.version_info[:2]}\n".encode())
    for step in environment.steps:
        for name in step.files:
            content.update((project / name).read_bytes())
    content.update((project / "pyproject.toml").read_bytes())
    return content.hexdigest()


def is_complete(environment: Environment, project: Path = PROJECT) -> bool:
    """Whether an environment is there and was made from today's files."""
    folder = project / environment.folder
    try:
        stamp = (folder / STAMP).read_text(encoding="utf-8")
    except OSError:
        return False
    return stamp == fingerprint(environment, project) and (folder / "bin" / "python").exists()


def make(environment: Environment, installer: Installer, project: Path = PROJECT) -> None:
    """Make an environment, or bring it up to today's files.

    Args:
        environment: The environment.
        installer: What installs packages.
        project: The checkout.

    Raises:
        SetUpError: A package could not be installed. The next run starts afresh.
    """
    folder = project / environment.folder
    started = time.monotonic()
    say(f"{environment.folder}: {environment.title} …")
    if (folder / INCOMPLETE).exists() or not (folder / "bin" / "python").exists() or _was_moved(folder):
        shutil.rmtree(folder, ignore_errors=True)
        installer.create(folder)
    (folder / STAMP).unlink(missing_ok=True)
    (folder / INCOMPLETE).touch()
    for step in environment.steps:
        files = [word for name in step.files for word in ("-r", str(project / name))]
        installer.install(folder, [*(["--require-hashes"] if step.hashed else []), *files])
    installer.install(folder, ["--editable", str(project)])
    temporary = folder / f"{STAMP}.new"
    temporary.write_text(fingerprint(environment, project), encoding="utf-8")
    temporary.replace(folder / STAMP)
    (folder / INCOMPLETE).unlink()
    say(f"{environment.folder}: ready after {time.monotonic() - started:.0f} s")


def _was_moved(folder: Path) -> bool:
    """Whether the environment was made at another place: its commands start with that place's path."""
    try:
        first_line = (folder / "bin" / "tollgate").read_text(encoding="utf-8", errors="replace").split("\n", 1)[0]
    except OSError:
        return False
    return str(folder) not in first_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing.

    Args:
        arguments: The words of the command line; default: this process's.

    Returns:
        The exit status: 0 done, 3 something is missing or failed.
    """
    parser = argparse.ArgumentParser(description="Make the project's Python environments.")
    parser.add_argument(
        "--only", choices=["airflow", "ml", "harness", "dev"], help="just this one; dev is the same as airflow"
    )
    only = parser.parse_args(arguments).only
    wanted = [e for e in ENVIRONMENTS if only is None or e.name == {"dev": "airflow"}.get(only, only)]
    todo = [environment for environment in wanted if not is_complete(environment)]
    if not todo:
        return 0
    try:
        check_machine(todo)
        installer = find_installer()
        for environment in todo:
            make(environment, installer)
    except SetUpError as error:
        say(str(error))
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
