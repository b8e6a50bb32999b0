from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter, write_base

from tollgate.errors import BadInputError, ServiceUnavailableError
from tollgate.serving.adapter import AdapterDamagedError, AdapterMissingError, AdapterRankError
from tollgate.serving.client import AdapterNameTakenError, ProbeFailedError, VllmClient


@pytest.fixture
def servers() -> Iterator[list[FakeVllm]]:
    with FakeVllm() as first, FakeVllm() as second:
        yield [first, second]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def client(servers: list[FakeVllm], base: Path) -> Iterator[VllmClient]:
    with VllmClient([server.address for server in servers], base_model=base, max_rank=32) as client:
        yield client


def test_an_adapter_is_loaded_on_every_replica_once(client: VllmClient, servers: list[FakeVllm], base: Path) -> None:
    adapter = write_adapter(base.parent / "a", base)
    assert client.load_adapter("m@v1", adapter) is True
    assert [list(server.loaded) for server in servers] == [["m@v1"], ["m@v1"]]
    assert client.load_adapter("m@v1", adapter) is False
    servers[1].restart_empty()
    assert "m@v1" not in client.list_models()
    assert client.load_adapter("m@v1", adapter) is True
    assert client.list_models()["m@v1"].root == str(adapter)


def test_a_name_is_never_given_twice(client: VllmClient, base: Path) -> None:
    client.load_adapter("m@v1", write_adapter(base.parent / "a", base))
    for name in ("m@v1", "base"):
        with pytest.raises(AdapterNameTakenError, match=name):
            client.load_adapter(name, write_adapter(base.parent / "b", base))


def test_files_are_checked_before_a_server_sees_them(client: VllmClient, servers: list[FakeVllm], base: Path) -> None:
    with pytest.raises(AdapterDamagedError):
        client.load_adapter("m@v1", write_adapter(base.parent / "a", base, fill=float("nan")))
    assert [server.loaded for server in servers] == [{}, {}]


def test_the_server_s_own_refusals_are_told_apart(client: VllmClient, base: Path) -> None:
    replica = client.replicas[0]
    with pytest.raises(AdapterMissingError, match="no adapter in"):
        replica.load_adapter("m@v1", base.parent / "nowhere")
    with pytest.raises(AdapterRankError, match="rank 64 is greater"):
        replica.load_adapter("m@v1", write_adapter(base.parent / "a", base, rank=64))


def test_unloading_what_is_not_there_is_fine(client: VllmClient, servers: list[FakeVllm], base: Path) -> None:
    client.load_adapter("m@v1", write_adapter(base.parent / "a", base))
    assert client.unload_adapter("m@v1") is True
    assert client.unload_adapter("m@v1") is False
    assert [server.loaded for server in servers] == [{}, {}]


def test_a_probe_looks_at_the_answer_and_not_at_the_status(client: VllmClient, base: Path) -> None:
    adapter = write_adapter(base.parent / "a", base)
    client.load_adapter("m@v1", adapter)
    answers = client.probe("m@v1", ["ping", [{"role": "user", "content": "안녕"}]])
    assert list(answers.values()) == [["m@v1: ping", "m@v1: 안녕"]] * 2
    (adapter / "serves_nan").touch()
    with pytest.raises(ProbeFailedError, match="restart"):
        client.probe("m@v1", ["ping"])


def test_a_model_that_is_not_loaded_cannot_be_probed(client: VllmClient) -> None:
    with pytest.raises(BadInputError, match="m@v9"):
        client.probe("m@v9", ["ping"])


def test_a_replica_that_is_down_is_named_and_the_others_are_served(
    client: VllmClient, servers: list[FakeVllm], base: Path
) -> None:
    servers[0].__exit__()
    with pytest.raises(ServiceUnavailableError, match=servers[0].address):
        client.load_adapter("m@v1", write_adapter(base.parent / "a", base))
    assert list(servers[1].loaded) == ["m@v1"]
    with pytest.raises(ServiceUnavailableError):
        client.health()
