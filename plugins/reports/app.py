"""The pages: lists of all dataset versions and of all experiments, and the report of each.

Airflow mounts this application but does not guard it; every page asks Airflow's auth manager who wants to see it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from html import escape
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException as StarletteHTTPException

from reports.links import PREFIX, experiment_path, report_path
from tollgate.dataset import lifecycle
from tollgate.dataset.report import REPORT_PAGE
from tollgate.dataset.versions import list_names, list_versions, resolve
from tollgate.errors import BadInputError, ServiceUnavailableError
from tollgate.experiments import report as experiment_page
from tollgate.experiments import report_data
from tollgate.experiments.analysis import standings
from tollgate.store.session import transaction

may_see_datasets = requires_access_dag("GET", param_dag_id="prepare_dataset")
may_see_experiments = requires_access_dag("GET", param_dag_id="analyze_experiments")

# A report is one file that needs nothing else; whatever a row smuggled into it can load and send nothing.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",
}


def create_app() -> FastAPI:
    """The application that Airflow's API server mounts under :data:`reports.links.PREFIX`."""
    app = FastAPI(title="Tollgate reports", openapi_url=None)
    datasets, experiments = [Depends(may_see_datasets)], [Depends(may_see_experiments)]
    app.add_api_route("/datasets", index, response_class=HTMLResponse, dependencies=datasets)
    app.add_api_route("/datasets/{name}/{version}", report, response_class=HTMLResponse, dependencies=datasets)
    app.add_api_route("/experiments", experiment_index, response_class=HTMLResponse, dependencies=experiments)
    app.add_api_route("/experiments/{name}", experiment_report, response_class=HTMLResponse, dependencies=experiments)
    app.add_exception_handler(StarletteHTTPException, _log_in_first)
    return app


def index(request: Request) -> HTMLResponse:
    """All versions of all datasets, the newest first, each with a link to its report."""
    root = _root(request)
    versions = [
        (version, lifecycle.standing(version).state) for name in list_names() for version in list_versions(name)[::-1]
    ]
    page = _pages().get_template("versions.html.j2")
    return HTMLResponse(
        page.render(versions=versions, link=lambda name, number: root + report_path(name, number)), headers=_HEADERS
    )


def report(name: str, version: str) -> Response:
    """One version's report.

    Args:
        name: The dataset's name.
        version: ``v3``, a tag, or ``latest``.

    Raises:
        HTTPException: 404, with what there is.
    """
    try:
        page = resolve(f"{name}@{version}").folder / REPORT_PAGE
    except BadInputError as error:
        raise HTTPException(HTTPStatus.NOT_FOUND, str(error)) from error
    if not page.is_file():
        raise HTTPException(HTTPStatus.NOT_FOUND, f"{name}@{version} has no report.")
    return FileResponse(page, media_type="text/html; charset=utf-8", headers=_HEADERS)


def experiment_index(request: Request) -> HTMLResponse:
    """All experiments, the newest first, each with a link to its report."""
    with _database() as session:
        found = standings(session)
    root = _root(request)
    page = _pages().get_template("experiments.html.j2")
    return HTMLResponse(
        page.render(experiments=found, link=lambda name: root + experiment_path(name)), headers=_HEADERS
    )


def experiment_report(name: str) -> Response:
    """One experiment's report, made from what is on record now.

    Args:
        name: The experiment's.

    Raises:
        HTTPException: 404 where there is none, 503 where PostgreSQL does not answer.
    """
    try:
        with _database() as session:
            data = report_data.of_experiment(session, name)
    except BadInputError as error:
        raise HTTPException(HTTPStatus.NOT_FOUND, str(error)) from error
    return HTMLResponse(experiment_page.render(data), headers=_HEADERS)


@contextmanager
def _database() -> Iterator[Session]:
    try:
        with transaction() as session:
            yield session
    except ServiceUnavailableError as error:
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "PostgreSQL does not answer.") from error


@cache
def _pages() -> Environment:
    folder = Path(__file__).parent
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _root(request: Request) -> str:
    """Airflow's own path: empty, unless it stands behind a proxy with a prefix."""
    return str(request.scope.get("root_path", "")).removesuffix(PREFIX)


async def _log_in_first(request: Request, error: Exception) -> Response:
    """Send a browser without a session to the log-in and back; tell everyone else what is wrong."""
    assert isinstance(error, StarletteHTTPException)
    wants_page = "text/html" in request.headers.get("accept", "")
    if error.status_code == HTTPStatus.UNAUTHORIZED and wants_page:
        return RedirectResponse(f"{_root(request)}/auth/login/?next={quote(str(request.url), safe='')}")
    return HTMLResponse(f"<pre>{escape(str(error.detail))}</pre>", status_code=error.status_code, headers=_HEADERS)
