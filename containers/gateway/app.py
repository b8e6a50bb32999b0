"""The ASGI application: what is asked for, who asks, and which version and provider answer.

``python -m gateway`` runs it; see ``__main__.py`` for how it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, create_engine

from gateway import feedback, metrics, siblings
from gateway.access import Access, allowance_headers
from gateway.answers import question
from gateway.asgi import (
    ClientDisconnectedError,
    Headers,
    Receive,
    Reply,
    Scope,
    Send,
    connection_of,
    header,
    read_json,
    respond,
    respond_json,
)
from gateway.assignment import Assignments, share_of
from gateway.configuration import GatewayOptions
from gateway.errors import RequestError, bad_request
from gateway.providers_table import ProvidersTable
from gateway.proxy import Call, Exchange
from gateway.request_log import AssignmentRecord, RequestLogWriter, RequestRecord, new_request_id
from gateway.routes_table import Route, RoutesTable, Version
from gateway.shared_limits import SharedLimits
from gateway.siblings import Siblings
from gateway.upstream import Upstream
from tollgate.experiments.assignment import assign
from tollgate.serving.providers import keys_folder
from tollgate.settings import Settings, settings

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
_FLUSH_SECONDS = 5.0
_WATCH_AFTER = 0.05
"""Seconds after which a request's client is watched: most answers are there before, and watching costs a task."""
_SUMMED_GAUGES = frozenset({"under_way", "log_waiting_bytes"})
_SESSION_HEADER = b"x-tollgate-session"
_ASKED = {"/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/embeddings": "input"}
"""The endpoints that are passed on, and the field that each one needs beside ``model``."""

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class Gateway:
    """One gateway. What it needs after a restart is in PostgreSQL, and in its spool what is not there yet.

    Args:
        options: The gateway's settings.
        environment: Where vLLM, the database and the state's folder are.
    """

    def __init__(self, options: GatewayOptions, environment: Settings) -> None:
        self._options = options
        self._engine = _engine(environment.tollgate_database, options.connect_timeout)
        self._metrics = metrics.Metrics()
        self._providers = ProvidersTable(
            self._engine, environment.vllm_addresses, keys_folder(environment), options.refresh_seconds
        )
        key = options.key.get_secret_value() if options.key else None
        self._access = Access(
            key, options.pseudonym_secret, options.requests_per_minute, lambda: self._providers.client_keys
        )
        self._shared_limits = SharedLimits(self._engine, self._access.limits)
        spool = options.spool or environment.home / "gateway-spool"
        self._log = RequestLogWriter(
            self._engine, self._metrics, options.log_text, Path(spool), options.spool_bytes, options.log_pause
        )
        self._assignments = Assignments(self._keep_assignment)
        self._routes = RoutesTable(
            self._engine, self._assignments, environment.base_model_name, options.refresh_seconds
        )
        self._upstream: Upstream | None = None
        self._siblings = Siblings(os.environ.get(siblings.FOLDER), self._figures)
        self._under_way = 0
        self.is_draining = False
        self._handlers: dict[tuple[str, str], Handler] = {
            **{("POST", path): self._answer for path in _ASKED},
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/feedback"): self._feedback,
            ("GET", "/healthz"): self._healthz,
            ("GET", "/readyz"): self._readyz,
            ("GET", "/metrics"): self._show_metrics,
        }

    def _keep_assignment(self, experiment_id: int, user: str, variant: str) -> None:
        self._log.put(AssignmentRecord(experiment_id, user, variant))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI has it."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.to_thread(self._routes.start)
        await asyncio.to_thread(self._providers.start)
        self._log.start()
        options = self._options
        if options.shares_limits:
            self._shared_limits.start()
        self._upstream = Upstream(
            options.upstream_timeout, options.connect_timeout, options.breaker_failures, options.breaker_seconds
        )
        await self._siblings.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._routes.stop()
        self._providers.stop()
        self._siblings.stop()
        if options.shares_limits:
            await asyncio.to_thread(self._shared_limits.stop)
        self._upstream.close()
        await asyncio.to_thread(self._log.stop, _FLUSH_SECONDS)
        self._engine.dispose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        reply = Reply(send, connection_of(scope))
        try:
            extra: Headers = ()
            if path.startswith("/v1/"):
                extra = allowance_headers(self._access.check(scope))
            reply.extra = extra
            await self._handler(scope["method"], path)(scope, receive, reply)
        except RequestError as error:
            self._metrics.refused.add(1, error.code)
            await respond_json(reply, error.status, error.body(), error.headers)
        except ClientDisconnectedError:
            pass
        except Exception:
            # The traceback has places, and no texts of users.
            log.exception("A request to %s failed in the gateway itself.", path)
            if not reply.started:
                failed = RequestError(HTTPStatus.INTERNAL_SERVER_ERROR, "The gateway failed.", "internal_error")
                await respond_json(reply, failed.status, failed.body())

    def _handler(self, method: str, path: str) -> Handler:
        handler = self._handlers.get((method, path))
        if handler is not None:
            return handler
        if any(path == known for _, known in self._handlers):
            text = f"{path} does not take {method}."
            raise RequestError(HTTPStatus.METHOD_NOT_ALLOWED, text, "method_not_allowed")
        if method == "GET" and path.startswith("/v1/models/"):
            return self._model
        paths = ", ".join(sorted({known for _, known in self._handlers}))
        raise RequestError(HTTPStatus.NOT_FOUND, f"There is no {path}; there are {paths}.", "not_found")

    async def _answer(self, scope: Scope, receive: Receive, reply: Send) -> None:
        payload = await read_json(scope, receive, self._options.max_body_bytes, self._options.body_seconds)
        record, version = self._begin(scope, payload)
        payload.pop("user", None)
        call = Call(scope["path"], payload, self._providers.chain(record.route, version.address))
        assert self._upstream is not None
        assert isinstance(reply, Reply)
        exchange = Exchange(
            self._upstream, call, record, reply, _headers, _note, self._end, self._metrics.count_failover
        )
        self._under_way += 1
        try:
            await _until_disconnect(exchange.run, receive, reply)
        except RequestError as error:
            record.status = error.status
            self._end(record)
            await respond_json(reply, error.status, error.body(), [*_headers(record), *error.headers])
        except (ClientDisconnectedError, asyncio.CancelledError):
            record.status = CLIENT_CLOSED_REQUEST
            raise
        finally:
            self._under_way -= 1
            self._end(record)

    def _begin(self, scope: Scope, payload: dict[str, Any]) -> tuple[RequestRecord, Version]:
        name = payload.get("model")
        if not isinstance(name, str) or not name:
            raise bad_request(f"'model' is the name of a route: {', '.join(self._names())}.", "model")
        field = _ASKED[scope["path"]]
        if not payload.get(field) or (field == "messages" and not isinstance(payload[field], list)):
            what = "a list of at least one message" if field == "messages" else "needed"
            raise bad_request(f"'{field}' is {what}.", field)
        route = self._route(name)
        request_id = new_request_id()
        user = self._access.user(scope, payload)
        version, variant = self._choose(route, user, request_id)
        record = RequestRecord(
            request_id=request_id,
            endpoint=scope["path"],
            route=route.name,
            variant=variant,
            experiment_id=route.arms.experiment_id if route.arms else None,
            model_id=version.model_id,
            assigned_version=version.name,
            user_hash=user,
            session_id=(header(scope, _SESSION_HEADER) or "")[:255] or None,
            question=question(payload) if self._options.log_text else None,
        )
        return record, version

    def _route(self, name: str) -> Route:
        route = self._routes.get(name) or self._providers.route(name)
        if route is None:
            text = f"There is no route '{name}'; there are {', '.join(self._names())}."
            raise RequestError(HTTPStatus.NOT_FOUND, text, "model_not_found", "model")
        return route

    def _names(self) -> list[str]:
        return sorted({*self._routes.names(), *self._providers.names()})

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
        """Log and count a request, once."""
        if record.is_logged:
            return
        record.seconds = time.perf_counter() - record.started
        self._log.put(record)
        self._metrics.answered(
            (record.route, record.variant or "", record.version, record.provider or ""),
            int(record.status),
            record.seconds,
            record.first_byte_seconds,
            (record.answer.prompt_tokens or 0, record.answer.completion_tokens or 0),
        )

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        cards = [_card(name) for name in self._names()]
        await respond_json(send, HTTPStatus.OK, {"object": "list", "data": cards})

    async def _model(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = self._route(scope["path"].removeprefix("/v1/models/")).name
        await respond_json(send, HTTPStatus.OK, _card(name))

    async def _feedback(self, scope: Scope, receive: Receive, send: Send) -> None:
        payload = await read_json(scope, receive, self._options.max_body_bytes, self._options.body_seconds)
        status, answer = await feedback.take(feedback.parse(payload), self._log)
        self._metrics.feedback.add()
        await respond_json(send, status, answer)

    async def _healthz(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond_json(send, HTTPStatus.OK, {"status": "ok"})

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        age = self._routes.age
        waiting = "ending" if self.is_draining else "waiting for PostgreSQL" if age is None else None
        answer = {"status": waiting or "ready", "routes_age_seconds": age}
        await respond_json(send, HTTPStatus.SERVICE_UNAVAILABLE if waiting else HTTPStatus.OK, answer)

    async def _show_metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        others = await self._siblings.others()
        gauges = self._gauges()
        for name in gauges:
            known = [gauges[name], *(other["gauges"].get(name, 0.0) for other in others)]
            gauges[name] = sum(known) if name in _SUMMED_GAUGES else max(known)
        total = self._metrics.merged(other["figures"] for other in others) if others else self._metrics
        await respond(send, HTTPStatus.OK, metrics.CONTENT_TYPE, total.text(gauges).encode())

    def _figures(self) -> dict[str, Any]:
        return {"figures": self._metrics.state(), "gauges": self._gauges()}

    def _gauges(self) -> dict[str, float]:
        gauges: dict[str, float] = {
            "under_way": self._under_way,
            "log_waiting_bytes": self._log.waiting,
            "routes": len(self._names()),
            "other_gateways": self._access.limits.others.gateways,
            "open_breakers": len(self._upstream.open_breakers()) if self._upstream else 0,
        }
        age = self._routes.age
        return gauges | ({"routes_age_seconds": age} if age is not None else {})


def create_app() -> Gateway:
    """The gateway with the settings of this process's environment."""
    return Gateway(GatewayOptions(), settings())


def _engine(url: str, connect_timeout: float) -> Engine:
    # Of its own, not tollgate.store.session's: here a database that is away must be noticed within seconds.
    return create_engine(
        url, pool_pre_ping=True, pool_size=5, connect_args={"connect_timeout": max(2, round(connect_timeout))}
    )


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tollgate"}


def _note(record: RequestRecord) -> Mapping[str, Any]:
    """Where an answer comes from, as its ``usage`` says it."""
    return {
        "request_id": record.request_id,
        "route": record.route,
        "variant": record.variant,
        "version": record.version,
        "provider": record.provider,
        "fallback": record.fallback,
    }


def _headers(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    request_id = record.request_id.encode()
    origin = _origin_headers(record.route, record.version, record.variant, record.provider, record.fallback)
    return [(b"x-request-id", request_id), (b"x-tollgate-request-id", request_id), *origin]


@lru_cache(maxsize=1024)
def _origin_headers(
    route: str, version: str, variant: str | None, provider: str | None, fallback: bool
) -> tuple[tuple[bytes, bytes], ...]:
    headers = [(b"x-tollgate-route", _quoted(route)), (b"x-tollgate-version", _quoted(version))]
    if variant:
        headers.append((b"x-tollgate-variant", _quoted(variant)))
    if provider:
        headers.append((b"x-tollgate-provider", _quoted(provider)))
    if fallback:
        headers.append((b"x-tollgate-fallback", b"true"))
    return tuple(headers)


def _quoted(value: str) -> bytes:
    return quote(value, safe="@:/ ").encode()


async def _until_disconnect(work: Callable[[], Awaitable[None]], receive: Receive, reply: Reply) -> None:
    """Do the work, but stop it when the client goes away: nobody should compute an answer that nobody reads.

    Raises:
        ClientDisconnectedError: The client went away.
    """
    task = asyncio.current_task()
    assert task is not None
    watch = _Watch(task, receive, reply)
    if reply.connection is not None:
        reply.connection.on_gone = watch.gone
        handle = None
    else:
        handle = task.get_loop().call_later(_WATCH_AFTER, watch.start, task.get_loop())
    try:
        await work()
    except asyncio.CancelledError:
        if watch.is_gone and not task.uncancel():
            raise ClientDisconnectedError from None
        raise
    finally:
        if reply.connection is not None:
            reply.connection.on_gone = None
        if handle is not None:
            handle.cancel()
            await watch.stop()


class _Watch:
    """Cancels a task when the client goes away before its answer is complete."""

    def __init__(self, task: asyncio.Task[Any], receive: Receive, reply: Reply) -> None:
        self._task = task
        self._receive = receive
        self._reply = reply
        self._watching: asyncio.Task[None] | None = None
        self.is_gone = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watching = loop.create_task(self._run())

    async def _run(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone()

    def gone(self) -> None:
        # The server says "disconnected" after a complete response too.
        if not self._reply.complete:
            self.is_gone = True
            self._task.cancel()

    async def stop(self) -> None:
        if self._watching is None:
            return
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching
