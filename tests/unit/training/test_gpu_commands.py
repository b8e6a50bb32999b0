"""``tollgate gpus`` on a real PostgreSQL."""

from __future__ import annotations

import json

import pytest

from tollgate import cli
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.training import leases
from tollgate.training.leases import Wish


@pytest.fixture(autouse=True)
def _gpus(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_GPU_IDS", "[0, 3]")
    settings.cache_clear()


def ask(holder: str, count: int = 1, devices: tuple[int, ...] = ()) -> None:
    with transaction() as session:
        leases.ask(session, Wish(holder, count, devices, "docker"), settings().gpu_ids)


def gpus(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["gpus", *words])
    return int(ended.value.code or 0)


def test_holders_and_queue_are_shown_with_places(capsys: pytest.CaptureFixture[str]) -> None:
    ask("finetune/run 1/train")
    ask("finetune/run 2/train", 2)
    ask("finetune/run 3/train", devices=(0,))
    assert gpus() == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines if line[0] == "0"] == [["0", "finetune/run", "1/train", lines[1][3]]]
    assert ["3", "free"] in lines
    assert any(line[:4] == ["1", "2", "GPUs", "finetune/run"] for line in lines)
    assert any(line[:4] == ["2", "GPU", "0", "finetune/run"] for line in lines)


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    ask("a")
    ask("b", 2)
    assert gpus("--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["configured"] == [0, 3]
    assert [(one["device"], one["holder"], one["runtime"]) for one in shown["leases"]] == [(0, "a", "docker")]
    assert shown["leases"][0]["since"].startswith("20")
    assert [(one["place"], one["holder"], one["count"], one["devices"]) for one in shown["queue"]] == [(1, "b", 2, [])]


def test_a_device_that_is_no_longer_configured_is_shown_with_its_holder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask("a", devices=(3,))
    monkeypatch.setenv("TOLLGATE_GPU_IDS", "[0]")
    settings.cache_clear()
    gpus()
    assert "3 (not configured)  a " in capsys.readouterr().out


def test_without_gpus_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOLLGATE_GPU_IDS")
    settings.cache_clear()
    assert gpus() == 0
    assert capsys.readouterr().out == "No GPU is configured (TOLLGATE_GPU_IDS): jobs run on the CPU.\n"


def test_a_lease_can_be_freed_by_hand_and_a_wrong_name_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ask("dead")
    assert gpus("--free", "deat") == 2
    assert "found 'deat', expected one of the holders: dead" in capsys.readouterr().err
    assert gpus("--free", "dead") == 0
    assert "dead" not in capsys.readouterr().out
