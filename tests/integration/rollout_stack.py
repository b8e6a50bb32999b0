"""A stack under its real supervisor on which rollouts are disturbed, and what must be true of a route afterwards.

PostgreSQL with its guardian, gateway, MLflow and reconciler are the stack's own. vLLM is a stand-in that starts at
once, or the real one.
"""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
from rich.console import Console
from sqlalchemy import func, select
from tests.integration import rollout_task

from gateway.assignment import share_of
from gateway.routes_table import Version
from tollgate.experiments.assignment import hash_user
from tollgate.registry import lifecycle, signatures
from tollgate.registry.mlflow_projection import project_model
from tollgate.registry.mlflow_server import connect
from tollgate.serving import canary_rollout, rollout
from tollgate.settings import PROJECT, Settings
from tollgate.stack import lifecycle as stack_lifecycle
from tollgate.stack import postgres
from tollgate.stack import services as stack_services
from tollgate.stack.secrets import Secrets, load_or_create
from tollgate.stack.services import Preparation, Service, common_environment
from tollgate.stack.supervision import ProcessState
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel, RequestLog, Rollout

TASK = PROJECT / "tests" / "integration" / "rollout_task.py"
STAND_IN = PROJECT / "tests" / "unit" / "serving" / "fake_vllm.py"
PARTS = ("vllm", "gateway", "mlflow", "reconciler")
USERS = tuple(f"user {number}" for number in range(400))
SETTLED = 5.0
PATIENCE = 300.0


def small_services(real_vllm: bool) -> Callable[[Settings, Secrets], tuple[Service, ...]]:
    """The stack's services without Airflow; vLLM is the stand-in unless the real one is wanted."""

    def found(configuration: Settings, secrets: Secrets) -> tuple[Service, ...]:
        chosen = [one for one in stack_services.services(configuration, secrets) if one.name in PARTS]
        stand_in = (sys.executable, str(STAND_IN), str(configuration.vllm_port))
        return tuple(
            replace(one, command=stand_in, stop_seconds=2) if one.name == "vllm" and not real_vllm else one
            for one in chosen
        )

    return found


def small_preparations(configuration: Settings, secrets: Secrets) -> tuple[Preparation, ...]:
    """Tollgate's tables alone."""
    every = stack_services.preparations(configuration, secrets)
    return tuple(one for one in every if one.name == stack_services.TOLLGATE_DATABASE)


@dataclass
class SmallStack:
    """A running stack.

    Args:
        settings: Its settings, which are those of this process, too.
        adapters: Folders of two signed adapters that fit its base.
    """

    settings: Settings
    adapters: Sequence[Path]
    secrets: Secrets = field(init=False)

    def __post_init__(self) -> None:
        self.secrets = load_or_create(self.settings.secrets_file)

    def up(self) -> None:
        """Start what does not run."""
        stack_lifecycle.up(self.settings, Console(file=io.StringIO()))

    def states(self) -> dict[str, ProcessState]:
        """What the supervisor knows."""
        return stack_lifecycle.supervisor_of(self.settings).states()

    def process_of(self, service: str) -> int:
        """The service's process, once it has one."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if service == "postgres":
                running = postgres.running_process(self.settings.postgres_data)
                found = running.pid if running else None
            else:
                found = self.states()[service].process_id
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"{service} has no process")

    def task(self, move: str, moment: str, route: str) -> subprocess.Popen[str]:
        """Start a task; at ``moment`` it writes ``ready`` and waits."""
        return subprocess.Popen(
            [sys.executable, str(TASK), move, moment, route],
            env=common_environment(self.settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def make_route(self, route: str) -> None:
        """Two versions that passed, also in MLflow, the first of them in production."""
        client = connect()
        client.create_registered_model(route)
        with transaction() as session:
            for number, adapter in enumerate(self.adapters, start=1):
                run = client.create_run("0").info
                there = client.create_model_version(route, source=f"{run.artifact_uri}/adapter", run_id=run.run_id)
                session.add(
                    RegisteredModel(
                        model_name=route,
                        version=number,
                        base_model="base",
                        model_path=str(adapter),
                        verdict="pass",
                        manifest_digest=signatures.sign(adapter),
                        mlflow_model_uri=f"models:/{route}/{there.version}",
                    )
                )
        rollout_task.begin_first(route)
        project_model(route)

    def finish(self, task: subprocess.Popen[str]) -> int:
        """Let a task go on and wait for its end; its exit status."""
        with suppress(BrokenPipeError):
            task.communicate("go\n", timeout=PATIENCE)
        return task.wait(PATIENCE)

    def user_of(self, route: str, served_name: str, number: int) -> list[str]:
        """Users who get a version by the shares that PostgreSQL has now."""
        shares = self.shares(route)
        return [user for user in USERS if self.expected(route, shares, user) == served_name][:number]

    def shares(self, route: str) -> tuple[tuple[Version, float], ...]:
        """What the registry says about the route, in the gateway's order."""
        with transaction() as session:
            present = rollout.current(session, route)
            names = {key: lifecycle.get(session, key).served_name for key in present}
        return tuple((Version(names[key], key), present[key]) for key in sorted(present, reverse=True))

    def expected(self, route: str, shares: tuple[tuple[Version, float], ...], user: str) -> str:
        """The version that the gateway must give to a user."""
        return share_of(route, shares, hash_user(user, self.secrets.gateway_user_secret)).name

    def ask(self, http: httpx.Client, route: str, user: str, question: str = "질문") -> httpx.Response:
        """One question at the gateway."""
        return http.post(
            f"{self.settings.gateway_address}/v1/chat/completions",
            json={"model": route, "messages": [{"role": "user", "content": question}], "max_tokens": 8},
            headers={"Authorization": f"Bearer {self.secrets.gateway_key}", "X-Tollgate-User": user},
        )


class Askers:
    """Users who ask a route for as long as the block lasts; ``answered`` holds the ids of their whole answers."""

    def __init__(self, stack: SmallStack, route: str, number: int = 2, pause: float = 0.1) -> None:
        self.answered: list[str] = []
        self.failed = 0
        self._stack, self._route, self._pause = stack, route, pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(first,), daemon=True) for first in range(number)]

    def __enter__(self) -> Askers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, first: int) -> None:
        with httpx.Client(timeout=30, trust_env=False) as http:
            for number in range(first, 10**9, len(self._threads)):
                if self._stop.wait(self._pause):
                    return
                try:
                    answer = self._stack.ask(http, self._route, USERS[number % len(USERS)])
                except httpx.HTTPError:
                    self.failed += 1
                    continue
                if answer.status_code == 200:
                    self.answered.append(answer.headers["X-Tollgate-Request-Id"])
                else:
                    self.failed += 1


@dataclass(frozen=True)
class Wanted:
    """What must be true of a route.

    Args:
        share: The second version's share.
        events: What its rollout's history says, without the looks that held it.
        first: Stages that the first version went through, in order.
        second: The same of the second.
    """

    share: float
    events: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]


def wait_until_right(stack: SmallStack, route: str, wanted: Wanted) -> float:
    """Wait until all is as it must be, and stays so; what is not yet so is told where patience ends.

    What a killed server left may answer for a moment, until its successor ends it.

    Returns:
        Seconds until it was right.
    """
    began = time.monotonic()
    right_since: float | None = None
    while right_since is None or time.monotonic() < right_since + SETTLED:
        try:
            differences = differences_of(stack, route, wanted)
        except Exception as error:  # a service is away
            differences = [repr(error)]
        now = time.monotonic()
        right_since = None if differences else right_since or now
        assert now < began + PATIENCE, differences
        time.sleep(0.2)
    return right_since - began


def differences_of(stack: SmallStack, route: str, wanted: Wanted) -> list[str]:
    """What is not as it must be: registry, history, vLLM, the gateway's table, MLflow's aliases, the services."""
    found = [*_registry(route, wanted), *_history(route, wanted)]
    found += _served(stack, route)
    found += _gateway(stack, route)
    found += _aliases(stack, route)
    return found + [f"{name} is {one.state}" for name, one in stack.states().items() if not one.alive]


def _registry(route: str, wanted: Wanted) -> list[str]:
    with transaction() as session:
        models = {model.version: model for model in lifecycle.versions(session, route)}
        production = [model.version for model in models.values() if model.status == "production"]
        shares = {lifecycle.get(session, key).version: share for key, share in rollout.current(session, route).items()}
    champion = 2 if wanted.share == 1 else 1
    expected = {version: share for version, share in ((1, 1 - wanted.share), (2, wanted.share)) if share}
    return [
        *([] if production == [champion] else [f"in production: {production}, not {champion}"]),
        *([] if shares == expected else [f"shares {shares}, not {expected}"]),
    ]


def _history(route: str, wanted: Wanted) -> list[str]:
    with transaction() as session:
        [rollout_id] = session.scalars(select(Rollout.id).where(Rollout.route == route))
        actions = [one.action for one in canary_rollout.events(session, rollout_id)]
        changes = lifecycle.history(session, route)
    found = [] if tuple(one for one in actions if one != "hold") == wanted.events else [f"events {actions}"]
    if any(one == following for one, following in itertools.pairwise(actions)):
        found.append(f"doubled events {actions}")
    for version, stages in ((1, wanted.first), (2, wanted.second)):
        seen = tuple(change.to_stage for change in changes if change.version == version)
        if seen != stages:
            found.append(f"stages of v{version}: {seen}")
    return found


def _served(stack: SmallStack, route: str) -> list[str]:
    found = httpx.get(f"{stack.settings.vllm_addresses[0]}/v1/models", timeout=5).raise_for_status().json()["data"]
    lacking = {f"{route}@v1", f"{route}@v2"} - {model["id"] for model in found}
    return [f"vLLM lacks {name}" for name in sorted(lacking)]


def _gateway(stack: SmallStack, route: str) -> list[str]:
    """The gateway's table, by what it does with users: each must get the version that the registry means for them."""
    shares, found = stack.shares(route), []
    with httpx.Client(timeout=30, trust_env=False) as http:
        for user in USERS[:: len(USERS) // 20]:
            answer = stack.ask(http, route, user)
            version = answer.headers.get("X-Tollgate-Version")
            if answer.status_code != 200 or version != stack.expected(route, shares, user):
                found.append(f"{user} got {version} with {answer.status_code}")
    return found


def _aliases(stack: SmallStack, route: str) -> list[str]:
    address = f"{stack.settings.mlflow_address}/api/2.0/mlflow/registered-models/get"
    answer = httpx.get(address, params={"name": route}, timeout=30).raise_for_status().json()
    aliases = {one["alias"]: one["version"] for one in answer["registered_model"].get("aliases", [])}
    with transaction() as session:
        expected = {
            model.status: str(model.mlflow_model_uri).rpartition("/")[2]
            for model in lifecycle.versions(session, route)
            if model.status in {"production", "staging"}
        }
    return [] if aliases == expected else [f"MLflow's aliases {aliases}, not {expected}"]


def lost_rows(request_ids: Sequence[str]) -> int:
    """How many whole answers have no row in the gateway's log, once it had time to write them."""
    deadline = time.monotonic() + 60
    while True:
        with transaction() as session:
            query = select(func.count()).select_from(RequestLog).where(RequestLog.request_id.in_(request_ids))
            lost = len(request_ids) - (session.scalar(query) or 0)
        if not lost or time.monotonic() > deadline:
            return lost
        time.sleep(0.5)


def wait_for_row(request_id: str) -> None:
    """Wait until the gateway's log has an answer."""
    assert lost_rows([request_id]) == 0, request_id


def environment_of(home: Path, base: Path, ports: dict[str, int]) -> dict[str, str]:
    """Variables that make this process and the stack's agree."""
    return {
        "TOLLGATE_HOME": str(home),
        "TOLLGATE_BASE_MODEL": str(base),
        "TOLLGATE_SIGNATURES": "required",
        "TOLLGATE_RECONCILE_SECONDS": "1",
        "TOLLGATE_GATEWAY_REQUESTS_PER_MINUTE": "0",
        **{f"TOLLGATE_{name}_PORT": str(port) for name, port in ports.items()},
    }
