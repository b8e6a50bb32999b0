"""Reports are shown to those whom Airflow lets in, and to nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.unit.dataset.example_version import write_version

from reports.app import create_app, may_see_datasets, may_see_experiments
from reports.links import experiment_path, report_path
from tollgate.experiments.analysis import open_experiment
from tollgate.experiments.plan import ExperimentPlan
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture
def guest(home: Path) -> TestClient:
    return TestClient(create_app(), root_path="/tollgate", follow_redirects=False)


@pytest.fixture
def insider(home: Path) -> TestClient:
    app = create_app()
    for guard in (may_see_datasets, may_see_experiments):
        app.dependency_overrides[guard] = lambda: None  # what Airflow's auth manager says to a known user
    return TestClient(app, root_path="/tollgate")


def test_every_version_is_listed_with_a_link_to_its_report(home: Path, insider: TestClient) -> None:
    write_version(home / "datasets", "highway")
    write_version(home / "datasets", "highway", ["q4", "q5"])
    page = insider.get("/datasets")
    assert page.status_code == 200
    assert page.text.index("highway@v2") < page.text.index("highway@v1")
    assert f'href="{report_path("highway", 1)}"' in page.text
    shown = insider.get("/datasets/highway/v1")
    assert shown.status_code == 200
    assert shown.content == (home / "datasets" / "highway" / "v1" / "report.html").read_bytes()
    assert shown.headers["content-security-policy"].startswith("default-src 'none'")


def test_without_a_version_the_page_says_so(insider: TestClient) -> None:
    assert "no dataset version yet" in insider.get("/datasets").text


@pytest.mark.parametrize("path", ["/datasets/none/v1", "/datasets/highway/v9", "/datasets/..%2f..%2fjobs/v1"])
def test_what_is_not_there_is_not_found(home: Path, insider: TestClient, path: str) -> None:
    write_version(home / "datasets", "highway")
    assert insider.get(path).status_code == 404


def test_a_program_without_a_token_is_refused_and_a_browser_sent_to_the_log_in(home: Path, guest: TestClient) -> None:
    write_version(home / "datasets", "highway")
    for path in ("/datasets", "/datasets/highway/v1"):
        assert guest.get(path, headers={"accept": "*/*"}).status_code == 401
        answer = guest.get(path, headers={"accept": "text/html,*/*"})
        assert answer.status_code == 307
        assert answer.headers["location"].startswith("/auth/login/?next=http")


def test_every_experiment_is_listed_with_a_link_to_its_report(postgres_url: str, insider: TestClient) -> None:
    assert "no experiment yet" in insider.get("/experiments").text
    with transaction() as session:
        for version in (1, 2):
            session.add(RegisteredModel(model_name="router", version=version, base_model="base", model_path="/m"))
        session.flush()
        open_experiment(session, "router", 1, 2, ExperimentPlan(users_per_arm=20), "first one", "operator")
    assert f'href="{experiment_path("first one")}"' in insider.get("/experiments").text
    shown = insider.get("/experiments/first%20one")
    assert (shown.status_code, "router@v2" in shown.text) == (200, True)
    assert shown.headers["content-security-policy"].startswith("default-src 'none'")
    assert insider.get("/experiments/none").status_code == 404


def test_experiments_are_not_shown_to_strangers(postgres_url: str, guest: TestClient) -> None:
    assert guest.get("/experiments", headers={"accept": "application/json"}).status_code == 401
