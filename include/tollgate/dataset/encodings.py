"""A source's bytes: decompressed, and as UTF-8 whatever the encoding they are in."""

from __future__ import annotations

import codecs
import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tollgate.errors import BadInputError, Problem

if TYPE_CHECKING:
    from typing_extensions import Buffer

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
STRAY = "tollgate.stray"
"""Name of the error handler that puts U+DCFF for each byte that the encoding can't read; no text can hold it."""

_ESCAPE = "\udcff"
_BLOCK = 256 << 10
_LONGEST_CHARACTER = 4  # bytes of UTF-8
_HANGUL = re.compile("[가-힣]")
_NOT_ASCII = re.compile("[^\x00-\x7f]")


def _stray(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _ESCAPE * (error.end - error.start), error.end


codecs.register_error(STRAY, _stray)


class _Decompressed(io.RawIOBase):
    """A compressed file's content. Says so where the file is damaged or cut off."""

    def __init__(self, path: Path, compression: str) -> None:
        import pyarrow as pa

        self._path, self._compression = path, compression
        self._stream = pa.CompressedInputStream(pa.OSFile(str(path)), compression)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer).cast("B")
        try:
            data = self._stream.read(len(target))
        except (OSError, ValueError) as error:
            problem = Problem(str(self._path), str(error), f"a whole {self._compression} file")
            raise BadInputError("The compressed file is damaged", [problem]) from error
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed if its name ends in one of :data:`COMPRESSIONS`.

    Raises:
        BadInputError: While reading: the compressed file is damaged.
    """
    compression = COMPRESSIONS.get(path.suffix.lower())
    return io.BufferedReader(_Decompressed(path, compression), _BLOCK) if compression else path.open("rb")


def utf8_blocks(path: Path, encoding: str, size: int = 16 * _BLOCK) -> Iterator[bytes]:
    """A text file's content as UTF-8 without a byte order mark, in blocks that may end within a character.

    Bytes that the encoding can't read come out as bytes that UTF-8 can't read.

    Args:
        path: The file, perhaps compressed.
        encoding: As :func:`detect_encoding` found it.
        size: Bytes to read at once.
    """
    with open_bytes(path) as file:
        if encoding == "utf-8-sig":
            file.read(len(codecs.BOM_UTF8))
        decoder = None if encoding.startswith("utf-8") else codecs.getincrementaldecoder(encoding)(STRAY)
        while block := file.read(size):
            yield decoder.decode(block).encode(errors="surrogatepass") if decoder else block
        if decoder and (rest := decoder.decode(b"", final=True)):
            yield rest.encode(errors="surrogatepass")


def detect_encoding(path: Path) -> str:
    """Find a text file's encoding: a byte order mark decides, else UTF-8 if most lines are, else CP949 (EUC-KR).

    Some damaged lines don't make a UTF-8 file something else: they are left to be quarantined.

    Raises:
        BadInputError: The file is binary, or neither encoding reads most of it.
    """
    with open_bytes(path) as file:
        start = file.read(4)
    if start.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(start) == 4 and [byte == 0 for byte in start] in ([False, True] * 2, [True, False] * 2):
        return "utf-16-be" if start[0] == 0 else "utf-16-le"
    return "utf-8" if _is_utf8(path) else _encoding_of_lines(path)


def _is_utf8(path: Path) -> bool:
    rest = b""
    with open_bytes(path) as file:
        while block := file.read(_BLOCK):
            if b"\x00" in block:
                return False
            text = rest + block
            end = _end_of_characters(text)
            if not _reads_as_utf8(text[:end]):
                return False
            rest = text[end:]
    return not rest


def _end_of_characters(text: bytes) -> int:
    """Where the last character ends that is whole, as far as its first byte tells."""
    for back in range(1, min(_LONGEST_CHARACTER, len(text) + 1)):
        byte = text[-back]
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(text) - back if size > back else len(text)
        if byte < 0x80:
            break
    return len(text)


def _reads_as_utf8(text: bytes) -> bool:
    """Whether bytes are UTF-8. Arrow finds out in a third of the time that decoding takes."""
    import pyarrow as pa

    places = pa.py_buffer(struct.pack("=2q", 0, len(text)))
    column = pa.LargeStringArray.from_buffers(1, places, pa.py_buffer(text))
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _encoding_of_lines(path: Path) -> str:
    utf8, cp949 = (codecs.getincrementaldecoder(encoding)(STRAY) for encoding in ("utf-8", "cp949"))
    line, zeros, foreign, broken, korean = 1, 0, 0, 0, 0
    first_zero, first_broken = 0, 0
    with open_bytes(path) as file:
        while piece := file.readline(_BLOCK):  # of a longer line in pieces, which may end within a character
            ended = piece.endswith(b"\n")
            if b"\x00" in piece:
                zeros += 1
                first_zero = first_zero or line
            elif not piece.isascii():
                foreign += 1
                if _ESCAPE in utf8.decode(piece, final=ended):
                    broken += 1
                    first_broken = first_broken or line
                    korean += _is_korean(cp949.decode(piece, final=ended))
            line += ended
    if zeros * 2 >= line:
        problem = Problem(f"{path}, line {first_zero}", "a zero byte", "text in UTF-8")
        raise BadInputError("The source is no text file", [problem])
    if broken * 2 <= foreign:
        return "utf-8"
    if korean * 10 >= broken * 9:
        return "cp949"
    problem = Problem(f"{path}, line {first_broken}", "bytes of another encoding", "UTF-8 (best) or CP949")
    raise BadInputError("The source's encoding is unknown", [problem])


def _is_korean(text: str) -> bool:
    """Whether CP949 read it, and as Hangul: it reads much of what is no Korean as rare characters."""
    return _ESCAPE not in text and len(_HANGUL.findall(text)) * 2 >= len(_NOT_ASCII.findall(text))
