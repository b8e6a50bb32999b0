"""What all commands of ``tollgate dataset`` share: how they print and how they fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import orjson
import typer
from rich.console import Console

from tollgate.errors import TollgateError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object; progress goes to standard error.")]

_LINES_AT_ONCE = 1_000
_WIDE = 160


def output() -> Console:
    """Standard output; as wide as the terminal, and wide where it is none, so that a file's tables are not squeezed."""
    console = Console(soft_wrap=False, highlight=False)
    return console if console.is_terminal else Console(width=_WIDE, highlight=False)


@contextmanager
def errors(as_json: bool = False) -> Generator[None]:
    """End the command with the exit status of the error: 1 a gate said no, 2 bad input, 3 something broke."""
    try:
        yield
    except TollgateError as error:
        _fail(error, error.exit_status, as_json)
    except BrokenPipeError:
        # The reader, such as head, has seen enough. What is still buffered must not be written when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _fail(error, 3, as_json)


def _fail(error: Exception, status: int, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"ok": False, "error": str(error), "exit_status": status})
    Console(stderr=True).print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(status) from error


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output, for people and programs."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")


def print_json_lines(values: Iterable[Mapping[str, Any]]) -> None:
    """Print a JSON object a line on standard output, as they come."""
    lines: list[bytes] = []
    for value in values:
        lines.append(orjson.dumps(value))
        if len(lines) == _LINES_AT_ONCE:
            _write(lines)
    _write(lines)
    sys.stdout.flush()


def _write(lines: list[bytes]) -> None:
    sys.stdout.write("".join(line.decode() + "\n" for line in lines))
    lines.clear()
