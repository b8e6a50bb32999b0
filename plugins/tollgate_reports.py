"""Tells Airflow about the pages in :mod:`reports`: the only file in this folder that Airflow loads as a plugin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

from reports.links import PREFIX

if TYPE_CHECKING:
    from fastapi import FastAPI

Message = MutableMapping[str, Any]


class _LateApp:
    """The application, imported with the first request: every task's process loads plugins too, and needs no pages."""

    @cached_property
    def _app(self) -> FastAPI:
        from reports.app import create_app

        return create_app()

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Answer one request (ASGI)."""
        await self._app(scope, receive, send)


class TollgateReports(AirflowPlugin):
    """Pages of dataset versions and experiments, and their entries in Airflow's navigation."""

    name = "tollgate_reports"
    fastapi_apps = [  # noqa: RUF012 – as the base class has it
        {"app": _LateApp(), "url_prefix": PREFIX, "name": "Tollgate reports"}
    ]
    external_views = [  # noqa: RUF012
        {
            "name": "Datasets",
            "href": f"{PREFIX.lstrip('/')}/datasets",
            "url_route": "tollgate-datasets",
            "destination": "nav",
            "category": "browse",
        },
        {
            "name": "Experiments",
            "href": f"{PREFIX.lstrip('/')}/experiments",
            "url_route": "tollgate-experiments",
            "destination": "nav",
            "category": "browse",
        },
    ]
