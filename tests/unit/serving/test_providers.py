"""Providers and keys from the command line: what is kept, what is refused, what is compared."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.unit.serving.fake_vllm import FakeVllm

from tollgate.cli import main
from tollgate.errors import BadInputError
from tollgate.serving import keys, providers
from tollgate.serving.providers import ProviderForm
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import GatewayKey, Provider


@pytest.fixture
def home(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path))
    settings.cache_clear()
    return tmp_path


@pytest.fixture
def server() -> Iterator[FakeVllm]:
    with FakeVllm(base="gpt") as found:
        yield found


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_provider_is_kept_ordered_listed_and_removed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("providers", "add", "far", "-a", "https://api.example.com/v1/", "-m", "gpt", "--prompt-price", "0.5") == 0
    )
    assert run("providers", "route", "router", "vllm", "far") == 0
    capsys.readouterr()
    assert run("providers", "list", "--json") == 0
    shown = printed(capsys)
    assert shown["routes"] == {"router": ["vllm", "far"]}
    far = next(view for view in shown["providers"] if view["name"] == "far")
    assert (far["addresses"], far["model"], far["prompt_price"]) == (["https://api.example.com"], "gpt", 0.5)
    assert run("providers", "remove", "far") == 2
    assert run("providers", "route", "router") == 0
    assert run("providers", "remove", "far") == 0
    assert run("providers", "remove", "vllm") == 2


def test_a_key_is_in_its_file_only(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.read", lambda: "sk-secret\n", raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert run("providers", "key", "far") == 0
    assert run("providers", "add", "far", "-a", "http://far", "--key", "file:far") == 0
    file = home / "provider-keys" / "far"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with transaction() as session:
        row = session.scalars(select(Provider).where(Provider.name == "far")).one()
        assert "sk-secret" not in str(vars(row))
        ready = providers.endpoint(row, [], home / "provider-keys")
    assert ready.key == "sk-secret"
    assert "sk-secret" not in repr(ready)
    assert "sk-secret" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "source",
    ["sk-secret", "env:TOLLGATE_DATABASE_URL", "env:HOME", "file:../secrets.json", "file:/etc/passwd", "file:"],
)
def test_a_key_cannot_be_another_secret(source: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="API_KEY"):
        ProviderForm(name="far", addresses=["http://far"], key_source=source)
    with pytest.raises(BadInputError):
        providers.read_key(source, tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"addresses": ["ftp://far"]},
        {"addresses": ["http://user:password@far"]},
        {"addresses": ["http://far"], "prompt_price": -1.0},
        {"addresses": ["http://far"], "prompt_price": float("inf")},
        {"name": "Far away"},
    ],
)
def test_a_provider_that_cannot_be_used_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ProviderForm.model_validate({"name": "far"} | fields)


def test_only_the_own_servers_need_no_address(home: Path) -> None:
    assert run("providers", "add", "far") == 2
    assert run("providers", "add", "vllm", "--timeout", "5") == 0


def test_a_check_says_what_is_wrong_with_each(
    home: Path, server: FakeVllm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOLLGATE_VLLM_URLS", json.dumps([server.address]))
    settings.cache_clear()
    run("providers", "add", "good", "-a", server.address, "-m", "gpt")
    run("providers", "add", "unknown", "-a", server.address, "-m", "other")
    run("providers", "add", "down", "-a", "http://127.0.0.1:1")
    capsys.readouterr()
    assert run("providers", "check", "--json") == 3
    found = {one["provider"]: one for one in printed(capsys)["checks"]}
    assert {name: one["ok"] for name, one in found.items()} == {
        "good": True, "unknown": False, "down": False, "vllm": True,
    }  # fmt: skip
    assert found["good"]["text"] == "gpt answers"
    assert "404" in found["unknown"]["text"]
    assert found["vllm"]["text"] == "1 models"
    assert run("providers", "check", "good") == 0


def test_a_comparison_shows_accuracy_latency_and_cost(
    home: Path, server: FakeVllm, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeVllm(base="mini") as other:
        run(
            "providers",
            "add",
            "big",
            "-a",
            server.address,
            "-m",
            "gpt",
            "--prompt-price",
            "1000",
            "--completion-price",
            "0",
        )
        run("providers", "add", "small", "-a", other.address, "-m", "mini")
        run("providers", "add", "down", "-a", server.address, "-m", "nothing")
        cases = home / "cases.jsonl"
        rows = [
            {"id": f"c{number}", "category": "x" if number else "y", "messages": [{"role": "user", "content": "가"}],
             "expected": expected}
            for number, expected in enumerate(["gpt: 가", "gpt: 가", "mini: 가", "gpt: <b>"])
        ]  # fmt: skip
        cases.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        capsys.readouterr()
        words = ("--scorer", "exact", "--output", str(home / "out"), "--json")
        assert run("providers", "compare", str(cases), "big", "small", "down", *words) == 3
    shown = {one["provider"]: one for one in printed(capsys)["providers"]}
    assert (shown["big"]["summary"]["correct"], shown["small"]["summary"]["correct"]) == (2, 1)
    assert (shown["big"]["cost"], shown["small"]["cost"]) == (4 * 7 * 1000 / 1e6, None)
    assert shown["big"]["summary"]["latency_p95_ms"] >= shown["big"]["summary"]["latency_p50_ms"] > 0
    assert "does not serve the model" in shown["down"]["problem"]
    page = (home / "out" / "report.html").read_text(encoding="utf-8")
    assert "정확도" in page
    assert "50.0%" in page
    assert "gpt: 가" in page  # of a case on which they differ
    assert "<b>gpt" not in page
    assert len(json.loads((home / "out" / "report.json").read_text())["answers"]["big"]) == 4


def test_client_keys_are_shown_once_and_kept_as_digests(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "create", "web", "--per-minute", "500") == 0
    key = capsys.readouterr().out.strip()
    assert run("keys", "create", "web") == 2
    assert run("keys", "list", "--json") == 0
    assert key not in capsys.readouterr().out
    with transaction() as session:
        assert session.scalars(select(GatewayKey.key_hash)).all() == [keys.digest(key)]
        assert keys.active(session) == {keys.digest(key): 500}
    assert run("keys", "revoke", "web") == 0
    assert run("keys", "revoke", "nobody") == 2
    with transaction() as session:
        assert keys.active(session) == {}
