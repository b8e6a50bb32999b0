"""A rollout by steps on a real PostgreSQL: forward, back, held, killed at every step."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter, write_base

from tollgate.errors import BadInputError, GateRefusedError
from tollgate.registry import lifecycle
from tollgate.serving import canary_rollout, release, rollout
from tollgate.serving.canary import CanaryPlan
from tollgate.serving.canary_rollout import RolloutState
from tollgate.serving.client import ProbeFailedError, VllmClient
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel, RequestLog, Rollout, RolloutEvent

ROUTE = "router"
PLAN = CanaryPlan(dwell_seconds=0, minimum_users=20)
_requests = itertools.count()


@pytest.fixture
def server() -> Iterator[FakeVllm]:
    with FakeVllm() as server:
        yield server


@pytest.fixture
def client(server: FakeVllm, tmp_path: Path) -> Iterator[VllmClient]:
    with VllmClient([server.address], base_model=write_base(tmp_path / "base")) as client:
        yield client


@pytest.fixture
def models(postgres_url: str, client: VllmClient, tmp_path: Path) -> list[int]:
    """Ids of three versions that passed; the first is in production."""
    with transaction() as session:
        rows = [
            RegisteredModel(
                model_name=ROUTE,
                version=version,
                base_model="base",
                model_path=str(write_adapter(tmp_path / f"v{version}", tmp_path / "base")),
                verdict="pass",
            )
            for version in (1, 2, 3)
        ]
        session.add_all(rows)
        session.flush()
        ids = [row.id for row in rows]
    begin(ids[0], client)
    return ids


def begin(model_id: int, client: VllmClient, plan: CanaryPlan = PLAN) -> RolloutState:
    with transaction() as session:
        return release.begin_rollout(session, model_id, "kim", "better", plan, ["ping"], client)


def look(rollout_id: int | None) -> RolloutState:
    assert rollout_id is not None
    with transaction() as session:
        return canary_rollout.look(session, rollout_id, "the task")


def served(
    model_id: int, users: int, status: int = 200, response: str | None = "답", milliseconds: float = 100
) -> None:
    """What the gateway logs of so many users with one request each."""
    with transaction() as session:
        session.add_all(
            RequestLog(
                request_id=f"r{next(_requests)}",
                route=ROUTE,
                user_hash=f"user {model_id} {next(_requests)}",
                model_id=model_id,
                query="질문",
                response=response,
                status_code=status,
                response_time_ms=milliseconds,
                created_at=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1),
            )
            for _ in range(users)
        )


def answered_by_another(model_id: int, served_name: str, users: int) -> None:
    """The version failed, and the gateway's next provider answered in its place."""
    served(model_id, users)
    with transaction() as session:
        session.execute(
            update(RequestLog)
            .where(RequestLog.model_id == model_id)
            .values(model_id=None, assigned_version=served_name, fallback=True)
        )


def age_traffic() -> None:
    """What was logged so far was before the present share."""
    with transaction() as session:
        session.execute(update(RequestLog).values(created_at=dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)))


def stages() -> list[str]:
    with transaction() as session:
        return [model.status for model in reversed(lifecycle.versions(session, ROUTE))]


def shares() -> dict[int, float]:
    with transaction() as session:
        return rollout.current(session, ROUTE)


def past(rollout_id: int | None) -> list[str]:
    assert rollout_id is not None
    with transaction() as session:
        return [event.action for event in canary_rollout.events(session, rollout_id)]


def test_without_a_champion_the_first_version_has_the_whole_route(models: list[int]) -> None:
    assert (stages(), shares()) == (["production", "candidate", "candidate"], {models[0]: 1.0})
    with transaction() as session:
        assert session.scalar(select(func.count(Rollout.id))) == 0


def test_a_good_version_takes_over_by_steps_with_its_history(models: list[int], client: VllmClient) -> None:
    first, second, _ = models
    begun = begin(second, client)
    assert (begun.action, begun.share, begun.former) == ("begin", 0.05, "router@v1")
    assert shares() == pytest.approx({first: 0.95, second: 0.05})
    assert begin(second, client).action == "none", "asked again it changes nothing"
    for action, share in (("advance", 0.25), ("complete", 1.0)):
        served(first, 60)
        served(second, 20)
        done = look(begun.rollout_id)
        assert (done.action, done.share) == (action, share)
        age_traffic()
    assert (stages(), shares()) == (["archived", "production", "candidate"], {second: 1.0})
    with transaction() as session:
        [row] = session.scalars(select(Rollout))
        events = canary_rollout.events(session, row.id)
        changes = lifecycle.history(session, ROUTE)
    assert (row.status, row.ended_at is not None) == ("completed", True)
    assert [(event.action, event.changed_by) for event in events] == [
        ("begin", "kim"),
        ("advance", "the task"),
        ("complete", "the task"),
    ]
    assert events[1].figures["new"]["users"] == 20
    assert "20 users at 25%" in changes[-1].why
    assert f"단계적 출시 {row.id}: {events[-1].reason_ko} better" == changes[-1].why_ko
    assert f"router@v2(으)로 교체: {changes[-1].why_ko}" == changes[-2].why_ko
    assert look(row.id).action == "none"


@pytest.mark.parametrize("traffic", [{}, {"status": 503, "response": None}])
def test_without_enough_users_it_holds_and_says_so_once(
    models: list[int], client: VllmClient, traffic: dict[str, object]
) -> None:
    begun = begin(models[1], client)
    if traffic:
        served(models[1], 3, **traffic)  # type: ignore[arg-type]
    for _ in range(5):
        assert look(begun.rollout_id).action == "hold"
    assert past(begun.rollout_id) == ["begin", "hold"]
    assert shares() == pytest.approx({models[0]: 0.95, models[1]: 0.05})


@pytest.mark.parametrize(
    ("traffic", "words"),
    [
        ({"status": 503, "response": None}, "had an error"),
        ({"response": " \n"}, "had an empty answer"),
        ({"response": None}, "had an empty answer"),
        ({"milliseconds": 5000.0}, "95 % of the new version's answers"),
    ],
)
def test_harm_gives_the_route_back_by_itself(
    models: list[int], client: VllmClient, traffic: dict[str, float], words: str
) -> None:
    begun = begin(models[1], client)
    served(models[0], 300)
    served(models[1], 90, **traffic)  # type: ignore[arg-type]
    served(models[1], 5)
    done = look(begun.rollout_id)
    assert (done.action, done.status, done.share) == ("roll_back", "rolled_back", 0.0)
    assert words in " ".join(done.reasons)
    assert (stages(), shares()) == (["production", "archived", "candidate"], {models[0]: 1.0})
    with transaction() as session:
        last = lifecycle.history(session, ROUTE)[-1]
    assert last.why == f"rollout {begun.rollout_id} was rolled back: {' '.join(done.reasons)}"
    assert last.why_ko == f"단계적 출시 {begun.rollout_id}을(를) 되돌림: {' '.join(done.reasons_ko)}"
    with pytest.raises(GateRefusedError, match="only a candidate"):
        begin(models[1], client)


def test_answers_that_another_provider_had_to_give_are_failures(models: list[int], client: VllmClient) -> None:
    begun = begin(models[1], client)
    served(models[0], 300)
    answered_by_another(models[1], "router@v2", 60)
    assert look(begun.rollout_id).action == "roll_back"


def test_a_client_s_mistakes_and_traffic_of_before_do_not_count(models: list[int], client: VllmClient) -> None:
    served(models[0], 60)
    served(models[1], 60, status=500)
    age_traffic()
    begun = begin(models[1], client)
    served(models[0], 60)
    served(models[1], 25)
    served(models[1], 40, status=400)
    served(models[1], 40, status=499)
    assert look(begun.rollout_id).action == "advance"


def test_a_version_that_answers_nothing_never_begins(models: list[int], client: VllmClient, tmp_path: Path) -> None:
    (tmp_path / "v2" / "serves_nan").touch()
    with pytest.raises(ProbeFailedError):
        begin(models[1], client)
    assert (stages()[1], shares()) == ("candidate", {models[0]: 1.0})


def test_one_rollout_at_a_time(models: list[int], client: VllmClient) -> None:
    begin(models[1], client)
    with pytest.raises(GateRefusedError, match="router@v2 is being rolled out"):
        begin(models[2], client)


def test_a_promotion_by_a_person_ends_the_rollout(models: list[int], client: VllmClient) -> None:
    begun = begin(models[1], client)
    with transaction() as session:
        release.promote(session, models[2], "lee", "urgent", ["ping"], client)
    assert look(begun.rollout_id).status == "stopped"
    assert (past(begun.rollout_id)[-1], shares()) == ("stop", {models[2]: 1.0})


def test_a_route_moved_by_hand_stops_the_rollout_and_stays(models: list[int], client: VllmClient) -> None:
    begun = begin(models[1], client)
    with transaction() as session:
        rollout.set_route(session, ROUTE, {models[0]: 1.0}, "lee")
    assert look(begun.rollout_id).status == "stopped"
    assert shares() == {models[0]: 1.0}


@pytest.mark.parametrize("writes_before_the_kill", (1, 2, 4, 5, 7))
def test_killed_at_any_write_it_goes_on_where_it_was(
    models: list[int], client: VllmClient, monkeypatch: pytest.MonkeyPatch, writes_before_the_kill: int
) -> None:
    """Every step is one transaction: a kill after any of its writes leaves the step undone, and it is done again."""
    first, second, _ = models

    def take_over() -> None:
        while (begun := begin(second, client)).status == "running":
            served(first, 60)
            served(second, 20)
            if look(begun.rollout_id).status != "running":
                return
            age_traffic()

    from sqlalchemy.orm import Session

    real, count = Session.flush, itertools.count(1)

    def die(self: Session, objects: Sequence[object] | None = None) -> None:
        real(self, objects)
        if next(count) % (writes_before_the_kill + 2) == writes_before_the_kill + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "flush", die)
        for _ in range(40):
            try:
                take_over()
                break
            except KeyboardInterrupt:
                production = stages().count("production")
                assert production == 1
                assert sum(shares().values()) == pytest.approx(1)
    take_over()  # without a kill, what is left of it
    assert (stages()[:2], shares()) == (["archived", "production"], {second: 1.0})
    with transaction() as session:
        [row] = session.scalars(select(Rollout))
        actions = list(session.scalars(select(RolloutEvent.action).order_by(RolloutEvent.id)))
    assert (row.status, [one for one in actions if one != "hold"]) == ("completed", ["begin", "advance", "complete"])


def roll_back(client: VllmClient, away_from: int | None = None) -> release.Release:
    with transaction() as session:
        return release.roll_back(session, ROUTE, "lee", "worse", client, away_from)


def test_one_call_leaves_a_rollout_under_way(models: list[int], client: VllmClient) -> None:
    begun = begin(models[1], client)
    for _ in range(2):
        roll_back(client, models[1])
    assert (stages(), shares()) == (["production", "archived", "candidate"], {models[0]: 1.0})
    assert past(begun.rollout_id) == ["begin", "roll_back"]


def test_one_call_leaves_the_production_version_once_and_asks_nothing(
    models: list[int], client: VllmClient, server: FakeVllm
) -> None:
    with transaction() as session:
        release.promote(session, models[1], "kim", "better", ["ping"], client)
    asked = len(server.requests)
    done = roll_back(client, models[1])
    assert (done.action, done.served_name, done.champion) == ("rolled_back", "router@v2", "router@v1")
    assert (stages()[:2], shares()) == (["production", "archived"], {models[0]: 1.0})
    assert roll_back(client, models[1]).action == "kept"
    assert (len(server.requests), shares()) == (asked, {models[0]: 1.0})


def test_the_way_back_leads_further_back_and_never_to_what_was_left(models: list[int], client: VllmClient) -> None:
    for model_id in models[1:]:
        with transaction() as session:
            release.promote(session, model_id, "kim", "better", ["ping"], client)
    assert [roll_back(client).champion for _ in range(2)] == ["router@v2", "router@v1"]
    with pytest.raises(BadInputError, match="nothing to go back to"):
        roll_back(client)
    with transaction() as session:
        release.promote(session, models[2], "kim", "mended", ["ping"], client)
    assert roll_back(client).champion == "router@v1"


def test_there_is_a_way_back_while_one_of_two_replicas_is_down(
    models: list[int], client: VllmClient, tmp_path: Path
) -> None:
    with transaction() as session:
        release.promote(session, models[1], "kim", "better", ["ping"], client)
    addresses = [client.replicas[0].address, "http://127.0.0.1:9"]
    with VllmClient(addresses, base_model=tmp_path / "base") as both:
        roll_back(both, models[1])
    assert shares() == {models[0]: 1.0}


def test_the_first_version_has_nothing_to_go_back_to(models: list[int], client: VllmClient) -> None:
    with pytest.raises(BadInputError, match="nothing to go back to"):
        roll_back(client)
    assert shares() == {models[0]: 1.0}


def test_which_version_served_when(models: list[int], client: VllmClient) -> None:
    moments: list[dt.datetime] = []

    def now() -> None:
        with transaction() as session:
            moments.append(session.scalars(select(func.clock_timestamp())).one())

    steps: list[Callable[[], object]] = [lambda: begin(models[1], client), lambda: roll_back(client)]
    for step in steps:
        now()
        step()
    now()
    with transaction() as session:
        found = [rollout.served_at(session, ROUTE, moment) for moment in moments]
        assert rollout.served_at(session, ROUTE, moments[0] - dt.timedelta(days=1)) == {}
    assert found == [{"router@v1": 1.0}, {"router@v1": pytest.approx(0.95), "router@v2": 0.05}, {"router@v1": 1.0}]
