"""How fast the gateway is, and what it loses when something dies, as a table and as ``build/bench/gateway.json``.

    make bench-gateway                    about four minutes on two cores
    make bench-gateway BENCH_SCALE=0.1    fewer requests

Gateway, nginx and LiteLLM stand in front of the same fast backend in one run; only figures of one run are compared. The
gateway does what it does in production: a client's key with a limit, an experiment with kept assignments, the log in
PostgreSQL. nginx only passes on. LiteLLM has no database; ``BENCH_LITELLM`` names its environment. For throughput
gateway and nginx have a worker process for each of two cores, the load comes from wrk (``BENCH_WRK``) and the answers
from another nginx, so that neither is what is measured; without them the load generator and the backend are our own.
LiteLLM has one worker, as several don't start on a busy machine: it is credited with twice what the one does. On a
machine that does other things too, the processor time of a request is the figure to trust.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from sqlalchemy import text
from tests.performance import compiled_load
from tests.performance import gateway_servers as servers
from tests.performance.gateway_load import Client, Load, Request
from tests.performance.gateway_servers import Server
from tests.performance.tables import Row, machine, publish, row

from gateway.assignment import Assignments
from gateway.routes_table import Arms, Version
from tollgate.errors import ServiceUnavailableError
from tollgate.serving import keys, rollout
from tollgate.stack import postgres
from tollgate.store import migrate
from tollgate.store.session import transaction
from tollgate.store.tables import Experiment, RegisteredModel

TARGET = Path("build/bench/gateway.json")
SCALE = float(os.environ.get("BENCH_SCALE", "1"))
ROUTE = "router"
USERS = 2000
STREAMS = 200
CONNECTIONS = 32
WORKERS = 2
QUESTION = {
    "model": ROUTE,
    "messages": [{"role": "user", "content": "안성휴게소 화장실이 너무 더러워요. 빨리 청소해 주세요."}],
}
MOST_ADDED_MS = 2.0
MOST_FIRST_BYTE_MS = 3.0
LEAST_OF_NGINX = 0.15
LESS_THAN_LITELLM = 15.0
FASTER_THAN_LITELLM = 20.0
MOST_GROWTH = 0.10
"""Share by which resident memory may grow between a fifth of the requests and all of them."""


@dataclass
class Bench:
    """All that runs."""

    folder: Path
    data: Path
    database: str
    key: str
    backend: Server
    gateway: Server

    def request(self, key: str | None, stream: bool = False) -> Request:
        """Requests of many users; without a key as the backend itself is asked."""
        body = json.dumps(QUESTION | {"stream": stream}, ensure_ascii=False).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n" + (f"Authorization: Bearer {key}\r\n" if key else "")
        ).encode()
        return lambda number: head + b"X-Tollgate-User: user-%d\r\n\r\n" % (number % USERS) + body


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """Start PostgreSQL, a backend and a gateway with an experiment and a client's key."""
    # A socket's path may have 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="tollgate-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        data = folder / "postgres"
        postgres.start(data, ("tollgate",))
        stack.callback(postgres.stop, data)
        database = f"postgresql+psycopg2://postgres:@/tollgate?host={data}"
        migrate.upgrade(database)
        key = _fill(database)
        backend = stack.enter_context(servers.backend(folder))
        gateway = stack.enter_context(servers.gateway(folder, [backend.port], database))
        yield Bench(folder, data, database, key, backend, gateway)


def _fill(database: str) -> str:
    with transaction(database) as session:
        versions = [
            RegisteredModel(model_name=ROUTE, version=number, base_model="base", model_path="/models/x")
            for number in (1, 2)
        ]
        session.add_all(versions)
        session.flush()
        rollout.set_route(session, ROUTE, {versions[0].id: 1.0}, "bench")
        session.add(
            Experiment(
                experiment_name="bench",
                route=ROUTE,
                model_a_id=versions[0].id,
                model_b_id=versions[1].id,
                salt="pepper",
                plan={},
                traffic_split={"a": 0.5, "b": 0.5},
            )
        )
        return keys.create(session, "bench", "bench", requests_per_minute=1_000_000_000)


def run_load(client: Client, connections: int, **limits: float) -> Load:
    """Run a load to its end."""
    return uvloop.run(client.run(connections, **limits))  # type: ignore[arg-type]


def _scaled(number: int, least: int = 50) -> int:
    return max(least, round(number * SCALE))


def compare(it: Bench, peers: dict[str, tuple[Server, str | None]]) -> list[Row]:
    """Latency with one connection, throughput with 32, and first bytes of 200 streams, beside the peers."""
    targets = {"direct": (it.backend, None), "gateway": (it.gateway, it.key), **peers}
    rounds: dict[str, list[float]] = {name: [] for name in targets}
    for _ in range(5):  # in turn, so that whatever else the machine does meets all of them
        for name, (server, key) in targets.items():
            number = _scaled(60 if name == "LiteLLM" else 400, 20)
            load = run_load(Client([server.port], it.request(key)), 1, most=number)
            rounds[name] += load.times
    p50 = {name: sorted(times)[len(times) // 2] for name, times in rounds.items()}
    p99 = {name: sorted(times)[int(len(times) * 0.99)] for name, times in rounds.items()}
    rows = [row(f"latency, 1 connection, {name}, p50 / p99 {p99[name]:.2f}", p50[name], "ms") for name in targets]
    added = p50["gateway"] - p50["direct"]
    rows.append(
        row("added latency, 1 connection, p50", added, "ms", must=f"<= {MOST_ADDED_MS:g}", ok=added <= MOST_ADDED_MS)
    )
    if "LiteLLM" in peers:
        ratio = (p50["LiteLLM"] - p50["direct"]) / added
        ok = ratio >= LESS_THAN_LITELLM
        rows.append(
            row(
                "LiteLLM adds times as much",
                ratio,
                "x",
                peer="LiteLLM",
                ratio=ratio,
                must=f">= {LESS_THAN_LITELLM:g}",
                ok=ok,
            )
        )
    return rows + _throughput(it, peers) + _streams(it, targets)


@dataclass
class Rates:
    """What one server did under load, in each round."""

    rates: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def rate(self) -> float:
        """The median round's answers a second."""
        return sorted(self.rates)[len(self.rates) // 2]


def _throughput(it: Bench, peers: dict[str, tuple[Server, str | None]]) -> list[Row]:
    with ExitStack() as stack:
        fixed = servers.fixed_backend(it.folder)
        backend = stack.enter_context(fixed) if fixed else it.backend
        options = {"TOLLGATE_GATEWAY_WORKERS": str(WORKERS)}
        gateway = stack.enter_context(servers.gateway(it.folder, [backend.port], it.database, **options))
        targets: dict[str, tuple[Server, str | None]] = {"direct": (backend, None), "gateway": (gateway, it.key)}
        proxy = servers.nginx(it.folder, backend.port, WORKERS)
        if proxy is not None:
            targets["nginx"] = (stack.enter_context(proxy), None)
        if "LiteLLM" in peers:
            targets["LiteLLM"] = peers["LiteLLM"]
        found = {name: Rates() for name in targets}
        for _ in range(3):
            for name, (server, key) in targets.items():
                _one_round(it, server, key, found[name])
    return _throughput_rows(found)


def _one_round(it: Bench, server: Server, key: str | None, found: Rates) -> None:
    seconds = max(1, round(4 * SCALE))
    before = server.processor_seconds
    if compiled_load.program():
        body = json.dumps(QUESTION, ensure_ascii=False)
        load = compiled_load.run(it.folder, server.port, key, body, USERS, CONNECTIONS, seconds)
        answers, errors, rate = load.answers, load.errors, load.rate
    else:
        own = run_load(Client([server.port], it.request(key)), CONNECTIONS, seconds=seconds)
        answers, errors, rate = len(own.times), own.errors, own.rate
    found.rates.append(rate)
    found.processor.append(1e6 * (server.processor_seconds - before) / max(1, answers))
    found.errors += errors


def _credited(name: str, found: Rates) -> float:
    return found.rate * (WORKERS if name == "LiteLLM" else 1)


def _throughput_rows(found: dict[str, Rates]) -> list[Row]:
    title = f"{CONNECTIONS} connections, {WORKERS} workers"
    rows = [row(f"throughput, {title}, {name}", _credited(name, one), "requests/s") for name, one in found.items()]
    rows += [row(f"processor time of a request, {name}", min(one.processor), "us") for name, one in found.items()]
    errors = found["gateway"].errors
    rows.append(row("errors under that load, gateway", errors, must="0", ok=errors == 0))
    for name, least in (("nginx", LEAST_OF_NGINX), ("LiteLLM", FASTER_THAN_LITELLM)):
        if name in found:
            ratio = found["gateway"].rate / _credited(name, found[name])
            text = f"throughput of the gateway to {name}'s"
            rows.append(row(text, ratio, "x", peer=name, ratio=ratio, must=f">= {least:g}", ok=ratio >= least))
    return rows


def _streams(it: Bench, targets: dict[str, tuple[Server, str | None]]) -> list[Row]:
    rows = []
    first: dict[str, float] = {}
    for name, (server, key) in targets.items():
        if name == "LiteLLM":
            continue  # 200 streams at once take it minutes
        client = Client([server.port], it.request(key, stream=True), starts_over=2.0)
        load = run_load(client, STREAMS, most=_scaled(4 * STREAMS, STREAMS))
        first[name] = load.p(0.5, load.first_bytes)
        rows.append(
            row(
                f"first byte, {STREAMS} streams, {name}, p50 / p99 {load.p(0.99, load.first_bytes):.2f}",
                first[name],
                "ms",
            )
        )
        rows.append(row(f"broken streams, {name}", load.errors, must="0", ok=load.errors == 0))
    added = first["gateway"] - first["direct"]
    ok = added <= MOST_FIRST_BYTE_MS
    rows.append(
        row(f"added to the first byte, {STREAMS} streams, p50", added, "ms", must=f"<= {MOST_FIRST_BYTE_MS:g}", ok=ok)
    )
    return rows


def endurance(it: Bench) -> list[Row]:
    """100,000 requests: none fails, memory stays, and every one has its row."""
    number = _scaled(100_000)
    client = Client([it.gateway.port], it.request(it.key), keeps_ids=True)
    first = run_load(client, CONNECTIONS, most=number // 5)
    before = it.gateway.memory
    rest = run_load(client, CONNECTIONS, most=number - number // 5)
    growth = it.gateway.memory / before - 1
    errors = first.errors + rest.errors
    lost = _without_row(it, first.request_ids + rest.request_ids)
    return [
        row(f"errors in {number:,} requests", errors, must="0", ok=errors == 0),
        row("memory after them", it.gateway.memory, "MB"),
        row("growth of memory over the last four fifths", 100 * growth, "%", must="<= 10", ok=growth <= MOST_GROWTH),
        row(f"answers of {number:,} without a row in the log", lost, must="0", ok=lost == 0),
    ]


def _without_row(it: Bench, request_ids: list[str], patience: float = 120.0) -> int:
    """How many answers have no row of their own, once the log is written."""
    wanted = set(request_ids)
    end = time.monotonic() + patience
    while True:
        with transaction(it.database) as session:
            found = set(session.execute(text("SELECT request_id FROM ab_test_logs")).scalars())
        if wanted <= found or time.monotonic() > end:
            return len(wanted - found) + len(request_ids) - len(wanted)
        time.sleep(1)


def assignment() -> list[Row]:
    """A million users: shares as planned, and nobody moves when a gateway starts again or the split changes."""
    number = _scaled(1_000_000, 100_000)
    users = [f"{one:064x}" for one in range(number)]
    versions = {"a": Version("m@v1", 1), "b": Version("m@v2", 2)}
    plan, changed = (Arms(1, "pepper", {"a": a, "b": 1 - a}, versions) for a in (0.8, 0.1))
    kept: dict[str, str] = {}
    gateway = Assignments(lambda _, user, variant: kept.__setitem__(user, variant))
    began = time.thread_time()
    given = [gateway.arm(plan, user) for user in users]
    cost = 1e6 * (time.thread_time() - began) / number
    off = 100 * abs(given.count("b") / number - 0.2)
    restarted = Assignments(lambda *_: None)
    restarted.learn(1, kept)
    moved = sum(
        table.arm(split, user) != arm
        for table, split in ((gateway, changed), (restarted, plan), (restarted, changed))
        for user, arm in zip(users, given, strict=True)
    )
    return [
        row(f"share of {number:,} users, off the plan by", off, "points", must="<= 0.1", ok=off <= 0.1),
        row("users who changed their arm after a restart or a new split", moved, must="0", ok=moved == 0),
        row("processor time of an assignment", cost, "us"),
    ]


def deaths(it: Bench) -> list[Row]:
    """kill -9 of a backend, of one of two gateways, and of PostgreSQL, each while requests come."""
    return [*_dead_backend(it), *_dead_gateway(it), *_dead_postgres(it)]


async def _load_while(client: Client, seconds: float, act: object) -> Load:
    """A load of 8 connections; ``act`` happens after a third of it."""
    running = asyncio.create_task(client.run(8, seconds=seconds))
    await asyncio.sleep(seconds / 3)
    await asyncio.to_thread(act)  # type: ignore[arg-type]
    return await running


def _judged(it: Bench, what: str, load: Load) -> list[Row]:
    lost = _without_row(it, load.request_ids)
    return [
        row(f"kill -9 of {what}: errors of {len(load.times):,} requests", load.errors, must="0", ok=load.errors == 0),
        row(f"kill -9 of {what}: answers without a row", lost, must="0", ok=lost == 0),
    ]


def _dead_backend(it: Bench) -> list[Row]:
    with ExitStack() as stack:
        pair = [stack.enter_context(servers.backend(it.folder)) for _ in range(2)]
        gateway = stack.enter_context(servers.gateway(it.folder, [one.port for one in pair], it.database))
        client = Client([gateway.port], it.request(it.key), keeps_ids=True)
        load = uvloop.run(_load_while(client, max(2.0, 6 * SCALE), lambda: pair[0].end(signal.SIGKILL)))
        return _judged(it, "a backend", load)


def _dead_gateway(it: Bench) -> list[Row]:
    with ExitStack() as stack:
        pair = [stack.enter_context(servers.gateway(it.folder, [it.backend.port], it.database)) for _ in range(2)]
        client = Client([one.port for one in pair], it.request(it.key), keeps_ids=True)
        load = uvloop.run(_load_while(client, max(2.0, 6 * SCALE), lambda: pair[0].end(signal.SIGKILL)))
        rows = _judged(it, "one of two gateways", load)
        return [*rows, row("connections that it broke, asked again", load.broken)]


def _dead_postgres(it: Bench) -> list[Row]:
    def kill_and_start_later() -> None:
        main = postgres.running_process(it.data)
        assert main is not None
        main.kill()
        time.sleep(2)
        try:
            postgres.start(it.data, ("tollgate",))
        except ServiceUnavailableError:  # its recovery takes longer than the package waits, on a busy machine
            end = time.monotonic() + 300
            while not postgres.answers(it.data) and time.monotonic() < end:
                time.sleep(1)

    client = Client([it.gateway.port], it.request(it.key), keeps_ids=True)
    load = uvloop.run(_load_while(client, max(8.0, 10 * SCALE), kill_and_start_later))
    return _judged(it, "PostgreSQL", load)


def main() -> int:
    """Measure, print, and write the file."""
    with bench() as it, ExitStack() as stack:
        rows: list[Row] = []
        peers: dict[str, tuple[Server, str | None]] = {}
        for name, found, key in (
            ("nginx", servers.nginx(it.folder, it.backend.port), None),
            ("LiteLLM", servers.litellm(it.folder, it.backend.port), "sk-bench"),
        ):
            try:
                if found is None:
                    rows.append(row(f"{name} is not installed"))
                else:
                    peers[name] = (stack.enter_context(found), key)
            except RuntimeError as error:  # a busy machine gives it no time to start
                rows.append(row(str(error).partition(":")[0]))
        try:
            rows += assignment()
            rows += compare(it, peers)
            stack.close()  # the peers need their memory no longer
            rows += endurance(it)
            rows += deaths(it)
        finally:  # what was measured is of use, also when the rest failed
            outcome = publish("The gateway", rows, machine(scale=SCALE), TARGET)
        return outcome


if __name__ == "__main__":
    raise SystemExit(main())
