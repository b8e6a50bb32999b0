"""Known answers: which replicas pass, and what becomes of one that does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter, write_base

from tollgate.serving import probes, rollout
from tollgate.serving.client import VllmClient
from tollgate.serving.probes import KnownAnswer, ProbeFailedError
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel

ASKED = ["ping", "pong"]


@pytest.mark.parametrize(
    ("known", "answers", "passes"),
    [
        (["예", "아니요"], ["예", "아니요"], True),
        (["예, 가능합니다"], ["예, 가"], True),  # the probe's answer is cut
        (["예, 가"], ["예, 가능합니다"], True),
        (["예", "아니요"], ["예", "모름"], True),  # half of them
        (["예", "아니요", "둘"], ["예", "모름", "셋"], False),
        (["가"], ["\u1100\u1161"], True),  # the same syllable, taken apart
        (["예"], ["아니요"], False),
        (["\x00예"], ["예"], True),  # PostgreSQL keeps no NUL
        (["경부선은 서울과 부산을"], ["경부선은 두 도시를 잇는"], True),  # a close choice in the middle
        (["경부선은 서울과 부산을"], ["경 !!!!!!!!!!!!!!!!!!!!!"], False),
    ],
)
def test_half_of_the_known_answers_must_be_given(known: list[str], answers: list[str], passes: bool) -> None:
    asked = [KnownAnswer("?", answer) for answer in known]
    if passes:
        probes.check_answers("router@v1", "http://a", asked, answers)
    else:
        with pytest.raises(ProbeFailedError, match=r"router@v1 at http://a gives . of . known answers"):
            probes.check_answers("router@v1", "http://a", asked, answers)


def test_known_answers_survive_the_registry() -> None:
    kept = [KnownAnswer("ping", "po\x00ng"), KnownAnswer(({"role": "user", "content": "질문"},), "답")]
    again = probes.from_json(probes.to_json(kept))
    assert [probe.answer for probe in again] == ["pong", "답"]
    assert again[1].question == [{"role": "user", "content": "질문"}]
    assert probes.from_json(None) == probes.from_json([{"question": "x", "answer": " "}]) == []


@pytest.fixture
def servers() -> Iterator[list[FakeVllm]]:
    with FakeVllm() as first, FakeVllm() as second:
        yield [first, second]


@pytest.fixture
def client(servers: list[FakeVllm], tmp_path: Path) -> Iterator[VllmClient]:
    with VllmClient([server.address for server in servers], base_model=write_base(tmp_path / "base")) as client:
        yield client


@pytest.fixture
def model_id(postgres_url: str, tmp_path: Path) -> int:
    folder = write_adapter(tmp_path / "v1", write_base(tmp_path / "base"))
    with transaction() as session:
        model = RegisteredModel(
            model_name="router", version=1, base_model="base", model_path=str(folder), verdict="pass"
        )
        session.add(model)
        session.flush()
        return model.id


def deploy(model_id: int, client: VllmClient, asked: list[probes.Probe]) -> None:
    with transaction() as session:
        rollout.deploy(session, "router", model_id, "kim", asked, client)


def test_what_a_version_answered_first_is_asked_of_every_later_load(
    model_id: int, client: VllmClient, servers: list[FakeVllm]
) -> None:
    deploy(model_id, client, list(ASKED))
    servers[0].restart_empty()
    servers[0].says = "somebody else's weights"
    with transaction() as session:
        done = rollout.reconcile(session, client)
    assert (done.loaded, len(done.problems), list(servers[0].loaded)) == ([], 1, [])
    assert "gives 0 of 2 known answers" in done.problems[0]
    servers[0].says = None
    with transaction() as session:
        assert rollout.reconcile(session, client).problems == []
    assert list(servers[0].loaded) == ["router@v1"]


def test_replicas_that_disagree_on_the_first_day_take_no_traffic(
    model_id: int, client: VllmClient, servers: list[FakeVllm]
) -> None:
    servers[1].says = "something else"
    with pytest.raises(ProbeFailedError, match=servers[1].address):
        deploy(model_id, client, list(ASKED))
    assert [list(server.loaded) for server in servers] == [[], []]


def test_a_version_that_does_not_give_its_known_answer_is_not_deployed(model_id: int, client: VllmClient) -> None:
    with pytest.raises(ProbeFailedError, match="'42'"):
        deploy(model_id, client, [KnownAnswer("ping", "42")])
    deploy(model_id, client, [KnownAnswer("ping", "router@v1: ping")])


def test_a_replica_whose_adapter_turned_into_nan_loses_it(
    model_id: int, client: VllmClient, servers: list[FakeVllm], tmp_path: Path
) -> None:
    deploy(model_id, client, list(ASKED))
    servers[1].restart_empty()
    (tmp_path / "v1" / "serves_nan").touch()
    with transaction() as session:
        done = rollout.reconcile(session, client)
    assert "computes NaN" in done.problems[0]
    assert list(servers[1].loaded) == []
