"""The ASGI application: what is asked for, who asks, and which version answers.

Run it with ``uvicorn gateway.app:create_app --factory --timeout-graceful-shutdown 30``: on SIGTERM uvicorn takes no new
connections and waits for the requests under way.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
from sqlalchemy import Engine, create_engine

from gateway import feedback, metrics
from gateway.access import Access
from gateway.asgi import ClientDisconnectedError, Receive, Reply, Scope, Send, header, read_json, respond, respond_json
from gateway.assignment import Assignments, share_of
from gateway.configuration import GatewayOptions
from gateway.errors import RequestError, bad_request
from gateway.proxy import Upstream, forward
from gateway.request_log import AssignmentRecord, RequestLogWriter, RequestRecord
from gateway.routes_table import Route, RoutesTable, Version
from tollgate.experiments.assignment import assign
from tollgate.settings import Settings, settings

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
_FLUSH_SECONDS = 5.0
_SESSION_HEADER = b"x-tollgate-session"

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class Gateway:
    """One gateway. It keeps no state of its own: what it needs after a restart is in PostgreSQL.

    Args:
        options: The gateway's settings.
        environment: Where vLLM and the database are.
    """

    def __init__(self, options: GatewayOptions, environment: Settings) -> None:
        self._options = options
        self._addresses = environment.vllm_addresses
        self._engine = _engine(environment.tollgate_database, options.connect_timeout)
        self._metrics = metrics.Metrics()
        self._access = Access(options.key.get_secret_value() if options.key else None, options.pseudonym_secret)
        self._log = RequestLogWriter(
            self._engine, self._metrics, options.log_text, options.log_entries, options.log_pause
        )
        self._assignments = Assignments(lambda *fields: self._log.put(AssignmentRecord(*fields)))
        self._routes = RoutesTable(
            self._engine, self._assignments, environment.base_model_name, options.refresh_seconds
        )
        self._upstream: Upstream | None = None
        self._under_way = 0
        self._handlers: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/feedback"): self._feedback,
            ("GET", "/healthz"): self._healthz,
            ("GET", "/readyz"): self._readyz,
            ("GET", "/metrics"): self._show_metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.to_thread(self._routes.start)
        self._log.start()
        self._upstream = Upstream(self._addresses, self._options.upstream_timeout, self._options.connect_timeout)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._routes.stop()
        await self._upstream.close()
        await asyncio.to_thread(self._log.stop, _FLUSH_SECONDS)
        self._engine.dispose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        try:
            if path.startswith("/v1/"):
                self._access.check(scope)
            await self._handler(scope["method"], path)(scope, receive, send)
        except RequestError as error:
            self._metrics.refused.add(1, error.code)
            await respond_json(send, error.status, error.body())
        except ClientDisconnectedError:
            pass

    def _handler(self, method: str, path: str) -> Handler:
        handler = self._handlers.get((method, path))
        if handler is not None:
            return handler
        if any(path == known for _, known in self._handlers):
            text = f"{path} does not take {method}."
            raise RequestError(HTTPStatus.METHOD_NOT_ALLOWED, text, "method_not_allowed")
        paths = ", ".join(sorted({known for _, known in self._handlers}))
        raise RequestError(HTTPStatus.NOT_FOUND, f"There is no {path}; there are {paths}.", "not_found")

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        payload = await read_json(receive, self._options.max_body_bytes)
        record = self._begin(scope, payload)
        # Versions are the gateway's affair, and a user's name is none of the model server's.
        body = orjson.dumps({key: value for key, value in payload.items() if key != "user"} | {"model": record.version})
        headers = _headers(record)
        assert self._upstream is not None
        self._log.open(record.request_id)
        self._under_way += 1
        try:
            reply = Reply(send)
            work = forward(self._upstream, scope["path"], body, record, reply, headers)
            await _until_disconnect(work, receive, reply)
        except RequestError as error:
            record.status = error.status
            await respond_json(send, error.status, error.body(), headers)
        except (ClientDisconnectedError, asyncio.CancelledError) as error:
            record.status = CLIENT_CLOSED_REQUEST
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._under_way -= 1
            self._end(record)

    def _begin(self, scope: Scope, payload: dict[str, Any]) -> RequestRecord:
        name = payload.get("model")
        if not isinstance(name, str) or not name:
            raise bad_request(f"'model' is the name of a route: {', '.join(self._routes.names())}.", "model")
        if not isinstance(payload.get("messages"), list) or not payload["messages"]:
            raise bad_request("'messages' is a list of at least one message.", "messages")
        route = self._routes.get(name)
        if route is None:
            text = f"There is no route '{name}'; there are {', '.join(self._routes.names())}."
            raise RequestError(HTTPStatus.NOT_FOUND, text, "model_not_found", "model")
        request_id = uuid.uuid4().hex
        user = self._access.user(scope, payload)
        version, variant = self._choose(route, user, request_id)
        return RequestRecord(
            request_id=request_id,
            route=route.name,
            variant=variant,
            experiment_id=route.arms.experiment_id if route.arms else None,
            model_id=version.model_id,
            version=version.name,
            user_hash=user,
            session_id=(header(scope, _SESSION_HEADER) or "")[:255] or None,
            messages=payload["messages"] if self._options.log_text else None,
        )

    def _choose(self, route: Route, user: str | None, request_id: str) -> tuple[Version, str | None]:
        if route.arms is None:
            return share_of(route.name, route.shares, user or request_id), None
        variant = (
            self._assignments.arm(route.arms, user)
            if user
            else assign(route.arms.salt, request_id, route.arms.split)  # nobody to remember it for
        )
        return route.arms.versions[variant], variant

    def _end(self, record: RequestRecord) -> None:
        record.seconds = time.perf_counter() - record.started
        labels = (record.route, record.variant or "", record.version)
        self._metrics.requests.add(1, *labels, str(int(record.status)))
        self._metrics.seconds.observe(record.seconds, *labels)
        if record.first_byte_seconds is not None:
            self._metrics.first_byte.observe(record.first_byte_seconds, *labels)
        self._log.put(record)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        cards = [{"id": name, "object": "model", "created": 0, "owned_by": "tollgate"} for name in self._routes.names()]
        await respond_json(send, HTTPStatus.OK, {"object": "list", "data": cards})

    async def _feedback(self, scope: Scope, receive: Receive, send: Send) -> None:
        rating = feedback.parse(await read_json(receive, self._options.max_body_bytes))
        status, answer = await feedback.take(rating, self._log)
        self._metrics.feedback.add()
        await respond_json(send, status, answer)

    async def _healthz(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond_json(send, HTTPStatus.OK, {"status": "ok"})

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        age = self._routes.age
        answer = {"status": "ready" if age is not None else "waiting for PostgreSQL", "routes_age_seconds": age}
        await respond_json(send, HTTPStatus.OK if age is not None else HTTPStatus.SERVICE_UNAVAILABLE, answer)

    async def _show_metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        age = self._routes.age
        gauges = {"under_way": self._under_way, "log_waiting": self._log.waiting, "routes": len(self._routes.names())}
        text = self._metrics.text(gauges | ({"routes_age_seconds": age} if age is not None else {}))
        await respond(send, HTTPStatus.OK, metrics.CONTENT_TYPE, text.encode())


def create_app() -> Gateway:
    """The gateway with the settings of this process's environment."""
    return Gateway(GatewayOptions(), settings())


def _engine(url: str, connect_timeout: float) -> Engine:
    # Of its own, not tollgate.store.session's: here a database that is away must be noticed within seconds.
    return create_engine(
        url, pool_pre_ping=True, pool_size=5, connect_args={"connect_timeout": max(2, round(connect_timeout))}
    )


def _headers(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    values = {
        "request-id": record.request_id,
        "route": record.route,
        "version": record.version,
        "variant": record.variant,
    }
    return [
        (f"x-tollgate-{name}".encode(), quote(value, safe="@:/ ").encode()) for name, value in values.items() if value
    ]


async def _until_disconnect(work: Coroutine[Any, Any, None], receive: Receive, reply: Reply) -> None:
    """Do the work, but stop it when the client goes away: nobody should compute an answer that nobody reads.

    Raises:
        ClientDisconnectedError: The client went away.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        # The server says "disconnected" after a complete response too.
        if not working.done() and not reply.complete:
            raise ClientDisconnectedError
        await working
    finally:
        for task in (working, watching):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
