"""``tollgate dataset pii | duplicates | toxicity | quality``: single gates on any text file; answers as JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tollgate.dataset.console import errors, print_json_lines
from tollgate.errors import BadInputError, Problem

File = Annotated[Path, typer.Argument(help="A text a line, or JSON lines with --field; also .gz and .zst.")]
TextField = Annotated[
    str | None, typer.Option("--field", help="Field of each JSON line that holds the text; a.0.b leads inside.")
]
_NAMES = ("fast", "accurate", "off")


def pii(
    file: File,
    field: TextField = None,
    kind: Annotated[list[str] | None, typer.Option(help="Look for this kind only; may be repeated.")] = None,
    allow: Annotated[list[str] | None, typer.Option(help="A text that is no personal data; may be repeated.")] = None,
    names: Annotated[str, typer.Option(help="Names of persons: fast, accurate or off.")] = "fast",
) -> None:
    """Find personal data: kind, start, end and confidence of each finding, a JSON object for each text.

    The output holds places and kinds only, never what was found.
    """
    with errors():
        from tollgate.dataset import single_gates, text_lines
        from tollgate.gates.pii import KINDS, PersonalDataSettings, check_installed

        kinds = tuple(_one_of("--kind", one, KINDS) for one in kind or KINDS)
        chosen = PersonalDataSettings.model_validate(
            {"kinds": kinds, "allow": tuple(allow or ()), "names": _one_of("--names", names, _NAMES)}
        )
        check_installed(chosen)
        (texts,) = text_lines.read(file, [field] if field else [])
        print_json_lines(single_gates.personal_data(texts, chosen))


def duplicates(
    file: File,
    field: TextField = None,
    threshold: Annotated[float, typer.Option(help="Least Jaccard similarity of character 5-grams, 0 to 1.")] = 0.8,
) -> None:
    """Find exact and near duplicates: cluster, line kept and Jaccard to it, a JSON object for each text."""
    with errors():
        from tollgate.dataset import single_gates, text_lines

        _share("--threshold", threshold)
        (texts,) = text_lines.read(file, [field] if field else [])
        print_json_lines(single_gates.duplicates(texts, threshold))


def toxicity(
    file: File,
    field: TextField = None,
    threshold: Annotated[float, typer.Option(help="Score from which on a text is offensive or worse, 0 to 1.")] = 0.5,
) -> None:
    """Score toxicity and hate: scores and a grade (none, offensive, hate), a JSON object for each text."""
    with errors():
        from tollgate.dataset import single_gates, text_lines

        _share("--threshold", threshold)
        (texts,) = text_lines.read(file, [field] if field else [])
        print_json_lines(single_gates.toxic(texts, threshold))


def quality(
    file: File,
    field: TextField = None,
    answer_field: Annotated[
        str | None, typer.Option("--answer-field", help="Field of the answer; --field is then the question's.")
    ] = None,
) -> None:
    """Score quality: score and its parts, a JSON object for each text (or question with its answer)."""
    with errors():
        from tollgate.dataset import single_gates, text_lines

        if answer_field and not field:
            raise BadInputError("A field is missing", [Problem("--field", "nothing", "the question's field")])
        texts = text_lines.read(file, [one for one in (field, answer_field) if one])
        print_json_lines(single_gates.good(*texts))


def _one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise BadInputError("An option is wrong", [Problem(option, repr(value[:40]), f"one of {', '.join(known)}")])
    return value


def _share(option: str, value: float) -> None:
    if not 0 < value <= 1:
        raise BadInputError("An option is wrong", [Problem(option, f"{value:g}", "a number above 0, at most 1")])
