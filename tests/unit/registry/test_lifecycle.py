"""The life of a model version, on a real PostgreSQL."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from tollgate.errors import BadInputError, GateRefusedError
from tollgate.registry import lifecycle
from tollgate.registry.lifecycle import Stage, StageConflictError
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob, RegisteredModel

pytestmark = pytest.mark.usefixtures("postgres_url")

MODEL = "highway-router"


def _job(name: str) -> int:
    with transaction() as session:
        job = FinetuningJob(
            job_name=name, base_model="/models/base", method="lora", hyperparameters={}, output_dir=f"/jobs/{name}"
        )
        session.add(job)
        session.flush()
        return job.id


def _reserve(job_id: int, model_name: str = MODEL) -> RegisteredModel:
    with transaction() as session:
        return lifecycle.reserve_version(session, model_name, job_id, "/models/base", "/jobs/a/adapter", "kim")


def _staged(name: str) -> RegisteredModel:
    model = _reserve(_job(name))
    with transaction() as session:
        lifecycle.record_verdict(session, model.id, "pass", ["0.97 > 0.90"])
        return lifecycle.move(session, model.id, Stage.CANDIDATE, Stage.STAGING, "kim", "passed")


def _promote(model: RegisteredModel, by: str = "kim", replacing: int | None = None) -> RegisteredModel:
    with transaction() as session:
        return lifecycle.promote_to_production(session, model.id, by, "better", replacing)


def _stages(model_name: str = MODEL) -> dict[int, str]:
    with transaction() as session:
        return {model.version: model.status for model in lifecycle.versions(session, model_name)}


def _history(model_name: str = MODEL) -> list[lifecycle.StageChange]:
    with transaction() as session:
        return lifecycle.history(session, model_name)


def test_a_job_gets_one_version_however_often_it_asks() -> None:
    first, second = _job("job-1"), _job("job-2")
    assert [_reserve(first).version, _reserve(second).version, _reserve(first).version] == [1, 2, 1]
    assert _reserve(first).served_name == "highway-router@v1"
    assert [(change.version, change.from_stage, change.to_stage) for change in _history()] == [
        (1, None, "candidate"),
        (2, None, "candidate"),
    ]


def test_jobs_that_ask_at_once_get_different_versions_without_gaps() -> None:
    jobs = [_job(f"job-{number}") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        numbers = [model.version for model in pool.map(_reserve, jobs * 2)]
    assert sorted(numbers) == sorted([*range(1, 7)] * 2)


def test_a_job_cannot_make_a_second_model() -> None:
    job = _job("job-1")
    _reserve(job)
    with pytest.raises(BadInputError, match="expected highway-router"):
        _reserve(job, "other")
    with pytest.raises(BadInputError, match="finetuning_jobs"):
        _reserve(job + 1)


def test_the_whole_way_is_written_down_with_who_and_why() -> None:
    first, second = _staged("job-1"), _staged("job-2")
    _promote(first, "lee")
    _promote(second, "park")
    assert _stages() == {1: "archived", 2: "production"}
    way = [(change.from_stage, change.to_stage, change.by, change.why) for change in _history() if change.version == 1]
    assert way == [
        (None, "candidate", "kim", "made by job job-1"),
        ("candidate", "staging", "kim", "passed"),
        ("staging", "production", "lee", "better"),
        ("production", "archived", "park", "replaced by highway-router@v2: better"),
    ]
    assert [change.why_ko for change in _history() if change.version == 1] == [
        "학습 작업 job-1의 결과",
        "passed",
        "better",
        "highway-router@v2(으)로 교체: better",
    ]


def test_a_former_champion_comes_back_by_a_rollback() -> None:
    first, second = _staged("job-1"), _staged("job-2")
    _promote(first)
    _promote(second)
    _promote(first)
    assert _stages() == {1: "production", 2: "archived"}


def test_other_models_keep_their_champions() -> None:
    _promote(_staged("job-1"))
    other = _reserve(_job("job-2"), "other")
    with transaction() as session:
        lifecycle.record_verdict(session, other.id, "pass", [])
        lifecycle.move(session, other.id, "candidate", "staging", "kim", "passed")
        lifecycle.promote_to_production(session, other.id, "kim", "first")
    assert _stages() == {1: "production"}
    assert _stages("other") == {1: "production"}


def test_asking_for_what_already_is_changes_nothing() -> None:
    model = _staged("job-1")
    with transaction() as session:
        lifecycle.move(session, model.id, Stage.CANDIDATE, Stage.STAGING, "kim", "again")
    _promote(model)
    before = _history()
    _promote(model)
    assert _history() == before
    for _ in range(2):
        with transaction() as session:
            lifecycle.archive(session, model.id, "kim", "over")
    assert _history()[len(before) :] == [_history()[-1]]


def test_a_conflict_names_the_actual_stage_and_survives_pickling() -> None:
    model = _staged("job-1")
    with transaction() as session:
        lifecycle.archive(session, model.id, "kim", "over")
    with (
        pytest.raises(StageConflictError, match="highway-router@v1 is archived, not staging") as caught,
        transaction() as session,
    ):
        lifecycle.move(session, model.id, Stage.STAGING, Stage.PRODUCTION, "kim", "late")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert _stages() == {1: "archived"}


@pytest.mark.parametrize(
    ("start", "goal"), [("candidate", "production"), ("production", "candidate"), ("staging", "staging")]
)
def test_a_transition_outside_the_table_is_refused(start: str, goal: str) -> None:
    model = _reserve(_job("job-1"))
    with pytest.raises(BadInputError, match=f"expected from {start}: "), transaction() as session:
        lifecycle.move(session, model.id, start, goal, "kim", "no")


@pytest.mark.parametrize("verdict", ["fail", None])
def test_a_candidate_that_never_passed_gets_nowhere(verdict: lifecycle.Verdict | None) -> None:
    model = _reserve(_job("job-1"))
    if verdict is not None:
        with transaction() as session:
            lifecycle.record_verdict(session, model.id, verdict, ["0.41 < 0.90"])
    with pytest.raises(GateRefusedError, match="stays candidate"), transaction() as session:
        lifecycle.move(session, model.id, Stage.CANDIDATE, Stage.STAGING, "kim", "please")
    with pytest.raises(StageConflictError, match="is candidate"):
        _promote(model)
    assert _stages() == {1: "candidate"}
    assert len(_history()) == 1
    with transaction() as session:
        lifecycle.archive(session, model.id, "kim", "kept for inspection")
    with pytest.raises(GateRefusedError, match="stays archived"):
        _promote(model)


def test_a_verdict_that_was_acted_upon_cannot_be_rewritten() -> None:
    model = _staged("job-1")
    with transaction() as session:
        assert lifecycle.record_verdict(session, model.id, "pass", ["retry"]).verdict_reasons == ["0.97 > 0.90"]
    with pytest.raises(StageConflictError), transaction() as session:
        lifecycle.record_verdict(session, model.id, "fail", ["no"])


def test_a_decision_about_another_champion_is_refused() -> None:
    first, second, third = (_staged(f"job-{number}") for number in range(3))
    _promote(first)
    _promote(second, replacing=first.id)
    with pytest.raises(StageConflictError, match="highway-router@v1 is archived, not production"):
        _promote(third, replacing=first.id)
    assert _stages() == {1: "archived", 2: "production", 3: "staging"}


def test_the_database_itself_refuses_a_second_production_version() -> None:
    first, second = _staged("job-1"), _staged("job-2")
    _promote(first)
    with pytest.raises(IntegrityError, match="uq_model_registry_production"), transaction() as session:
        session.execute(update(RegisteredModel).where(RegisteredModel.id == second.id).values(status="production"))


def test_racing_promoters_leave_exactly_one_production_version() -> None:
    models = [_staged(f"job-{number}") for number in range(4)]
    for _ in range(10):
        barrier = Barrier(len(models))

        def race(model: RegisteredModel, barrier: Barrier = barrier) -> None:
            barrier.wait()
            _promote(model, by=model.served_name)

        with ThreadPoolExecutor(len(models)) as pool:
            list(pool.map(race, models))
        assert sorted(_stages().values()) == ["archived"] * 3 + ["production"]
    in_production = 0
    for change in _history():
        in_production += (change.to_stage == "production") - (change.from_stage == "production")
        assert in_production in {0, 1}
    assert in_production == 1


def test_of_racing_promoters_who_saw_the_same_champion_one_wins() -> None:
    present, *rivals = (_staged(f"job-{number}") for number in range(5))
    _promote(present)
    barrier = Barrier(len(rivals))

    def race(model: RegisteredModel) -> bool:
        barrier.wait()
        try:
            _promote(model, replacing=present.id)
        except StageConflictError:
            return False
        return True

    with ThreadPoolExecutor(len(rivals)) as pool:
        won = list(pool.map(race, rivals))
    assert won.count(True) == 1
    with transaction() as session:
        winner = lifecycle.champion(session, MODEL)
    assert winner is not None
    assert winner.id == rivals[won.index(True)].id


def test_a_crash_between_both_halves_of_a_promotion_leaves_the_former_champion(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _staged("job-1"), _staged("job-2")
    _promote(first)
    real = lifecycle._write_down

    def die_after_archiving(session, model, *rest) -> None:
        real(session, model, *rest)
        assert session.scalar(select(RegisteredModel.status).where(RegisteredModel.id == first.id)) == "archived"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lifecycle, "_write_down", die_after_archiving)
        _promote(second)
    assert _stages() == {1: "production", 2: "staging"}


def test_versions_are_found_by_the_name_under_which_they_are_served() -> None:
    model = _staged("job-1")
    with transaction() as session:
        assert lifecycle.find(session, "highway-router@v1").id == model.id
        assert [found.id for found in lifecycle.versions(session, stage="staging")] == [model.id]
        assert lifecycle.champion(session, MODEL) is None
        for wrong in ("highway-router@v2", "highway-router", "highway-router@v", "@v1"):
            with pytest.raises(BadInputError, match="as in highway-router@v3"):
                lifecycle.find(session, wrong)
