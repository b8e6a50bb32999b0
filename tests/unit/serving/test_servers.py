"""Servers of full weights: started once, probed, switched to, kept for the way back, drained, stopped."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter, write_base
from tests.unit.serving.server_host import FakeHost

from tollgate.errors import ServiceUnavailableError
from tollgate.registry import lifecycle, signatures
from tollgate.serving import canary_rollout, release, rollout, server_keeper, servers
from tollgate.serving.canary import CanaryPlan
from tollgate.serving.client import ProbeFailedError, VllmClient
from tollgate.serving.server_states import ServerState
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import ModelServer, RegisteredModel
from tollgate.workflow import servers as work

ROUTE = "router"
V1, V2, V3 = (f"{ROUTE}@v{version}" for version in (1, 2, 3))


@pytest.fixture
def shared(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    """The shared server of adapters, and settings under which only a test lets time pass."""
    with FakeVllm() as server:
        monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("TOLLGATE_SIGNATURES", "required")
        monkeypatch.setenv("TOLLGATE_SERVER_QUIET_SECONDS", "30")
        monkeypatch.setenv("TOLLGATE_SERVER_RETENTION_SECONDS", "3600")
        settings.cache_clear()
        yield server
    settings.cache_clear()


@pytest.fixture
def host() -> Iterator[FakeHost]:
    with ExitStack() as stack:
        yield FakeHost(stack)


@pytest.fixture
def client(shared: FakeVllm, tmp_path: Path) -> Iterator[VllmClient]:
    with VllmClient([shared.address], base_model=write_base(tmp_path / "base"), max_rank=32) as client:
        yield client


@pytest.fixture
def models(shared: FakeVllm, tmp_path: Path) -> list[int]:
    """An adapter and two versions of full weights, all of which have passed."""
    base = write_base(tmp_path / "base")
    folders = [write_adapter(tmp_path / "v1", base), write_base(tmp_path / "v2"), write_base(tmp_path / "v3")]
    with transaction() as session:
        rows = [
            RegisteredModel(
                model_name=ROUTE,
                version=version,
                base_model=str(base),
                model_path=str(folder),
                model_format="peft" if version == 1 else "transformers",
                manifest_digest=signatures.sign(folder),
                verdict="pass",
            )
            for version, folder in enumerate(folders, start=1)
        ]
        session.add_all(rows)
        session.flush()
        return [row.id for row in rows]


def keep(host: FakeHost, times: int = 1) -> list[str]:
    return [said for _ in range(times) for said in server_keeper.keep(host)]


def state(model_id: int) -> str | None:
    """The state of the version's newest server."""
    with transaction() as session:
        newest = select(ModelServer.state).where(ModelServer.model_id == model_id).order_by(ModelServer.id.desc())
        return session.scalar(newest.limit(1))


def change(**values: Any) -> None:
    """Change all servers' rows, to let time pass."""
    with transaction() as session:
        for server in servers.unstopped(session):
            for column, value in values.items():
                setattr(server, column, value)


def no_request_holds() -> None:
    """Let the time of all requests pass."""
    with transaction() as session:
        change(requested_until=servers.now(session))


def ensure(model_id: int, host: FakeHost) -> str | None:
    return work.ensure(model_id, "kim", keep=lambda: keep(host), poll_seconds=0.01)


def ensure_without_pauses(model_id: int, host: FakeHost) -> str | None:
    """The same, with the pauses between two starts over at once."""

    def keep_at_once() -> list[str]:
        change(failures=0)
        return keep(host)

    return work.ensure(model_id, "kim", keep=keep_at_once, poll_seconds=0.01)


def promote(model_id: int, client: VllmClient) -> None:
    with transaction() as session:
        release.promote(session, model_id, "kim", "better", ["ping"], client)


def roll_back(client: VllmClient, away_from: int) -> str:
    with transaction() as session:
        return release.roll_back(session, ROUTE, "kim", "worse", client, away_from).action


def replace_and_let_time_pass(
    models: list[int], host: FakeHost, client: VllmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the third version replace the second, and the time of requests and of the way back be over."""
    for model_id in models[1:]:
        ensure(model_id, host)
        promote(model_id, client)
    no_request_holds()
    monkeypatch.setenv("TOLLGATE_SERVER_RETENTION_SECONDS", "0")
    settings.cache_clear()


def route() -> dict[int, float]:
    with transaction() as session:
        return rollout.current(session, ROUTE)


def test_a_server_is_started_once_however_often_it_is_asked_for(models: list[int], host: FakeHost) -> None:
    assert ensure(models[0], host) is None, "an adapter needs none"
    address = ensure(models[1], host)
    assert address == ensure(models[1], host) == host.servers[V2].address
    keep(host, 3)
    assert host.started == [V2]
    with transaction() as session:
        assert session.scalar(select(func.count(ModelServer.id))) == 1


def test_a_kill_between_start_and_row_leaves_one_server(models: list[int], host: FakeHost) -> None:
    with transaction() as session:
        servers.request(session, models[1], "kim")
    host.forgets = True
    with pytest.raises(KeyboardInterrupt):
        keep(host)
    assert (state(models[1]), host.started) == ("waiting", [V2])
    assert ensure(models[1], host) == host.servers[V2].address
    assert host.started == [V2]


def test_a_kill_in_the_middle_of_a_stop_is_made_good(models: list[int], host: FakeHost) -> None:
    ensure(models[1], host)
    no_request_holds()
    with transaction() as session:
        servers.change(session, servers.find(session, models[1]), ServerState.STOPPING)  # type: ignore[arg-type]
    host.forgets = True
    with pytest.raises(KeyboardInterrupt):
        keep(host)
    assert (state(models[1]), host.stopped) == ("stopping", [V2])
    keep(host)
    assert (state(models[1]), host.stopped) == ("stopped", [V2])
    assert ensure(models[1], host) == host.servers[V2].address, "asked for again it gets a new one"


def test_green_gets_the_route_and_blue_stays_for_the_way_back_then_stops(
    models: list[int], host: FakeHost, client: VllmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = models
    promote(first, client)
    ensure(second, host)
    assert route() == {first: 1.0}, "nothing moves before the switch"
    promote(second, client)
    ensure(third, host)
    promote(third, client)
    no_request_holds()
    keep(host, 3)
    assert (route(), state(second), state(third)) == ({third: 1.0}, "ready", "ready")
    assert roll_back(client, third) == "rolled_back"
    assert route() == {second: 1.0}
    assert host.started == [V2, V3], "the way back starts nothing"
    keep(host)
    assert (state(second), state(third)) == ("ready", "draining"), "nobody goes back to what was left"


def test_the_former_is_drained_after_its_time_and_a_request_under_way_keeps_it(
    models: list[int], host: FakeHost, client: VllmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_and_let_time_pass(models, host, client, monkeypatch)
    blue = host.servers[V2]
    blue.under_way = 1
    keep(host, 2)
    change(idle_since=None)
    keep(host, 3)
    assert (state(models[1]), host.stopped) == ("draining", [])
    blue.under_way = 0
    keep(host, 2)
    with transaction() as session:
        long_ago = servers.now(session) - dt.timedelta(minutes=1)
    blue.requests.append({})  # one came and went between two looks
    change(idle_since=long_ago)
    keep(host)
    assert (state(models[1]), host.stopped) == ("draining", [])
    keep(host)
    with transaction() as session:
        assert servers.find(session, models[1]).idle_since is not None  # type: ignore[union-attr]
    change(idle_since=long_ago)
    keep(host, 2)
    assert (state(models[1]), state(models[2]), host.stopped) == ("stopped", "ready", [V2])
    with pytest.raises(ServiceUnavailableError, match="no server that is ready: it is stopped"):
        roll_back(client, models[2])
    assert route() == {models[2]: 1.0}


def test_a_way_back_to_a_server_that_drains_revives_it(
    models: list[int], host: FakeHost, client: VllmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_and_let_time_pass(models, host, client, monkeypatch)
    keep(host)
    assert state(models[1]) == "draining"
    roll_back(client, models[2])
    assert (state(models[1]), route()) == ("ready", {models[1]: 1.0})
    keep(host, 4)
    assert state(models[1]) == "ready"
    assert V2 in host.servers


def test_a_server_that_died_is_started_again_and_must_answer_as_before(
    models: list[int], host: FakeHost, client: VllmClient
) -> None:
    ensure(models[1], host)
    promote(models[1], client)
    no_request_holds()
    host.kill(V2)
    assert "last words" in keep(host)[0]
    assert state(models[1]) == "waiting"
    change(failures=0)
    host.says = "other weights"
    keep(host)
    assert "known answers" in keep(host)[0]
    assert (state(models[1]), host.stopped) == ("waiting", [V2])
    host.says = None
    change(failures=0)
    keep(host, 2)
    assert state(models[1]) == "ready"
    assert host.started == [V2, V2, V2]
    with transaction() as session:
        assert servers.find(session, models[1]).address == host.servers[V2].address  # type: ignore[union-attr]


def silent_for(seconds: float) -> None:
    """Let all servers have been silent for so long."""
    with transaction() as session:
        change(silent_since=servers.now(session) - dt.timedelta(seconds=seconds))


def test_a_server_that_hangs_is_stopped_and_started_again(
    models: list[int], host: FakeHost, client: VllmClient
) -> None:
    ensure(models[1], host)
    promote(models[1], client)
    host.servers[V2].refuse = True
    assert keep(host) == []
    with transaction() as session:
        (view,) = servers.views(session)
    assert (view.state, view.address) == ("ready", host.servers[V2].address)
    assert str(view.problem).startswith("it does not answer /health since 2")
    silent_for(1)
    assert keep(host) == [], "it may be busy"
    silent_for(settings().server_hang_seconds + 1)
    assert "it hung: it lives, but did not answer /health for" in keep(host)[0]
    assert (state(models[1]), host.stopped) == ("restarting", [])
    with transaction() as session, pytest.raises(ServiceUnavailableError, match="it is restarting"):
        servers.claim(session, lifecycle.get(session, models[1]))
    assert keep(host) == [f"stopped the server of {V2}"]
    assert (state(models[1]), host.stopped) == ("waiting", [V2])
    change(failures=0)
    keep(host, 2)
    assert (state(models[1]), host.started) == ("ready", [V2, V2])
    with transaction() as session:
        (view,) = servers.views(session)
    assert (view.problem, view.starts) == (None, 2)
    assert route() == {models[1]: 1.0}


def test_a_server_that_answers_in_time_is_not_started_again(models: list[int], host: FakeHost) -> None:
    ensure(models[1], host)
    host.servers[V2].refuse = True
    keep(host)
    silent_for(settings().server_hang_seconds + 1)
    host.servers[V2].refuse = False
    with transaction() as session:
        assert server_keeper.is_due(session, servers.find(session, models[1]))  # type: ignore[arg-type]
    assert keep(host) == []
    with transaction() as session:
        server = servers.find(session, models[1])
        assert server is not None
        assert (server.silent_since, server.state) == (None, "ready")
        assert not server_keeper.is_due(session, server)
    assert host.stopped == []


def test_a_kill_in_the_middle_of_a_restart_is_made_good(models: list[int], host: FakeHost) -> None:
    ensure(models[1], host)
    host.servers[V2].refuse = True
    keep(host)
    silent_for(settings().server_hang_seconds + 1)
    keep(host)
    host.forgets = True
    with pytest.raises(KeyboardInterrupt):
        keep(host)
    assert (state(models[1]), host.stopped) == ("restarting", [V2])
    assert ensure_without_pauses(models[1], host), "who waits for it goes on waiting"
    assert (host.started, host.stopped) == ([V2, V2], [V2])


def test_two_keepers_do_not_stop_one_server_side_by_side(models: list[int], host: FakeHost) -> None:
    ensure(models[1], host)
    with transaction() as session:
        servers.change(session, servers.find(session, models[1]), ServerState.RESTARTING)  # type: ignore[arg-type]
    with transaction() as session:
        assert servers.try_lock_stop(session, lifecycle.get(session, models[1]))
        assert keep(host) == []
        assert (state(models[1]), host.stopped) == ("restarting", [])
    keep(host)
    assert (state(models[1]), host.stopped) == ("waiting", [V2])


@pytest.mark.parametrize("unhealthy", [True, False])
def test_a_server_that_never_becomes_ready_is_stopped_after_its_time(
    models: list[int], host: FakeHost, unhealthy: bool
) -> None:
    """Neither healthy, nor healthy without the weights that it was to list."""
    with transaction() as session:
        servers.request(session, models[1], "kim")
    host.unhealthy = unhealthy
    keep(host)
    if not unhealthy:
        host.servers[V2].base = "another"
    said = keep(host)
    assert state(models[1]) == "starting"
    assert said == ([] if unhealthy else [f"{V2}: The server at {host.servers[V2].address} does not list {V2} yet."])
    with transaction() as session:
        change(changed_at=servers.now(session) - dt.timedelta(seconds=settings().server_start_seconds))
    assert ("not healthy within 1800 s" if unhealthy else "does not list") in keep(host)[0]
    assert (state(models[1]), host.stopped) == ("waiting", [V2])


def test_a_start_that_fails_again_and_again_is_given_up_with_its_reason(models: list[int], host: FakeHost) -> None:
    host.refuses = "no memory"

    def keep_without_pauses() -> list[str]:
        with transaction() as session:
            change(changed_at=servers.now(session) - dt.timedelta(hours=1))
        return keep(host)

    with pytest.raises(ServiceUnavailableError, match=r"router@v2 has no server\. no memory"):
        work.ensure(models[1], "kim", keep=keep_without_pauses, poll_seconds=0)
    keep(host)
    assert state(models[1]) == "stopped"
    host.refuses = None
    assert ensure(models[1], host), "a retry begins anew"


def test_changed_files_are_not_served(models: list[int], host: FakeHost, tmp_path: Path) -> None:
    (tmp_path / "v2" / "config.json").write_text("{}")
    with transaction() as session:
        servers.request(session, models[1], "kim")
    assert "config.json" in keep(host)[0]
    assert host.started == []


def test_an_order_that_waits_for_a_gpu_is_told_and_may_be_taken_back(models: list[int], host: FakeHost) -> None:
    host.waits_for = "Place 1 of 1 in the queue for 1 GPU."
    with transaction() as session:
        servers.request(session, models[1], "kim")
    assert "Place 1" in keep(host)[0]
    with transaction() as session:
        servers.withdraw(session, models[1])
    keep(host, 2)
    assert state(models[1]) == "stopped"


def test_a_version_that_answers_nothing_gets_no_route(models: list[int], host: FakeHost, client: VllmClient) -> None:
    promote(models[0], client)
    ensure(models[1], host)
    host.servers[V2].says = " "
    with pytest.raises(ProbeFailedError):
        promote(models[1], client)
    assert route() == {models[0]: 1.0}


def test_without_a_server_nothing_is_released(models: list[int], client: VllmClient) -> None:
    with pytest.raises(ServiceUnavailableError, match="no server"):
        promote(models[1], client)
    assert route() == {}


def test_a_rollout_by_steps_shares_the_route_and_its_end_frees_the_server(
    models: list[int], host: FakeHost, client: VllmClient
) -> None:
    promote(models[0], client)
    ensure(models[1], host)
    plan = CanaryPlan(steps=(0.05, 0.25, 1.0), dwell_seconds=0, minimum_users=1)
    with transaction() as session:
        begun = canary_rollout.begin(session, models[1], "kim", "better", plan, ["ping"], client)
    assert route() == pytest.approx({models[0]: 0.95, models[1]: 0.05})
    no_request_holds()
    keep(host)
    assert state(models[1]) == "ready"
    with transaction() as session:
        canary_rollout.abort(session, canary_rollout._get(session, begun.rollout_id or 0), "kim", "worse")
    keep(host)
    assert (state(models[1]), route()) == ("draining", {models[0]: 1.0})


def test_the_way_back_of_an_adapter_from_full_weights(models: list[int], host: FakeHost, client: VllmClient) -> None:
    promote(models[0], client)
    ensure(models[1], host)
    promote(models[1], client)
    assert roll_back(client, models[1]) == "rolled_back"
    assert route() == {models[0]: 1.0}
    with transaction() as session:
        assert lifecycle.get(session, models[1]).status == "archived"


def test_two_keepers_do_not_start_two(models: list[int], host: FakeHost) -> None:
    with transaction() as session:
        servers.request(session, models[1], "kim")
    with transaction() as session:
        assert servers.try_lock(session, lifecycle.get(session, models[1]))
        assert keep(host) == []
    keep(host)
    assert host.started == [V2]


def test_a_former_version_gets_its_server_back_before_a_late_rollback(
    models: list[int], host: FakeHost, client: VllmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model_id in models[1:]:
        ensure(model_id, host)
        promote(model_id, client)
    monkeypatch.setattr(work, "keep_if_due", lambda: keep(host))
    work.ensure_former(ROUTE, "kim", V3)
    assert host.started == [V2, V3], "it is up"
    with transaction() as session:
        servers.change(session, servers.find(session, models[1]), ServerState.STOPPING)  # type: ignore[arg-type]
    work.ensure_former(ROUTE, "kim", V2)
    assert state(models[1]) == "stopping", "V2 is not what serves; there is nothing to go back from"
    work.ensure_former(ROUTE, "kim", V3)
    assert (state(models[1]), host.started) == ("ready", [V2, V3, V2])


def test_a_refused_release_frees_the_server(models: list[int], host: FakeHost) -> None:
    ensure(models[1], host)
    work.give_up(models[1])
    keep(host)
    assert state(models[1]) == "draining"


def test_a_retired_route_keeps_no_server(models: list[int], host: FakeHost, client: VllmClient) -> None:
    """Neither a request that still holds nor the time of a way back, for there is nothing to go back from."""
    ensure(models[1], host)
    promote(models[1], client)
    keep(host)
    assert state(models[1]) == "ready"
    with transaction() as session:
        release.retire(session, ROUTE, "kim", "no longer wanted")
    keep(host)
    assert state(models[1]) == "draining"
