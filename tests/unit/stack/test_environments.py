from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path

import pytest

from tollgate.stack import environments
from tollgate.stack.environments import Environment, RequirementSet, SetUpError

SMALL = Environment(
    "small",
    "a test",
    ".venv-small",
    (RequirementSet(("one.txt", "two.txt")), RequirementSet(("three.txt",), hashed=True)),
)


class RecordingInstaller:
    """Makes folders instead of environments, and can break off."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.calls: list[Sequence[str]] = []
        self.created = 0
        self._fails_at = fails_at

    def create(self, folder: Path) -> None:
        self.created += 1
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()

    def install(self, folder: Path, arguments: Sequence[str]) -> None:
        if len(self.calls) == self._fails_at:
            raise SetUpError("network away")
        self.calls.append(arguments)
        (folder / f"installed-{len(self.calls)}").touch()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("one.txt", "two.txt", "three.txt", "pyproject.toml"):
        (tmp_path / name).write_text(f"{name}==1\n", encoding="utf-8")
    return tmp_path


def test_installs_files_then_hashed_files_then_the_project_and_then_nothing(project: Path) -> None:
    installer = RecordingInstaller()
    assert not environments.is_complete(SMALL, project)
    environments.make(SMALL, installer, project)
    assert installer.calls == [
        ["-r", str(project / "one.txt"), "-r", str(project / "two.txt")],
        ["--require-hashes", "-r", str(project / "three.txt")],
        ["--editable", str(project)],
    ]
    assert environments.is_complete(SMALL, project)


def test_a_changed_pin_is_installed_into_the_same_environment(project: Path) -> None:
    environments.make(SMALL, RecordingInstaller(), project)
    (project / "two.txt").write_text("two.txt==2\n", encoding="utf-8")
    assert not environments.is_complete(SMALL, project)
    again = RecordingInstaller()
    environments.make(SMALL, again, project)
    assert again.created == 0
    assert environments.is_complete(SMALL, project)


def test_an_interrupted_set_up_starts_afresh(project: Path) -> None:
    with pytest.raises(SetUpError, match="network away"):
        environments.make(SMALL, RecordingInstaller(fails_at=1), project)
    assert not environments.is_complete(SMALL, project)
    again = RecordingInstaller()
    environments.make(SMALL, again, project)
    assert again.created == 1
    assert len(again.calls) == 3
    assert environments.is_complete(SMALL, project)


def test_an_environment_of_another_place_or_without_its_python_is_made_anew(project: Path) -> None:
    environments.make(SMALL, RecordingInstaller(), project)
    folder = project / SMALL.folder
    (folder / "bin" / "tollgate").write_text("#!/somewhere/else/bin/python\n", encoding="utf-8")
    (folder / environments.STAMP).write_text("of elsewhere", encoding="utf-8")
    again = RecordingInstaller()
    environments.make(SMALL, again, project)
    assert again.created == 1
    (folder / "bin" / "python").unlink()
    assert not environments.is_complete(SMALL, project)


def test_pip_settings_are_merged_and_translated_for_uv() -> None:
    listing = "\n".join(
        [
            ":env:.cert='/etc/ca.crt'",
            "global.extra-index-url='https://a/simple\\nhttps://b/simple'",
            "global.find-links='/from-file'",
            "install.index-url='https://mirror/simple'",
            ":env:.find-links='/wheels /more'",
        ]
    )
    settings = environments.pip_settings(listing)
    assert settings["find-links"] == "/wheels /more"
    translated = environments.uv_environment(settings, {"PATH": "/bin", "UV_DEFAULT_INDEX": "https://own/simple"})
    assert translated["UV_FIND_LINKS"] == "/wheels,/more"
    assert translated["UV_INDEX"] == "https://a/simple https://b/simple"
    assert translated["UV_DEFAULT_INDEX"] == "https://own/simple"
    assert translated["SSL_CERT_FILE"] == "/etc/ca.crt"
    assert translated["PATH"] == "/bin"
    assert "UV_INDEX" not in environments.uv_environment({}, {})


def test_torch_is_expected_in_find_links_only_where_it_can_be(tmp_path: Path) -> None:
    assert not environments.offers_torch("")
    assert not environments.offers_torch(str(tmp_path))
    assert environments.offers_torch(f"{tmp_path},https://mirror/wheels")
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    assert environments.offers_torch(str(tmp_path))


def test_pip_alone_says_what_it_needs_for_torch(tmp_path: Path) -> None:
    installer = environments.PipInstaller({}, {})
    with pytest.raises(SetUpError, match="PIP_EXTRA_INDEX_URL"):
        installer.install(tmp_path, ["-r", "containers/trainer/requirements.txt"])


def test_everything_missing_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 10**9))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.17"))
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    needy = Environment("needy", "", ".x", (), (("libnothing-like-it.so.9", "libnothing9"),))
    with pytest.raises(SetUpError) as caught:
        environments.check_machine([needy], tmp_path)
    text = str(caught.value)
    for part in (
        "python3.11",
        "glibc 2.28",
        "apt-get install libnothing9",
        "apt-get install python3.11-venv",
        "0.9 GB",
    ):
        assert part in text


def test_the_real_lists_exist_and_need_only_the_standard_library() -> None:
    for environment in environments.ENVIRONMENTS:
        for step in environment.steps:
            assert all((environments.PROJECT / name).is_file() for name in step.files)
    command = [sys.executable, "-I", "-S", environments.__file__, "--help"]
    assert "--only" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
