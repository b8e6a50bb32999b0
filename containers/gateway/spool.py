"""A queue of lines on disk between requests and PostgreSQL: what is in it survives SIGKILL and long outages.

Each process has a folder of its own, held by a lock that ends with the process. A line is appended by one write,
without ``fsync``: the page cache outlives the process, and only a dying machine loses the last seconds. A folder whose
process is gone is taken over by the next gateway on the same disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SEGMENT_BYTES = 8 * 2**20
_LOCK = "lock"
_POSITION = "position"
_ASIDE = "aside"
_SUFFIX = ".jsonl"
_DETAIL_SHARE = 0.75
"""Share of the bound above which detail is no longer kept, so that the rest holds entries of their bare form."""


@dataclass(slots=True)
class Batch:
    """Whole lines, and where the next batch begins."""

    lines: list[bytes]
    segment: int
    offset: int


class Spool:
    """Lines in segments of a folder, in order. One thread reads; any may append.

    Args:
        folder: The process's own folder; made by ``create``, or another process's by ``adopt``.
        descriptor: Descriptor of its lock, held.
        limit: Most bytes on disk.
    """

    def __init__(self, folder: Path, descriptor: int, limit: int) -> None:
        self._folder = folder
        self._lock_descriptor = descriptor
        self._limit = limit
        self._lock = threading.Lock()
        self._writing = -1
        self._written = 0
        self._segments = sorted(int(path.stem) for path in folder.glob(f"*{_SUFFIX}"))
        self._next = self._segments[-1] + 1 if self._segments else 0
        self._bytes = sum(self._path(number).stat().st_size for number in self._segments)
        self._segment, self._offset = self._position()
        self._read = 0

    @classmethod
    def create(cls, root: Path, limit: int) -> Spool:
        """A new, empty spool under ``root``.

        Raises:
            OSError: The folder can't be written.
        """
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        fresh = root / f".{name}"
        fresh.mkdir(mode=0o700)
        descriptor = _hold(fresh / _LOCK)
        assert descriptor is not None
        fresh.rename(root / name)  # seen by others only when it is locked
        return cls(root / name, descriptor, limit)

    @classmethod
    def adopt(cls, root: Path) -> Iterator[Spool]:
        """Spools under ``root`` whose process is gone; they are this process's from now on."""
        for folder in sorted(root.glob("[!.]*")):
            try:
                descriptor = _hold(folder / _LOCK)
            except OSError:  # another one finished with it just now
                continue
            if descriptor is not None:
                yield cls(folder, descriptor, 0)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._bytes

    @property
    def waiting(self) -> int:
        """Bytes appended and not yet done with."""
        return max(0, self._bytes - self._offset)

    @property
    def is_filling(self) -> bool:
        """Whether so much waits that detail should no longer be kept."""
        return self._bytes > _DETAIL_SHARE * self._limit

    def append(self, line: bytes) -> bool:
        """Add one line, which holds no line break. False, and nothing is kept, if the bound is reached.

        Raises:
            OSError: The disk refused.
        """
        with self._lock:
            if self._bytes + len(line) + 1 > self._limit:
                return False
            if self._writing < 0 or self._written >= SEGMENT_BYTES:
                self._open_segment()
            done = os.write(self._writing, line + b"\n")
            self._written += done
            self._bytes += done
            if done <= len(line):  # a full disk: the torn line must not swallow the next one
                self._close_segment()
                raise OSError("the disk took a part of a line only")
            return True

    def next_batch(self, most: int) -> Batch | None:
        """Up to ``most`` lines that are not done yet; null if there are none. Asked again it gives the same."""
        while True:
            with self._lock:
                number = next((one for one in self._segments if one >= self._segment), None)
                is_last = number is not None and number == self._segments[-1] and self._writing >= 0
            if number is None:
                return None
            if number > self._segment:
                self._segment, self._offset = number, 0
            lines = self._lines(number, most)
            if lines:
                return Batch(lines, number, self._offset + sum(map(len, lines)))
            if is_last:
                return None
            self._drop(number)

    def done(self, batch: Batch) -> None:
        """The batch is in the database: go on after it."""
        self._segment, self._offset = batch.segment, batch.offset
        part = self._folder / f"{_POSITION}.writing"
        part.write_text(f"{batch.segment} {batch.offset}", encoding="ascii")
        part.rename(self._folder / _POSITION)

    def set_aside(self, lines: Sequence[bytes]) -> None:
        """Keep lines that are done with but for one thing that is still to come, in place of those kept before.

        Raises:
            OSError: The disk refused; those kept before stay.
        """
        if not lines:
            (self._folder / _ASIDE).unlink(missing_ok=True)
            return
        part = self._folder / f"{_ASIDE}.writing"
        part.write_bytes(b"".join(line + b"\n" for line in lines))
        part.rename(self._folder / _ASIDE)

    def aside(self) -> list[bytes]:
        """Lines that were set aside."""
        try:
            return (self._folder / _ASIDE).read_bytes().splitlines()
        except FileNotFoundError:
            return []

    def close(self) -> None:
        """Let go of the folder; what is not done stays for the next gateway, and an empty one is removed."""
        with self._lock:
            self._close_segment()
        if self.next_batch(1) is None and not self.aside():
            shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock_descriptor)

    def _lines(self, number: int, most: int) -> list[bytes]:
        lines = []
        with self._path(number).open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # being written, or torn by a dying machine
                    break
                lines.append(line)
                if len(lines) == most:
                    break
        return lines

    def _drop(self, number: int) -> None:
        path = self._path(number)
        size = path.stat().st_size
        path.unlink()
        with self._lock:
            self._segments.remove(number)
            self._bytes -= size
            self._segment, self._offset = number + 1, 0

    def _open_segment(self) -> None:
        self._close_segment()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL
        self._writing = os.open(self._path(self._next), flags, 0o600)
        self._segments.append(self._next)
        self._next += 1
        self._written = 0

    def _close_segment(self) -> None:
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}{_SUFFIX}"

    def _position(self) -> tuple[int, int]:
        try:
            segment, offset = (self._folder / _POSITION).read_text(encoding="ascii").split()
            return int(segment), int(offset)
        except (OSError, ValueError):
            return 0, 0


def _hold(path: Path) -> int | None:
    """Take the lock of a folder; null if another process has it.

    Raises:
        OSError: There is no such folder.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
