from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select
from tests.unit.containers.gateway.conftest import RunningGateway, change, logged, wait_for

from gateway.assignment import Assignments
from gateway.routes_table import Arms, Version
from tollgate.experiments.assignment import assign, hash_user
from tollgate.store.session import transaction
from tollgate.store.tables import Assignment, Experiment

Start = Callable[..., RunningGateway]
MILLION = 1_000_000
USERS = [f"user-{number}" for number in range(100)]


def variants(gateway: RunningGateway, users: list[str] = USERS) -> dict[str, str]:
    return {user: gateway.ask(caller=user).headers["x-tollgate-variant"] for user in users}


def assigned() -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(Assignment)) or 0


def test_users_are_split_as_planned_and_stay_where_they_are(start: Start, experiment: int) -> None:
    gateway = start(user_secret="s")
    given = variants(gateway)
    assert given == {user: assign("pepper", hash_user(user, "s"), {"a": 0.5, "b": 0.5}) for user in USERS}
    assert 35 <= sum(variant == "b" for variant in given.values()) <= 65
    assert variants(gateway) == given
    rows = logged(200)
    assert len(rows) == 200
    assert {row.model_id for row in rows if row.variant == "a"} != {row.model_id for row in rows if row.variant == "b"}
    assert assigned() == 100


def test_the_variant_decides_who_answers(experiment: int, gateway: RunningGateway) -> None:
    for user in USERS[:20]:
        answer = gateway.ask(caller=user)
        version = {"a": "router@v1", "b": "router@v2"}[answer.headers["x-tollgate-variant"]]
        assert answer.headers["x-tollgate-version"] == version
        assert answer.json()["choices"][0]["message"]["content"].startswith(version)


def test_a_changed_split_moves_nobody_not_even_over_a_restart(start: Start, experiment: int) -> None:
    first = start(user_secret="s")
    given = variants(first)
    wait_for(lambda: assigned() == 100)
    change(Experiment, experiment, traffic_split={"a": 0.0, "b": 1.0})
    fresh = iter(range(10_000))
    wait_for(lambda: set(variants(first, [f"fresh-{next(fresh)}" for _ in range(12)]).values()) == {"b"})
    assert variants(first) == given
    second = start(user_secret="s")
    assert variants(second) == given


def test_the_user_is_the_header_else_the_field_else_the_key(start: Start, experiment: int) -> None:
    gateway = start(key="k", user_secret="s")
    gateway.http.headers["Authorization"] = "Bearer k"
    gateway.ask(caller="kim", user="lee")
    gateway.ask(user="lee")
    gateway.ask()
    hashes = [row.user_hash for row in logged(3)]
    assert hashes == [hash_user("kim", "s"), hash_user("lee", "s"), hash_user("key k", "s")]


def test_nobody_in_particular_is_spread_over_the_arms_and_not_remembered(
    experiment: int, gateway: RunningGateway
) -> None:
    given = {gateway.ask().headers["x-tollgate-variant"] for _ in range(40)}
    assert given == {"a", "b"}
    assert {row.user_hash for row in logged(40)} == {None}
    assert assigned() == 0


def test_an_experiment_that_ends_gives_the_route_back(experiment: int, gateway: RunningGateway) -> None:
    assert set(variants(gateway, USERS[:10]).values()) == {"a", "b"}
    change(Experiment, experiment, status="completed")
    wait_for(lambda: "x-tollgate-variant" not in gateway.ask(caller="user-0").headers)
    assert {gateway.ask(caller=user).headers["x-tollgate-version"] for user in USERS[:10]} == {"router@v1"}


def test_replicas_learn_each_other_s_users_before_a_changed_split_counts(start: Start, experiment: int) -> None:
    first, second = start(user_secret="s"), start(user_secret="s")
    given = variants(first)
    wait_for(lambda: assigned() == 100)
    change(Experiment, experiment, traffic_split={"a": 1.0, "b": 0.0})
    fresh = iter(range(10_000))
    wait_for(lambda: set(variants(second, [f"fresh-{next(fresh)}" for _ in range(12)]).values()) == {"a"})
    assert variants(second) == given


def test_a_million_users_are_split_as_planned_and_nobody_moves() -> None:
    users = [f"{number:064x}" for number in range(MILLION)]
    kept: dict[str, str] = {}
    versions = {"a": Version("m@v1", 1), "b": Version("m@v2", 2)}
    plan = Arms(1, "pepper", {"a": 0.8, "b": 0.2}, versions)
    gateway = Assignments(lambda _, user, variant: kept.__setitem__(user, variant))
    given = [gateway.arm(plan, user) for user in users]
    assert abs(given.count("b") / MILLION - 0.2) <= 0.001
    assert len(kept) == MILLION
    restarted = Assignments(lambda *_: pytest.fail("somebody was assigned twice"))
    restarted.learn(1, kept)
    changed = Arms(1, "pepper", {"a": 0.1, "b": 0.9}, versions)
    for table in (gateway, restarted):
        table.keep_only({1})
        assert all(table.arm(changed, user) == arm for user, arm in zip(users, given, strict=True))
