"""What becomes of a job folder when its training begins anew."""

from __future__ import annotations

from pathlib import Path

from jobs.job_folder import JobFolder


def test_what_was_merged_goes_aside_with_the_training_that_it_is_of(tmp_path: Path) -> None:
    for name in ("adapter", "model", "merging"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "merging" / "result.json").write_text("{}")
    (tmp_path / "spec.json").write_text("{}")
    (tmp_path / "result.json").write_text("{}")
    JobFolder(tmp_path).prepare_for_submission()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier", "spec.json"]
    (earlier,) = (tmp_path / "earlier").iterdir()
    assert (earlier / "merging" / "result.json").is_file()
    assert (earlier / "model" / "file").is_file()
