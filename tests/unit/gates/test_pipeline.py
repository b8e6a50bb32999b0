"""All gates in their order on a source with known faults: they take exactly these, and say so."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from tests.unit.gates.conftest import PLANTED, clean_rows, row, write

from tollgate.dataset import versions
from tollgate.errors import BadInputError, GateRefusedError, TollgateError
from tollgate.gates import dedup, pipeline, workfolder
from tollgate.gates.gate_settings import GateSettings
from tollgate.gates.results import ConservationError, Stage, StageResult, summarise
from tollgate.gates.steps.personal_data import MaskingAhead

WORDS = (
    "아침부터 전혀",
    "어제 저녁에도",
    "비가 와서",
    "나무에 가려",
    "불이 꺼져",
    "글씨가 작아",
    "먼지 때문에",
    "공사로",
)
SECRETS = ("홍길동", "123456-1234567", "4111-1111", "010-1234-5678", "a.b@example", "김민수")


def test_the_gates_take_exactly_what_was_planted(faulty_source: Path, tmp_path: Path) -> None:
    seen: list[tuple[Stage, bool]] = []
    version = pipeline.prepare(
        "calls",
        faulty_source,
        progress=lambda stage, result: seen.append((stage, bool(result))),
        root=tmp_path / "root",
    )
    counts = version.manifest.counts
    assert {**counts["dropped"], "leak": 0} == PLANTED["dropped"]
    assert counts["masked"] == PLANTED["masked"]
    assert (counts["rows_in"], counts["quarantined"], counts["rows_kept"]) == (48, 2, 42)
    assert counts["splits"] == {"train": 34, "validation": 4, "test": 4}
    assert seen[:2] == [("ingest", False), ("ingest", True)]
    assert seen[-1] == ("contract", True)
    quarantine = [json.loads(line) for line in (version.folder / "quarantine.jsonl").read_text().splitlines()]
    assert [(one["line"], one["field"]) for one in quarantine] == [(47, "messages[0]"), (48, "")]
    assert json.loads((version.folder / "contract.json").read_text())["passed"]
    assert (version.folder / "data_docs" / "index.html").is_file()
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["calls"]


def test_no_personal_value_is_written_anywhere(faulty_source: Path, tmp_path: Path) -> None:
    version = pipeline.prepare("calls", faulty_source, root=tmp_path / "root")
    for path in version.folder.rglob("*"):
        if path.suffix == ".parquet":
            text = json.dumps(pl.read_parquet(path).to_dicts(), ensure_ascii=False)
        elif path.suffix in {".json", ".jsonl", ".html"}:
            text = path.read_text(encoding="utf-8")
        else:
            continue
        assert [secret for secret in SECRETS if secret in text] == [], path


def test_the_same_again_is_the_same_version(faulty_source: Path, tmp_path: Path) -> None:
    first = pipeline.prepare("calls", faulty_source, root=tmp_path / "root")
    again = pipeline.prepare("calls", faulty_source, root=tmp_path / "root")
    other = pipeline.prepare("calls", faulty_source, GateSettings(seed=1), root=tmp_path / "root")
    assert (again.reference, again.created) == ("calls@v1", False)
    assert again.manifest == first.manifest
    assert other.reference == "calls@v2"


def test_every_step_can_be_run_again(faulty_source: Path, tmp_path: Path) -> None:
    settings, workdir = GateSettings(), tmp_path / "work"
    assert pipeline.ingest(faulty_source, workdir, settings) == pipeline.ingest(faulty_source, workdir, settings)
    for step in pipeline.STEPS.values():
        assert step(workdir, settings) == step(workdir, settings)
    written = pipeline.write_version("calls", workdir, settings, tmp_path / "root")
    again = pipeline.write_version("calls", workdir, settings, tmp_path / "root")
    chained = pipeline.prepare("calls", faulty_source, settings, root=tmp_path / "root")
    assert written.folder == again.folder == chained.folder
    assert workdir.stat().st_mode & 0o077 == 0


def test_a_step_out_of_turn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TollgateError, match="contamination has not run"):
        pipeline.split_rows(tmp_path, GateSettings())


def test_report_modes_take_nothing(faulty_source: Path, tmp_path: Path) -> None:
    settings = GateSettings(
        personal_data="report", duplicates="report", quality="report", toxicity="report", declared_split="ignore"
    )
    version = pipeline.prepare("calls", faulty_source, settings, root=tmp_path / "root")
    counts = version.manifest.counts
    assert (counts["rows_kept"], counts["dropped"], counts["masked"]) == (46, {}, {})
    found = {stage["stage"]: stage["details"].get("found") for stage in version.report()["stages"]}
    assert found["personal_data"] == PLANTED["masked"]
    assert found["duplicates"] == {"exact_duplicate": 1, "near_duplicate": 1}
    assert found["quality"] == {"toxic": 1, "low_quality": 1}
    assert not any(secret in json.dumps(version.report(), ensure_ascii=False) for secret in SECRETS)


def test_drop_mode_drops_rows_with_personal_data(faulty_source: Path, tmp_path: Path) -> None:
    version = pipeline.prepare("calls", faulty_source, GateSettings(personal_data="drop"), root=tmp_path / "root")
    assert version.manifest.counts["dropped"]["personal_data"] == 2
    assert version.manifest.counts["masked"] == {}


def test_declared_parts_are_honoured_and_leaks_dropped(tmp_path: Path) -> None:
    rows = clean_rows()
    for number, one in enumerate(rows):
        one["metadata"]["split"] = "test" if number < 5 else "validation" if number < 10 else "train"
    tested = rows[0]["messages"][0]["content"]
    rows.append(row(tested + "!", "포트홀신고", split="train"))  # a near duplicate: the one in the test stays
    rows.append(row(tested + "?", "휴게소불편", split="train"))  # another answer: no duplicate, but a leak
    version = pipeline.prepare("calls", write(tmp_path / "rows.jsonl", rows), root=tmp_path / "root")
    assert version.rows == {"train": 30, "validation": 5, "test": 5}
    assert version.manifest.counts["dropped"] == {"near_duplicate": 1, "leak": 1}
    assert tested in [chat[0]["content"] for chat in version.read("test")["messages"].to_list()]
    anew = pipeline.prepare(
        "calls", tmp_path / "rows.jsonl", GateSettings(declared_split="ignore"), root=tmp_path / "root"
    )
    assert anew.rows != version.rows


def test_too_many_broken_rows_are_refused_by_name(faulty_source: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="2 of 48 rows can't be used") as caught:
        pipeline.prepare("calls", faulty_source, GateSettings(max_broken_share=0.01), root=tmp_path / "root")
    assert f"{faulty_source}, line 47, messages[0]" in str(caught.value)
    assert list((tmp_path / "root").iterdir()) == []


def test_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="holds no rows"):
        pipeline.prepare("calls", write(tmp_path / "rows.jsonl", ["", " "]), root=tmp_path / "root")


def test_a_contract_that_is_not_met_leaves_no_version(clean_source: Path, tmp_path: Path) -> None:
    with pytest.raises(GateRefusedError, match=r"at least 50 rows: 40 \(rows\)"):
        pipeline.prepare("calls", clean_source, GateSettings(min_rows=50), root=tmp_path / "root")
    assert versions.list_versions("calls", tmp_path / "root") == []


def test_nothing_left_is_refused_too(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [row(f"병신아 {number}번", "하이패스") for number in range(3)])
    with pytest.raises(GateRefusedError, match="at least 10 rows: 0"):
        pipeline.prepare("calls", source, root=tmp_path / "root")


def test_a_lost_row_is_a_fault() -> None:
    with pytest.raises(ConservationError, match="5 rows in, but 4 accounted for"):
        StageResult(stage="quality", rows_in=5, rows_kept=3, dropped={"toxic": 1})
    steps = [StageResult(stage="ingest", rows_in=5, rows_kept=5), StageResult(stage="split", rows_in=4, rows_kept=4)]
    with pytest.raises(ConservationError, match="ingest left 5 rows, split got 4"):
        summarise(steps)


def test_clusters_survive_to_the_version(clean_source: Path, tmp_path: Path) -> None:
    version = pipeline.prepare("calls", clean_source, root=tmp_path / "root")
    clusters = {part: set(version.read(part)["cluster"]) for part in ("train", "validation", "test")}
    assert not clusters["train"] & clusters["test"]
    assert sum(map(len, clusters.values())) == 40
    questions = [chat[0]["content"] for chat in version.read("train")["messages"].to_list()]
    assert max(dedup.jaccard(one, other) for one in questions for other in questions if one != other) < 0.8


def test_deleting_rows_leaves_results(faulty_source: Path, tmp_path: Path) -> None:
    pipeline.ingest(faulty_source, tmp_path / "work", GateSettings())
    workfolder.delete_rows(tmp_path / "work")
    assert workfolder.read_result(tmp_path / "work", "ingest").quarantined == 2
    assert list((tmp_path / "work").glob("*.arrow")) == []


def test_rows_of_an_earlier_version_are_duplicates(clean_source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    pipeline.prepare("calls", clean_source, root=root)
    rows = clean_rows()
    rows[0]["messages"][0]["content"] += "!"
    fresh = [row(f"{number}번 출구의 안내판이 {word} 보이지 않습니다", "기타") for number, word in enumerate(WORDS)]
    source = write(tmp_path / "more.jsonl", rows[:5] + fresh)
    settings = GateSettings(against=("calls@latest",), min_rows=5)
    version = pipeline.prepare("more", source, settings, root=root)
    assert version.manifest.counts["dropped"] == {"earlier_duplicate": 5}
    stages = {stage["stage"]: stage["details"] for stage in version.report()["stages"]}
    assert stages["ingest"]["versions"]["calls@latest"]["reference"] == "calls@v1"
    assert {sample["version"] for sample in stages["duplicates"]["earlier_samples"]} == {"calls@v1"}
    with pytest.raises(BadInputError, match="no such dataset"):
        pipeline.prepare("more", source, GateSettings(against=("none@v1",)), root=root)


def test_rows_that_overlap_with_a_test_set_leave_training(clean_source: Path, tmp_path: Path) -> None:
    asked = [one["messages"][0]["content"] for one in clean_rows()[:4]]
    tests = write(tmp_path / "cases.jsonl", [row(f"{text} 꼭", "기타") for text in asked])
    settings = GateSettings(contamination_tests=(str(tests),))
    version = pipeline.prepare("calls", clean_source, settings, root=tmp_path / "root")
    assert version.manifest.counts["dropped"] == {"contamination": 4}
    assert version.rows == {"train": 28, "validation": 4, "test": 4}
    lenient = GateSettings(contamination_tests=(str(tests),), contamination="report")
    assert pipeline.prepare("calls", clean_source, lenient, root=tmp_path / "root").manifest.counts["dropped"] == {}
    with pytest.raises(BadInputError, match="can't be read"):
        pipeline.prepare("calls", clean_source, GateSettings(contamination_tests=("none.tsv",)), root=tmp_path / "root")


def test_the_declared_test_part_may_be_the_test_set(tmp_path: Path) -> None:
    rows = clean_rows()
    for number, one in enumerate(rows):
        one["metadata"]["split"] = "test" if number < 5 else "validation" if number < 10 else "train"
    tests = write(tmp_path / "cases.jsonl", rows[3:12])
    source = write(tmp_path / "rows.jsonl", rows)
    settings = GateSettings(contamination_tests=(str(tests),))
    version = pipeline.prepare("calls", source, settings, root=tmp_path / "root")
    assert version.rows == {"train": 28, "validation": 5, "test": 5}
    assert version.manifest.counts["dropped"] == {"contamination": 2}


def test_categories_that_drifted_are_refused(clean_source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    pipeline.prepare("calls", clean_source, root=root)
    less = [one for number, one in enumerate(clean_rows()) if one["metadata"]["category"] == "포트홀신고" or number < 8]
    source = write(tmp_path / "less.jsonl", less)
    with pytest.raises(GateRefusedError, match="category_drift"):
        pipeline.prepare("calls", source, GateSettings(category_reference="calls@v1"), root=root)
    with pytest.raises(GateRefusedError, match=r"at least 30\.0% of the rows are 휴게소불편"):
        pipeline.prepare("calls", source, GateSettings(min_category_shares={"휴게소불편": 0.3}), root=root)


def test_columns_with_names_of_their_own(tmp_path: Path) -> None:
    lines = ["문의,처리,종류"] + [
        f"{one['messages'][0]['content']},담당 부서에 전달했습니다,기타" for one in clean_rows()
    ]
    source = tmp_path / "rows.csv"
    source.write_text("\n".join(lines), encoding="cp949")
    fields = {"question": "문의", "answer": "처리", "category": "종류"}
    version = pipeline.prepare("calls", source, GateSettings.model_validate({"fields": fields}), root=tmp_path / "root")
    assert set(version.read("train")["category"]) == {"기타"}
    assert sum(version.rows.values()) == 40


def test_a_long_answer_is_refused(tmp_path: Path) -> None:
    rows = [*clean_rows(), row("긴 답을 듣고 싶습니다", "기타")]
    rows[-1]["messages"][1]["content"] = " ".join(f"{number}번째 문장은 이렇게 끝납니다." for number in range(50))
    with pytest.raises(GateRefusedError, match="answers of at most 300 characters: 1"):
        settings = GateSettings(max_answer_characters=300, quality="report")
        pipeline.prepare("calls", write(tmp_path / "rows.jsonl", rows), settings, root=tmp_path / "root")


def test_system_messages_and_categories_are_masked_too(tmp_path: Path) -> None:
    rows = clean_rows()
    for number, one in enumerate(rows):
        one["messages"].insert(0, {"role": "system", "content": f"담당자 번호는 010-1234-567{number % 2}입니다."})
    rows[3]["metadata"]["category"] = "a.b@example.co.kr"
    version = pipeline.prepare("calls", write(tmp_path / "rows.jsonl", rows), root=tmp_path / "root")
    assert version.manifest.counts["masked"] == {"phone": 40, "email": 1}
    whole = pl.concat([version.read(part) for part in ("train", "validation", "test")])
    assert {messages[0]["content"] for messages in whole["messages"].to_list()} == {"담당자 번호는 [전화번호]입니다."}
    assert whole["category"].to_list().count("[이메일]") == 1
    named = GateSettings(personal_data_pseudonyms=True)
    version = pipeline.prepare("calls", tmp_path / "rows.jsonl", named, root=tmp_path / "root")
    assert version.read("test")["messages"][0][0]["content"] == "담당자 번호는 [전화번호1]입니다."


def test_a_large_source_is_masked_while_it_is_read(
    faulty_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = pipeline.prepare("small", faulty_source, root=tmp_path / "root")
    monkeypatch.setattr(pipeline, "_LARGE", 1)
    written_as_read: list[Path] = []

    def look(workdir: Path, settings: GateSettings) -> StageResult:
        written_as_read.extend(workdir.glob("ingest.arrow*"))
        return pipeline.drop_duplicates(workdir, settings)

    monkeypatch.setitem(pipeline.STEPS, "duplicates", look)
    large = pipeline.prepare("large", faulty_source, root=tmp_path / "root")
    assert large.manifest.content_hash == small.manifest.content_hash
    assert large.report()["stages"] == small.report()["stages"]
    assert not written_as_read
    with pytest.raises(BadInputError, match="2 of 48 rows can't be used"):
        pipeline.prepare("large", faulty_source, GateSettings(max_broken_share=0.01), root=tmp_path / "root")


def test_masking_ahead_tells_its_error(faulty_source: Path, tmp_path: Path) -> None:
    workdir, settings = tmp_path / "work", GateSettings()
    workfolder.make(workdir)
    (workdir / "personal_data.arrow.writing").mkdir()  # the thread can't write
    with pytest.raises(OSError, match="personal_data"), MaskingAhead(workdir, settings) as ahead:
        for _ in range(5):
            pipeline.ingest(faulty_source, workdir, settings, to=ahead.put)


def test_a_row_is_dropped_for_what_rows_are_dropped_for(tmp_path: Path) -> None:
    rows = [*clean_rows(), row("병신ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ", "하이패스")]
    source = write(tmp_path / "rows.jsonl", rows)
    for changed, dropped in (
        ({}, {"low_quality": 1}),
        ({"quality": "report"}, {"toxic": 1}),
        ({"toxicity": "report"}, {"low_quality": 1}),
        ({"toxicity": "report", "quality": "report"}, {}),
    ):
        settings = GateSettings.model_validate({"bias": "off", **changed})
        version = pipeline.prepare("calls", source, settings, root=tmp_path / "root")
        assert version.manifest.counts["dropped"] == dropped


def test_offensive_rows_may_stay_where_only_hateful_ones_count(tmp_path: Path) -> None:
    rows = [*clean_rows(), row("연기 진짜 못하네", "하이패스"), row("병신 같은 직원", "하이패스")]
    source = write(tmp_path / "rows.jsonl", rows)
    for toxic_from, dropped in (("offensive", 2), ("hate", 1)):
        settings = GateSettings.model_validate({"quality": "report", "toxic_from": toxic_from})
        version = pipeline.prepare("calls", source, settings, root=tmp_path / "root")
        assert version.manifest.counts["dropped"] == {"toxic": dropped}


_PREPARE_AND_END = """
import atexit, gc, sys
from pathlib import Path
atexit.register(lambda: print(gc.get_freeze_count()))  # the first to be registered is the last to be called
from tollgate.gates import pipeline
pipeline.prepare("calls", Path(sys.argv[1]), root=Path(sys.argv[2]))
"""


def test_a_process_that_prepared_a_dataset_looks_for_no_garbage_at_its_end(faulty_source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PREPARE_AND_END, str(faulty_source), str(tmp_path / "root")]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert int(ended.stdout) > 10_000


def test_what_a_killed_run_left_is_deleted_and_a_living_run_is_left_alone(faulty_source: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tollgate.gates import workfolder\n"
        "with workfolder.temporary(Path(sys.argv[1])) as workdir:\n"
        "    (workdir / 'ingest.arrow').write_text('010-1234-5678')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".preparing-*")
    with workfolder.temporary(tmp_path) as living:
        assert not left.exists()
        pipeline.prepare("calls", faulty_source, root=tmp_path)
        assert living.is_dir()
    assert not living.exists()
    assert list(tmp_path.glob(".preparing-*")) == []
