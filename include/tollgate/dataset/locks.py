"""One writer at a time in a dataset's folder, and telling a folder in use from one that a killed process left."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold the dataset's lock; the kernel frees it when the process ends, however it ends."""
    with (folder / _LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def owned(folder: Path) -> Generator[None]:
    """Hold the lock of a new folder; others never see the lock free while this process lives."""
    hidden = folder / f"{_LOCK}ing"
    with hidden.open("x") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        hidden.rename(folder / _LOCK)
        yield


def is_left(folder: Path) -> bool:
    """Whether the process that :func:`owned` a folder ended without deleting it; another user's are left to them."""
    try:
        with (folder / _LOCK).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def delete(folder: Path) -> None:
    """Delete a folder if it is there, its lock last: of what is killed midway, :func:`is_left` knows the rest."""
    for path in folder.glob("*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK:
            with suppress(OSError):
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def sync(path: Path) -> None:
    """Make sure that what was written survives a power cut before it gets its name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
