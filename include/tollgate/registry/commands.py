"""``tollgate model``: which versions there are, which served when, and the moves that a person decides."""

from __future__ import annotations

import datetime as dt
import getpass
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, Problem, ServiceUnavailableError
from tollgate.reasons import Reason, shown
from tollgate.registry import lifecycle, mlflow_projection, signatures
from tollgate.registry.lifecycle import StageChange, StageConflictError
from tollgate.registry.registration import Registration
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel

app = typer.Typer(no_args_is_help=True, help="Model versions: list, history, promote, roll back.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object; progress goes to standard error.")]
ServedName = Annotated[str, typer.Argument(help="The version, for example highway-router@v3.")]
Why = Annotated[str, typer.Option("--why", help="The reason, kept in the history.")]
Ask = Annotated[
    list[str], typer.Option("--ask", help="A question that it must answer before the route moves; may be repeated.")
]
GREETING = "안녕하세요"
_TIMES = ["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"]
_COLOURS = {"production": "green", "staging": "cyan", "candidate": "white", "archived": "bright_black"}


@app.command("list")
def list_versions(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only versions of this model.")] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", "-s", help="Only versions in this stage, for example production.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List versions, newest first: stage, verdict, base model, who made them."""
    with transaction() as session:
        found = lifecycle.versions(session, model, stage)
    if as_json:
        _print_json({"versions": [_summary(version) for version in found]})
    else:
        Console().print(_versions_table(found))


@app.command()
def history(
    model: Annotated[str, typer.Argument(help="Name of the model, for example highway-router.")],
    at: Annotated[
        dt.datetime | None,
        typer.Option("--at", formats=_TIMES, help="Which version served the route at this time (UTC unless it says)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show every change of stage of a model's versions, oldest first: who, when, why; or what served at one time."""
    if at is not None:
        _show_served(model, at if at.tzinfo else at.replace(tzinfo=dt.UTC), as_json)
        return
    with transaction() as session:
        changes = lifecycle.history(session, model)
    if not changes:
        raise BadInputError(
            "The model is not known.", [Problem("model", repr(model), "a name from tollgate model list")]
        )
    if as_json:
        _print_json({"model": model, "changes": [asdict(change) for change in changes]})
    else:
        Console().print(_history_table(model, changes))


@app.command()
def promote(served_name: ServedName, why: Why, ask: Ask = [GREETING], as_json: AsJson = False) -> None:  # noqa: B006
    """Make a version that passed its gate the production version, and give it the whole route."""
    from tollgate.workflow import servers

    with servers.ready_for_release(served_name, getpass.getuser()), transaction() as session:
        model = lifecycle.find(session, served_name)
        former = lifecycle.champion(session, model.model_name)
        _release(session, model, why, ask)
    _tell(model, former, as_json)


@app.command()
def rollback(served_name: ServedName, why: Why, as_json: AsJson = False) -> None:
    """Take a version out of service and bring back the one before it, at once: nothing is asked or loaded first."""
    from tollgate.serving import release
    from tollgate.serving.client import VllmClient
    from tollgate.workflow import servers

    with transaction() as session:
        route = lifecycle.find(session, served_name).model_name
    servers.ensure_former(route, getpass.getuser(), served_name)
    with VllmClient() as client, transaction() as session:
        present = lifecycle.find(session, served_name)
        done = release.roll_back(session, present.model_name, getpass.getuser(), why, client, present.id)
        session.refresh(present)
        if done.action == "kept":
            raise StageConflictError(served_name, "production", present.status)
        assert done.champion is not None
        former = lifecycle.find(session, done.champion)
    _tell(former, present, as_json)


@app.command()
def sign(
    served_name: ServedName,
    why: Why,
    as_json: AsJson = False,
) -> None:
    """Sign a version's files as they are now, where you know that they are right: from then on they may not change."""
    with transaction() as session:
        model = lifecycle.find(session, served_name)
        digest = signatures.sign(Path(model.model_path))
        lifecycle.record_manifest(session, model.id, digest)
        known = digest[:12]
        words = Reason(f"signed as it is, manifest {known}: {why}", f"현재 파일 그대로 서명, 매니페스트 {known}: {why}")
        lifecycle.record_remark(session, model, getpass.getuser(), words)
    _say({"served_name": served_name, "manifest_digest": digest}, f"{served_name} is signed.", as_json)


@app.command()
def verify(served_name: ServedName, as_json: AsJson = False) -> None:
    """Compare a version's files with its signed manifest; exit status 2 names what differs."""
    with transaction() as session:
        model = lifecycle.find(session, served_name)
    digest = signatures.verify(Path(model.model_path), model.manifest_digest)
    text = f"{served_name}: the files are those that were signed."
    _say({"served_name": served_name, "manifest_digest": digest}, text, as_json)


def _show_served(route: str, at: dt.datetime, as_json: bool) -> None:
    from tollgate.serving.rollout import served_at

    with transaction() as session:
        shares = served_at(session, route, at)
    names = ", ".join(f"{name} ({share:.0%})" for name, share in shares.items()) or "nothing"
    _say({"route": route, "at": at, "versions": shares}, f"{route} at {at.isoformat()}: {names}", as_json)


def _say(value: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        _print_json(value)
    else:
        Console().print(escape(text), highlight=False)


def _release(session: Session, model: RegisteredModel, why: str, questions: Sequence[str]) -> None:
    """Stage, route and deployment in one transaction: serving is imported here, for it builds upon this room."""
    from tollgate.serving import release
    from tollgate.serving.client import VllmClient

    with VllmClient() as client:
        release.promote(session, model.id, getpass.getuser(), why, questions, client)


def _tell(model: RegisteredModel, former: RegisteredModel | None, as_json: bool) -> None:
    changed = former is None or former.id != model.id
    in_mlflow = _project(model.model_name)
    with transaction() as session:
        model = lifecycle.get(session, model.id)
    replaced = former.served_name if former is not None and changed else None
    if as_json:
        _print_json({**_summary(model), "changed": changed, "replaced": replaced, "mlflow": in_mlflow})
    else:
        instead = f", instead of {replaced}" if replaced else ""
        Console().print(f"[green]{escape(model.served_name)}[/] is in production{escape(instead)}.", highlight=False)


def _project(model_name: str) -> bool:
    """Tell MLflow; where it is down, the truth stands in PostgreSQL, and the next projection makes it good."""
    try:
        mlflow_projection.project_model(model_name)
    except ServiceUnavailableError as error:
        text = f"{error} Its aliases follow with the next change."
        Console(stderr=True).print(text, style="yellow", markup=False, highlight=False)
        return False
    return True


def _summary(model: RegisteredModel) -> dict[str, Any]:
    return {
        **asdict(Registration.of(model)),
        "base_model": model.base_model,
        "reasons": model.verdict_reasons,
        "created_by": model.created_by,
        "created_at": model.created_at,
    }


def _versions_table(found: Sequence[RegisteredModel]) -> Table:
    table = Table("version", "stage", "verdict", "base model", "made by", "made (UTC)", "reasons")
    for model in found:
        colour = _COLOURS.get(model.status, "white")
        table.add_row(
            escape(model.served_name),
            f"[{colour}]{model.status}[/]",
            model.verdict or "-",
            escape(model.base_model.rstrip("/").rpartition("/")[2]),
            escape(model.created_by or "-"),
            f"{model.created_at:%Y-%m-%d %H:%M}",
            escape("\n".join(model.verdict_reasons)),
        )
    return table


def _history_table(model_name: str, changes: Sequence[StageChange]) -> Table:
    table = Table("when (UTC)", "version", "from", "to", "who", "why", title=escape(model_name), title_justify="left")
    for change in changes:
        colour = _COLOURS.get(change.to_stage, "white")
        table.add_row(
            f"{change.at:%Y-%m-%d %H:%M:%S}",
            f"v{change.version}",
            change.from_stage or "-",
            f"[{colour}]{change.to_stage}[/]",
            escape(change.by),
            escape(shown(change.why, change.why_ko)),
        )
    return table


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
