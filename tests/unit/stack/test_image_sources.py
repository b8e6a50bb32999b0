"""An image's digest changes with what runs in it, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tollgate.settings import PROJECT
from tollgate.stack import image_sources


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "containers/trainer/Dockerfile": "FROM scratch",
        "containers/trainer/requirements.txt": "torch==2",
        "containers/trainer/train.py": "def run():\n    from tollgate.training import spec\n",
        "containers/trainer-axolotl/requirements.txt": "axolotl==1",
        "include/tollgate/training/__init__.py": "",
        "include/tollgate/training/spec.py": "import tollgate.errors\nimport json\n",
        "include/tollgate/training/words.toml": "a = 1",
        "include/tollgate/errors.py": "",
        "include/tollgate/registry/cards.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "containers/trainer/Dockerfile",
        "containers/trainer/requirements.txt",
        "containers/trainer/train.py",
        "include/tollgate/training/spec.py",
        "include/tollgate/training/words.toml",
        "include/tollgate/errors.py",
    ],
)
def test_a_change_of_what_runs_in_the_image_is_seen(project: Path, name: str) -> None:
    before = image_sources.digest("trainer", project)
    path = project / name
    path.write_text(path.read_text() + "\n")
    assert image_sources.digest("trainer", project) != before


def test_a_new_or_renamed_file_is_seen(project: Path) -> None:
    before = image_sources.digest("trainer", project)
    program = project / "containers" / "trainer" / "train.py"
    renamed = program.rename(program.with_name("begin.py"))
    assert image_sources.digest("trainer", project) != before
    renamed.rename(program)
    assert image_sources.digest("trainer", project) == before
    (project / "containers" / "trainer" / "backends").mkdir()
    (project / "containers" / "trainer" / "backends" / "trl.py").touch()
    assert image_sources.digest("trainer", project) != before


def test_a_change_elsewhere_makes_no_image_old(project: Path) -> None:
    before = image_sources.digest("trainer", project)
    (project / "include/tollgate/registry/cards.py").write_text("changed")
    (project / "containers/trainer-axolotl/requirements.txt").write_text("axolotl==2")
    cache = project / "containers/trainer/__pycache__"
    cache.mkdir()
    (cache / "train.cpython-311.pyc").write_bytes(b"\0")
    assert image_sources.digest("trainer", project) == before


def test_another_backends_image_has_the_trainers_programs_and_its_own_pins(project: Path) -> None:
    before = image_sources.digest("trainer-axolotl", project)
    (project / "containers/trainer/requirements.txt").write_text("torch==3")
    assert image_sources.digest("trainer-axolotl", project) == before
    (project / "containers/trainer-axolotl/requirements.txt").write_text("axolotl==2")
    changed = image_sources.digest("trainer-axolotl", project)
    assert changed != before
    (project / "containers/trainer/train.py").write_text("")
    assert image_sources.digest("trainer-axolotl", project) not in {before, changed}


def test_missing_sources_are_named(project: Path) -> None:
    with pytest.raises(FileNotFoundError, match="containers/vllm"):
        image_sources.digest("vllm", project)


@pytest.mark.parametrize("image", image_sources.IMAGES)
def test_the_images_own_python_comes_to_the_same_digest(image: str, tmp_path: Path) -> None:
    """Dockerfiles compare it while they build: with the standard library alone, from a copy of the sources."""
    for name in ("include", "containers"):
        (tmp_path / name).symlink_to(PROJECT / name)
    (tmp_path / "tollgate").symlink_to(PROJECT / "include" / "tollgate")
    command = [sys.executable, "-I", "-c", _PRINT, str(PROJECT / "include"), image, str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == image_sources.digest(image)


_PRINT = """
import sys
sys.path.insert(0, sys.argv[1])
before = {name.partition(".")[0] for name in sys.modules}
from pathlib import Path
from tollgate.stack import image_sources
assert {name.partition(".")[0] for name in sys.modules} - before <= {"tollgate", *sys.stdlib_module_names}
print(image_sources.digest(sys.argv[2], Path(sys.argv[3])))
"""
