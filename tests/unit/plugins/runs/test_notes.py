"""Notes at a server that speaks Airflow's REST interface, and where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.stack.conftest import free_port
from tests.unit.stack.fake_airflow import PASSWORD, FakeAirflow

from runs.notes import note_failure, note_verdict, note_version, write_note
from tollgate.errors import BadInputError, Problem
from tollgate.settings import settings


@pytest.fixture
def airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAirflow]:
    with FakeAirflow() as airflow:
        monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path))
        monkeypatch.setenv("TOLLGATE_AIRFLOW_URL", airflow.address)
        monkeypatch.setenv("TOLLGATE_AIRFLOW_ADMIN_PASSWORD", PASSWORD)
        settings.cache_clear()
        yield airflow
    settings.cache_clear()


def context(error: BaseException | None = None) -> Any:
    run = SimpleNamespace(dag_id="finetune", run_id="manual__1")
    return {"exception": error, "ti": SimpleNamespace(task_id="validate"), "dag_run": run}


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (
            BadInputError("The job cannot start.", [Problem("epochs", "-1", "greater than 0")]),
            "**validate**: The job cannot start.\n  - epochs: found -1, expected greater than 0",
        ),
        (KeyError("served_name"), "**validate**: KeyError: 'served_name'"),
    ],
)
def test_a_note_names_the_task_that_failed_and_why(airflow: FakeAirflow, error: Exception, note: str) -> None:
    note_failure(context(error))
    assert airflow.written("PATCH") == [("/api/v2/dags/finetune/dagRuns/manual__1", {"note": note})]


@pytest.mark.parametrize(("created", "state"), [(True, "written"), (False, "there already, with the same content")])
def test_a_note_says_which_version_came_of_it_and_where_its_report_is(
    airflow: FakeAirflow, created: bool, state: str
) -> None:
    counts = {"rows_in": 4952, "rows_kept": 4700}
    version = {"reference": "calls@v3", "created": created, "folder": "/data/calls/v3", "counts": counts}
    note_version(context(), version)
    ((_, written),) = airflow.written("PATCH")
    assert written["note"] == (
        f"**calls@v3** {state}: 4,700 of 4,952 rows kept. [Report · 보고서](/tollgate/datasets/calls/v3)\n\n"
        "`/data/calls/v3`"
    )


def test_a_note_says_what_the_gate_said_and_where_the_losses_are(airflow: FakeAirflow, tmp_path: Path) -> None:
    verdict = {"outcome": "pass", "reasons": ["Accuracy 0.97.", "Better than before."]}
    note_verdict(context(), verdict, tmp_path)
    (tmp_path / "losses.svg").write_text("<svg/>")
    note_verdict(context(), verdict, tmp_path)
    without, with_picture = [written["note"] for _, written in airflow.written("PATCH")]
    assert without == "**pass**: Accuracy 0.97. Better than before."
    assert with_picture == f"{without}\n\nLosses · 손실: `{tmp_path}/losses.svg`"


@pytest.mark.parametrize("refusal", [(404, "no such run"), (500, "broken"), (200, "<html>")])
def test_a_note_that_airflow_does_not_take_fails_nothing(
    airflow: FakeAirflow, caplog: pytest.LogCaptureFixture, refusal: tuple[int, str]
) -> None:
    airflow.refusal = refusal
    write_note(context(), "done")
    assert "note could not be written" in caplog.text


@pytest.mark.parametrize("lacking", ["airflow", "password"])
def test_a_note_that_cannot_be_sent_fails_nothing(
    airflow: FakeAirflow, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    if lacking == "airflow":
        monkeypatch.setenv("TOLLGATE_AIRFLOW_URL", f"http://127.0.0.1:{free_port()}")
    else:
        monkeypatch.delenv("TOLLGATE_AIRFLOW_ADMIN_PASSWORD")
    settings.cache_clear()
    note_failure(context(RuntimeError("broken")))
    assert "note could not be written" in caplog.text
