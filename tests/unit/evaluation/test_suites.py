from __future__ import annotations

import json
from pathlib import Path

import pytest

from tollgate.errors import BadInputError
from tollgate.evaluation import kobest
from tollgate.evaluation.suites import open_suite, read_cases

REAL = Path(__file__).parents[4] / "shared" / "data" / "kobest"


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_a_case_may_be_written_short_or_long(tmp_path: Path) -> None:
    path = write(
        tmp_path / "own.jsonl",
        {"id": 1, "question": "부산 가는 길은?", "expected": "경부선", "category": "노선"},
        {
            "id": "b",
            "messages": [{"role": "system", "content": "짧게"}, {"role": "user", "content": "요금은?"}],
            "expected": [12000, "1만 2천"],
            "scorer": "numeric",
            "options": {"tolerance": 10},
        },
        {"id": "c", "system": "JSON으로", "question": "분류는?", "expected": {"분류": "환불", "긴급": True}},
        {"id": "d", "question": "맞나?", "expected": "예", "choices": ["예", "아니오"], "scorer": "choice"},
    )
    first, second, third, fourth = read_cases(path)
    assert (first.id, first.category, first.expected, [turn.role for turn in first.messages]) == (
        "1",
        "노선",
        "경부선",
        ["user"],
    )
    assert (second.expected, second.alternatives, second.options) == ("12000", ("1만 2천",), {"tolerance": 10})
    assert [turn.role for turn in third.messages] == ["system", "user"]
    assert json.loads(third.expected) == {"분류": "환불", "긴급": True}
    assert fourth.choices == ("예", "아니오")
    whole = tmp_path / "own.json"
    whole.write_text("[" + ",".join(path.read_text(encoding="utf-8").splitlines()) + "]", encoding="utf-8")
    assert read_cases(whole) == [first, second, third, fourth]
    assert open_suite(path).name == "own"


GOOD = {"id": "a", "question": "q", "expected": "x"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"id": "b", "expected": "x"}, "line 2: found dict, expected Value error, either question or messages"),
        ({**GOOD, "id": "b", "messages": [{"role": "user", "content": "q"}]}, "either question or messages"),
        ({"id": "b", "question": "q"}, "line 2, expected: found no value"),
        ({**GOOD, "id": "b", "expected": []}, "line 2, expected: found an empty list"),
        ({**GOOD, "id": "b", "answr": 1}, "line 2, answr"),
        (GOOD, "line 2, id: found 'a', expected an id that no other case has"),
        ({**GOOD, "id": "b", "scorer": "bleu"}, "line 2, scorer: found 'bleu'"),
        ({**GOOD, "id": "b", "scorer": "numeric"}, "line 2, expected: found the right answer must hold one number"),
        ({**GOOD, "id": "b", "scorer": "numeric", "options": {"tol": 1}}, "line 2, scorer: found 'tol'"),
        (
            {**GOOD, "id": "b", "scorer": "choice", "choices": ["y", "z"]},
            "line 2, expected: found an answer that is none",
        ),
        (
            {**GOOD, "id": "b", "scorer": "json_exact"},
            "line 2, expected: found an answer that its own scorer calls wrong",
        ),
        ({"id": "b", "expected": "x", "messages": [{"role": "assistant", "content": "q"}]}, "last of messages"),
        ({"id": "b", "expected": "x", "messages": [{"role": "bot", "content": "q"}]}, "line 2, messages.0.role"),
        ("{", "line 2: found a line that is no JSON"),
        ("[1]", "line 2"),
    ],
)
def test_what_is_wrong_with_a_case_is_named_by_line_and_field(tmp_path: Path, line: object, said: str) -> None:
    path = write(tmp_path / "own.jsonl", GOOD, line)
    with pytest.raises(BadInputError) as refused:
        read_cases(path)
    assert said in str(refused.value)
    assert "own.jsonl" in str(refused.value)


def test_many_faults_are_told_at_once_and_an_empty_file_too(tmp_path: Path) -> None:
    lines = [{"id": str(number)} for number in range(30)]
    with pytest.raises(BadInputError, match=r"faulty cases \(\d+ more problems are not shown\)"):
        read_cases(write(tmp_path / "own.jsonl", *lines))
    with pytest.raises(BadInputError, match="is empty"):
        read_cases(write(tmp_path / "empty.jsonl", ""))
    with pytest.raises(BadInputError, match="item 1, expected"):
        read_cases(write(tmp_path / "own.json", '[{"id": "a", "question": "q"}]'))
    with pytest.raises(BadInputError, match="line 2: found broken JSON"):
        read_cases(write(tmp_path / "torn.json", '[{"id": "a",', '"question" "q"}]'))
    with pytest.raises(BadInputError, match="no such suite"):
        open_suite(tmp_path)


def kobest_folder(folder: Path) -> Path:
    rows = {
        "BoolQ": ["ID\tText\tQuestion\tAnswer", '1\t"콜라"는 음료다.\t음료인가?\tTrue', "2\t물이다.\t술인가?\tFalse"],
        "COPA": ["ID\tsentence\tquestion\t1\t2\tAnswer", "1\t비가 왔다.\t결과\t젖었다.\t말랐다.\t1"],
        "SentiNeg": ["ID\tLabel_origin\tText_origin\tLabel\tText\tCategory_neg", "1\t1\t좋음\t0\t안 좋음\t1"],
    }
    for name, lines in rows.items():
        (folder / name).mkdir(parents=True)
        write(folder / name / "test.tsv", *lines)
    return folder


def test_kobest_is_read_from_its_own_files(tmp_path: Path) -> None:
    suite = open_suite(kobest_folder(tmp_path), "likelihood")
    assert [(case.id, case.expected, case.choices) for case in suite.cases] == [
        ("BoolQ-1", "예", ("아니오", "예")),
        ("BoolQ-2", "아니오", ("아니오", "예")),
        ("COPA-1", "젖었다.", ("젖었다.", "말랐다.")),
        ("SentiNeg-1", "부정", ("부정", "긍정")),
    ]
    assert suite.cases[0].messages[0].content == '"콜라"는 음료다. 질문: 음료인가? 답변: '
    assert suite.way == "likelihood"
    [asked] = kobest.read_tasks(tmp_path, ["COPA"], "generate")
    assert asked.messages[0].content.endswith("- 젖었다.\n- 말랐다.")
    assert asked.scorer == "choice"


def test_what_is_no_kobest_is_named(tmp_path: Path) -> None:
    folder = kobest_folder(tmp_path)
    with pytest.raises(BadInputError, match="'Boolq', expected one of BoolQ, COPA"):
        kobest.read_tasks(folder, ["Boolq"])
    write(
        folder / "COPA" / "test.tsv", "ID\tsentence\tquestion\t1\t2\tAnswer", "1\t비가 왔다.\t이유\t젖었다.\t말랐다.\t1"
    )
    with pytest.raises(BadInputError, match=r"test.tsv, line 2: found KeyError"):
        kobest.read_tasks(folder, ["COPA"])
    write(folder / "COPA" / "test.tsv", "ID\tsentence")
    with pytest.raises(BadInputError, match="no column question"):
        kobest.read_tasks(folder, ["COPA"])


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason="the data folder beside the project is not there")
def test_the_published_files_have_their_published_sizes() -> None:
    found = open_suite(REAL, "likelihood").cases
    counts = {name: sum(case.category == name for case in found) for name in kobest.TASKS}
    assert counts == {"BoolQ": 1404, "COPA": 1000, "HellaSwag": 500, "SentiNeg": 397, "WiC": 1260}
