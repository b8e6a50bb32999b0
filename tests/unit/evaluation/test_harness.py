"""KoBEST through lm-evaluation-harness: the real harness against a server whose log probabilities are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from tests.unit.evaluation.completions_server import CompletionsServer, tokens_of, write_tokenizer
from tests.unit.evaluation.kobest_files import ROWS, write_kobest
from typer.testing import CliRunner

from tollgate.errors import BadInputError, ServiceUnavailableError
from tollgate.evaluation import kobest
from tollgate.evaluation.evaluate_commands import evaluate_command
from tollgate.evaluation.harness import check_tokenizer, read_outcome, run_harness
from tollgate.evaluation.harness_server import DEFAULT_LENGTH, look_at_server
from tollgate.evaluation.suite_run import Asking
from tollgate.settings import settings

ANSWERS = {
    "BoolQ-1": "예",
    "BoolQ-2": "예",
    "BoolQ-3": "예",
    "COPA-1": "예예예예.",
    "COPA-2": "예예예",
    "HellaSwag-1": "예예",
    "SentiNeg-1": "부정",
    "WiC-1": "예",
}
"""What is likeliest: most bytes of 예, or, of two texts as long without any, the first."""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_kobest(tmp_path / "kobest")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CompletionsServer]:
    with CompletionsServer(write_tokenizer(tmp_path / "model")) as running:
        yield running


@pytest.fixture
def installed() -> Path:
    python = settings().harness_python
    if not python.exists():
        pytest.skip(f"lm-evaluation-harness is not there ({python}); make it with: make setup")
    return python


@pytest.fixture
def not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that looks as if it had the harness, for what is refused before it would start."""
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").touch()
    package = tmp_path / "env" / "lib" / "python3.11" / "site-packages" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setenv("TOLLGATE_HARNESS_PYTHON", str(tmp_path / "env" / "bin" / "python"))


def asking(server: CompletionsServer, **options: object) -> Asking:
    return Asking.model_validate({"server": server.address, "model": "m", "concurrency": 2, **options})


class Killed(Exception):
    pass


def kill_after(count: int):
    def on_progress(answered: int, total: int) -> None:
        if answered >= count:
            raise Killed

    return on_progress


def test_the_harness_asks_with_the_template_and_goes_on_where_it_was_killed(
    installed: Path, suite: Path, server: CompletionsServer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Killed):
        run_harness(suite, asking(server), out, on_progress=kill_after(10))
    before = server.asked.copy()
    seen: list[tuple[int, int]] = []
    outcome = run_harness(suite, asking(server, api_key="secret"), out, on_progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (18, 18), "seven questions of two choices and one of four"
    assert seen[0][0] > 0, "what the killed run knew counts"
    again = sum(count - before[tokens] for tokens, count in server.asked.items() if before[tokens])
    assert again < before.total() / 2, "the cache knows what was answered, but for what was under way"
    assert "Bearer secret" in server.keys

    direct = kobest.read_tasks(suite)
    assert [(case.id, case.category) for case in outcome.cases] == [(case.id, case.category) for case in direct]
    assert [case.messages for case in outcome.cases] == [case.messages for case in direct], "the words are the same"
    assert [case.expected for case in outcome.cases] == [case.expected for case in direct]
    assert {case.id: case.answer for case in outcome.cases} == ANSWERS
    assert all(case.correct == (case.answer == case.expected) for case in outcome.cases)
    prompt = f"<|im_start|>user\n{direct[3].messages[0].content}<|im_end|>\n<|im_start|>assistant\n말랐다."
    assert tuple(tokens_of(prompt)) in server.asked

    # Right, wrong, right, all said to be 예: macro F1 is the mean of 0.8 and 0.
    assert outcome.figures["BoolQ"] == {"acc": pytest.approx(2 / 3), "f1": pytest.approx(0.4)}
    assert outcome.figures["HellaSwag"] == {"acc": 1.0, "acc_norm": 1.0, "f1": 1.0}
    assert outcome.figures["KoBEST"]["acc"] == pytest.approx(5 / 8)
    assert "acc_norm" not in outcome.figures["KoBEST"], "it would be HellaSwag's alone"
    assert outcome.cut == 0
    results = json.loads((out / "harness" / "results.json").read_text(encoding="utf-8"))
    assert results["lm_eval_version"] == "0.4.13"
    assert not list((out / "harness").glob("caches-*"))

    asked = server.asked.copy()
    assert run_harness(suite, asking(server), out).cases == outcome.cases
    assert server.asked == asked, "a finished run asks nothing"


def test_the_command_writes_cases_and_report_and_says_what_was_cut(
    installed: Path, suite: Path, server: CompletionsServer, tmp_path: Path
) -> None:
    boolq = suite / "BoolQ" / "test.tsv"
    boolq.write_text(f"{ROWS['BoolQ'][0]}\n1\t{'물' * 200}\t물인가?\tTrue\n", encoding="utf-8")
    app = typer.Typer()
    app.command()(evaluate_command)
    words = ["--suite", str(suite), "--server", server.address, "--model", "m", "--output", str(tmp_path / "out")]
    run = CliRunner().invoke(app, [*words, "--task", "BoolQ", "--concurrency", "1"])
    assert run.exit_code == 0, run.output
    assert "lm-evaluation-harness, BoolQ: acc 1.0000, f1 1.0000" in run.output
    assert "1 questions are longer than the server's context" in " ".join(run.output.split())
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["further"]["harness"]["BoolQ"] == {"acc": 1.0, "f1": 1.0}
    assert report["scorers"] == ["lm-evaluation-harness"]
    assert "lm-evaluation-harness: BoolQ" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    [case] = (tmp_path / "out" / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(case)["answer"] == "예"


def test_a_server_that_fails_midway_or_has_another_template_is_named(
    installed: Path, suite: Path, server: CompletionsServer, tmp_path: Path
) -> None:
    server.fails_after = 0
    with pytest.raises(BadInputError, match=r"refused a request|HTTP") as refused:
        server.status = 400
        run_harness(suite, asking(server), tmp_path / "out", ["WiC"])
    assert "--through direct" in str(refused.value)
    server.status = 200
    with pytest.raises(ServiceUnavailableError, match="run again to go on"):
        run_harness(suite, asking(server), tmp_path / "out", ["WiC"])
    server.fails_after, server.system = None, "<|im_start|>system\n짧게 답하라.<|im_end|>\n"
    with pytest.raises(BadInputError, match="not that of the served model"):
        run_harness(suite, asking(server), tmp_path / "out", ["WiC"])


def test_a_server_that_can_not_be_asked_is_named_before_the_harness_starts(
    not_needed: None, suite: Path, server: CompletionsServer, tmp_path: Path
) -> None:
    assert look_at_server(f"{server.address}/v1/", "m", "k").max_length == 400
    assert look_at_server(server.address, "m").folder == server.root
    server.knows_logprobs = False
    with pytest.raises(BadInputError, match=r"how likely it finds a prompt.*--through direct"):
        run_harness(suite, asking(server), tmp_path / "out")
    server.knows_logprobs = True
    with pytest.raises(BadInputError, match="model: found 'other'"):
        run_harness(suite, asking(server, model="other"), tmp_path / "out")
    for status, error, text in ((401, BadInputError, "refused the key"), (500, ServiceUnavailableError, "HTTP 500")):
        server.status = status
        with pytest.raises(error, match=text):
            run_harness(suite, asking(server), tmp_path / "out")
    with pytest.raises(ServiceUnavailableError, match="cannot be reached"):
        look_at_server("http://127.0.0.1:9", "m")
    assert not server.asked


def test_a_tokenizer_without_template_or_of_nowhere_is_named(
    not_needed: None, suite: Path, server: CompletionsServer, tmp_path: Path
) -> None:
    bare = write_tokenizer(tmp_path / "bare", template=False)
    with pytest.raises(BadInputError, match="has no chat template"):
        run_harness(suite, asking(server), tmp_path / "out", tokenizer=bare)
    with pytest.raises(BadInputError, match=r"tokenizer_config.json: found FileNotFoundError"):
        check_tokenizer(tmp_path)
    server.root = tmp_path / "elsewhere"
    with pytest.raises(BadInputError, match="--tokenizer: found no value"):
        run_harness(suite, asking(server), tmp_path / "out")
    stored = json.loads((bare / "tokenizer_config.json").read_text()) | {"chat_template": "{{ messages }}"}
    (bare / "tokenizer_config.json").write_text(json.dumps(stored))
    assert check_tokenizer(bare) == bare


def test_a_harness_that_is_not_installed_says_what_installs_it(
    suite: Path, server: CompletionsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = settings().model_copy(update={"harness_python": tmp_path / "none" / "bin" / "python"})
    monkeypatch.setattr("tollgate.evaluation.harness.settings", lambda: absent)
    with pytest.raises(BadInputError, match=r"no interpreter .*containers/harness/requirements.txt: 'make setup'"):
        run_harness(suite, asking(server), tmp_path / "out")


def test_a_server_that_does_not_list_its_models_gets_the_harness_own_length(server: CompletionsServer) -> None:
    server.model = "m"
    found = look_at_server(server.address, "m")
    assert found.max_length == 400
    assert DEFAULT_LENGTH == 2048


def test_rows_get_the_columns_of_the_hub(suite: Path) -> None:
    assert kobest.hub_rows(suite, "BoolQ", 1) == [
        {"paragraph": '"콜라"는 음료다.', "question": "음료인가?", "label": 1}
    ]
    assert kobest.hub_rows(suite, "COPA")[1] == {
        "premise": "젖었다.",
        "question": "원인",
        "alternative_1": "맑았다.",
        "alternative_2": "예예예",
        "label": 0,
    }
    assert kobest.hub_rows(suite, "HellaSwag")[0] == {
        "context": "비가 온다.",
        "ending_1": "가나",
        "ending_2": "다라",
        "ending_3": "예예",
        "ending_4": "마바",
        "label": 2,
    }
    assert kobest.hub_rows(suite, "SentiNeg") == [{"sentence": "안 좋음", "label": 0}]
    assert kobest.hub_rows(suite, "WiC")[0]["context_2"] == "[철]이 무겁다."
    (suite / "WiC" / "test.tsv").write_text(f"{ROWS['WiC'][0]}\n1\t철\t가\t나\t몰라\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"test.tsv, line 2: found KeyError"):
        kobest.hub_rows(suite, "WiC")


def test_results_that_are_not_the_harness_are_named(tmp_path: Path) -> None:
    sample = {
        "task": "kobest_wic",
        "number": 4,
        "question": "q",
        "choices": ["아니오", "예"],
        "right": 1,
        "logprobs": [-2.0, -1.0],
        "correct": True,
        "cut": True,
    }
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample) + "\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"results.json: found FileNotFoundError"):
        read_outcome(tmp_path)
    (tmp_path / "results.json").write_text('{"results": {"kobest_wic": {"acc,none": 1.0, "f1,none": "N/A"}}}')
    outcome = read_outcome(tmp_path)
    assert (outcome.figures, outcome.cut) == ({"WiC": {"acc": 1.0}}, 1)
    assert (outcome.cases[0].id, outcome.cases[0].answer, outcome.cases[0].expected) == ("WiC-5", "예", "예")
    (tmp_path / "samples.jsonl").write_text('{"task": "kobest_wic"}\n', encoding="utf-8")
    with pytest.raises(BadInputError, match="faulty lines"):
        read_outcome(tmp_path)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--through", "both"], "--through: found 'both'"),
        (["--through", "harness", "--choose", "generate"], "--choose likelihood"),
        (["--through", "harness", "--perplexity"], "expected direct for these"),
    ],
)
def test_what_the_harness_can_not_do_is_refused(words: list[str], text: str, suite: Path) -> None:
    app = typer.Typer()
    app.command()(evaluate_command)
    run = CliRunner().invoke(app, ["--suite", str(suite), "--server", "http://127.0.0.1:9", "--model", "m", *words])
    assert run.exit_code == 2
    assert text in run.output
