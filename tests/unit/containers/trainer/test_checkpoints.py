"""How checkpoints get their names and leave, whatever is killed when."""

from __future__ import annotations

from pathlib import Path

from tests.unit.training.example_checkpoint import write_checkpoint

from tollgate.training.checkpoint_files import deleted_checkpoints
from trainer.checkpoints import WRITING, publish, recover, rotate, starting_checkpoint


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_a_checkpoint_killed_before_its_renaming_is_whole_and_counts(tmp_path: Path) -> None:
    own = tmp_path / "checkpoints"
    old = write_checkpoint(own, 10)
    write_checkpoint(own / WRITING, 20)
    assert starting_checkpoint(tmp_path, "last") == own / "checkpoint-20"
    assert not (own / WRITING).exists()
    half = write_checkpoint(own / WRITING, 30)
    (half / "optimizer.pt").write_bytes(b"")
    assert starting_checkpoint(tmp_path, "last") == own / "checkpoint-20"
    assert names(own) == ["checkpoint-10", "checkpoint-20"]
    assert old.exists()


def test_one_of_the_same_name_is_replaced_and_lives_on_if_that_is_cut(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 10, mark="old")
    new = write_checkpoint(tmp_path / WRITING, 10, mark="new")
    publish(new, tmp_path / "checkpoint-10")
    assert "new" in (tmp_path / "checkpoint-10" / "resume_state.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    # Killed between the two renamings: the old one is out of the way, the new one not in place.
    (tmp_path / WRITING).mkdir()
    (tmp_path / "checkpoint-10").rename(tmp_path / WRITING / "replaced-checkpoint-10")
    write_checkpoint(tmp_path / WRITING, 10, mark="newest")
    recover(tmp_path)
    assert "newest" in (tmp_path / "checkpoint-10" / "resume_state.json").read_text()


def test_half_ones_do_not_count_as_kept_and_the_best_one_stays(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-5" / "optimizer.pt").unlink()
    rotate(tmp_path, kept=2, protected=[1])
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]
    rotate(tmp_path, kept=1)
    assert names(tmp_path) == ["checkpoint-4"]


def test_a_job_begins_at_a_named_one_once(tmp_path: Path) -> None:
    own = tmp_path / "checkpoints"
    for step in (10, 20, 30):
        write_checkpoint(own, step)
    assert starting_checkpoint(tmp_path, "checkpoint-10") == own / "checkpoint-10"
    assert names(own) == ["checkpoint-10"]
    assert names(tmp_path / "earlier" / "checkpoints-0") == ["checkpoint-20", "checkpoint-30"]
    write_checkpoint(own, 15)
    assert starting_checkpoint(tmp_path, "checkpoint-10") == own / "checkpoint-15", "a second attempt goes on"
    assert starting_checkpoint(tmp_path, "none") is None
    assert names(own) == []
    write_checkpoint(own, 5)
    assert starting_checkpoint(tmp_path, "none") == own / "checkpoint-5"


def test_an_inherited_one_counts_until_the_job_has_its_own(tmp_path: Path) -> None:
    taken = write_checkpoint(tmp_path / "inherited", 500)
    assert starting_checkpoint(tmp_path, "last") == taken
    assert starting_checkpoint(tmp_path, "checkpoint-500") == taken
    assert starting_checkpoint(tmp_path, "checkpoint-500") == taken, "killed before it saved one of its own"
    own = write_checkpoint(tmp_path / "checkpoints", 600)
    assert starting_checkpoint(tmp_path, "last") == own
    assert starting_checkpoint(tmp_path, "checkpoint-500") == own


def test_a_whole_one_that_is_deleted_leaves_its_description(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 10)
    half = write_checkpoint(tmp_path, 20)
    (half / "optimizer.pt").unlink()
    write_checkpoint(tmp_path, 30)
    rotate(tmp_path, kept=1)
    assert names(tmp_path) == ["checkpoint-30"]
    assert [one["step"] for one in deleted_checkpoints(tmp_path)] == [10]
