"""Half a checkpoint is never taken for a whole one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.training.example_checkpoint import write_checkpoint

from tollgate.errors import BadInputError
from tollgate.training.checkpoint_files import MANIFEST, find_checkpoint, is_whole, step_of, whole_checkpoints


def test_a_checkpoint_is_whole_as_long_as_all_its_files_are(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 10)
    assert is_whole(checkpoint)
    for name in ("adapter_model.safetensors", "optimizer.pt", "trainer_state.json"):
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content[:-1])
        assert not is_whole(checkpoint), f"{name} is cut off"
        (checkpoint / name).unlink()
        assert not is_whole(checkpoint), f"{name} is missing"
        (checkpoint / name).write_bytes(content)
        assert is_whole(checkpoint)
    for text in ("", "{", "[]", '{"step": 10}', '{"step": 10, "files": {}}'):
        (checkpoint / MANIFEST).write_text(text)
        assert not is_whole(checkpoint), text


def test_a_manifest_belongs_to_its_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 10).rename(tmp_path / "checkpoint-20")
    assert not is_whole(tmp_path / "checkpoint-20")


def test_a_checkpoint_of_an_older_trainer_counts_by_the_state_that_it_wrote_last(tmp_path: Path) -> None:
    old = write_checkpoint(tmp_path, 10, manifest=False)
    assert is_whole(old)
    (old / "trainer_state.json").write_text('{"global_step": 1')
    assert not is_whole(old)
    (old / "trainer_state.json").write_text('{"global_step": 9}')
    assert not is_whole(old)


@pytest.mark.parametrize("name", ["checkpoint-", "checkpoint-x", "checkpoint-1.partial", ".writing", "5"])
def test_other_names_are_no_checkpoints(tmp_path: Path, name: str) -> None:
    assert step_of(tmp_path / name) is None
    assert not is_whole(tmp_path / name)


def test_the_last_one_is_the_newest_whole_one_of_the_first_folder_that_has_any(tmp_path: Path) -> None:
    own, inherited = tmp_path / "own", tmp_path / "inherited"
    assert find_checkpoint([own, inherited], "last") is None
    taken = write_checkpoint(inherited, 500)
    assert find_checkpoint([own, inherited], "last") == taken
    two, ten, half = (write_checkpoint(own, step) for step in (2, 10, 11))
    (half / "optimizer.pt").unlink()
    assert whole_checkpoints(own) == [two, ten]
    assert find_checkpoint([own, inherited], "last") == ten
    assert find_checkpoint([own, inherited], "none") is None
    assert find_checkpoint([own, inherited], "checkpoint-500") == taken


def test_a_name_that_cannot_be_gone_on_from_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no whole checkpoint is there"):
        find_checkpoint([tmp_path], "checkpoint-3")
    write_checkpoint(tmp_path, 10)
    write_checkpoint(tmp_path, 9)
    half = write_checkpoint(tmp_path, 11)
    state = json.loads((half / MANIFEST).read_text())
    (half / MANIFEST).write_text(json.dumps({**state, "step": 12}))
    with pytest.raises(
        BadInputError, match="checkpoint-11, which is not whole, expected one of checkpoint-9, checkpoint-10"
    ):
        find_checkpoint([tmp_path], "checkpoint-11")
    with pytest.raises(BadInputError, match="checkpoint-3, which is not there"):
        find_checkpoint([tmp_path], "checkpoint-3")
