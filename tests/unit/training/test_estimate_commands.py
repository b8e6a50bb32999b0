"""``tollgate estimate`` and ``tollgate schema`` as people call them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.dataset.example_version import write_version
from tests.unit.training.example_base import write_base_model
from tests.unit.training.test_estimate import made

from tollgate.cli import main
from tollgate.settings import settings
from tollgate.training.spec import schema_text


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOLLGATE_BASE_MODEL", str(write_base_model(tmp_path / "served")))
    settings.cache_clear()
    yield
    settings.cache_clear()


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_a_specification_becomes_tables_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "spec.json"
    file.write_text(made(tmp_path).model_dump_json())
    status, text, _ = run(capsys, "estimate", str(file))
    assert status == 0
    for words in ("activations", "at most", "tokens in an epoch", "fits"):
        assert words in text
    status, text, _ = run(capsys, "estimate", str(file), "--json", "--set", "batch_size=2", "--method", "full")
    found = json.loads(text)
    assert (status, found["ok"], found["method"], found["time"]["steps_per_epoch"]) == (0, True, "full", 50)


def test_without_a_file_the_options_and_the_served_base_are_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_version(tmp_path / "home" / "datasets")
    status, text, _ = run(capsys, "estimate", "--dataset", "highway@latest", "--json")
    found = json.loads(text)
    assert (status, found["dataset"], Path(found["base_model"]).name) == (0, "highway@v1", "served")


def test_what_does_not_fit_ends_with_1_and_says_what_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_JOB_MEMORY", "950m")
    settings.cache_clear()
    file = tmp_path / "spec.json"
    file.write_text(made(tmp_path, batch_size=64).model_dump_json())
    status, text, _ = run(capsys, "estimate", str(file))
    assert status == 1
    assert "does not fit" in text
    assert "batch_size=" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("estimate",), "--dataset"),
        (("estimate", "nowhere.json"), "nowhere.json"),
        (("estimate", "--dataset", "highway@v1"), "highway"),
        (("estimate", "{spec}", "--set", "batch_size"), "name=value"),
        (("estimate", "{spec}", "--set", "batch_size=0", "--set", "processes=2"), "batch_size"),
        (
            ("estimate", "{spec}", "--set", "batch_size=0", "--set", "early_stopping_minimum_gain=0.1"),
            "early_stopping_patience",
        ),
    ],
)
def test_what_cannot_be_estimated_ends_with_2_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    file = tmp_path / "spec.json"
    file.write_text(made(tmp_path).model_dump_json())
    status, _, error = run(capsys, *(word.format(spec=file) for word in words))
    assert status == 2
    assert told in error


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main_status, text, _ = run(capsys, "schema", "training")
    assert (main_status, text) == (0, schema_text())
