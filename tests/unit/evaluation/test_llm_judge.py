from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from tollgate.errors import BadInputError
from tollgate.evaluation.further import count_preferences
from tollgate.evaluation.llm_judge import (
    Judge,
    LabelledPair,
    Pair,
    Preference,
    agreement,
    apply_preferences,
    prefer,
    read_labels,
)
from tollgate.evaluation.scorers import ScoredCase


class JudgeServer:
    """Says what ``decide`` says of the answers at A and B."""

    def __init__(self) -> None:
        self.decide: Callable[[str, str], str] = lambda first, second: "T"
        self.asked = 0
        self.judge = Judge(server="", model="judge")

    async def complete(self, request: web.Request) -> web.Response:
        self.asked += 1
        text = (await request.json())["messages"][-1]["content"]
        first, second = text.split("[답변 A]\n")[1].split("\n\n[판단")[0].split("\n\n[답변 B]\n")
        return web.json_response({"choices": [{"message": {"content": self.decide(first, second)}}]})


@pytest_asyncio.fixture
async def server() -> AsyncIterator[JudgeServer]:
    judge = JudgeServer()
    application = web.Application()
    application.router.add_post("/v1/chat/completions", judge.complete)
    async with TestServer(application) as running:
        judge.judge = Judge(server=str(running.make_url("/")), model="judge")
        yield judge


def pairs(*answers: tuple[str, str]) -> list[Pair]:
    return [Pair(id=str(n), messages=(), first=first, second=second) for n, (first, second) in enumerate(answers)]


async def test_both_orders_must_agree(server: JudgeServer) -> None:
    server.decide = lambda first, second: "A" if len(first) > len(second) else "B." if len(first) < len(second) else "T"
    found = await prefer(server.judge, pairs(("길게", "답"), ("답", "길게"), ("가", "나")))
    assert [(one.outcome, one.agreed) for one in found] == [("win", True), ("loss", True), ("tie", True)]


@pytest.mark.parametrize(
    ("said", "readable"), [("A", True), ("B", True), ("잘 모르겠습니다", False), ("A or B", False)]
)
async def test_a_judge_that_prefers_a_place_or_says_nothing_makes_ties(
    server: JudgeServer, said: str, readable: bool
) -> None:
    server.decide = lambda first, second: said
    [found] = await prefer(server.judge, pairs(("가", "나")))
    assert (found.outcome, found.agreed, found.readable) == ("tie", False, readable)
    assert count_preferences([found]).model_dump() == {
        "wins": 0,
        "ties": 1,
        "losses": 0,
        "disagreed": 1,
        "unreadable": int(not readable),
    }


async def test_what_was_judged_is_not_asked_again(server: JudgeServer, tmp_path: Path) -> None:
    asked = pairs(("가", "나"), ("다", "라"))
    first = await prefer(server.judge, asked, tmp_path / "judge.jsonl")
    assert server.asked == 4
    assert await prefer(server.judge, asked, tmp_path / "judge.jsonl") == first
    assert server.asked == 4
    await prefer(server.judge, pairs(("가", "나"), ("다", "마")), tmp_path / "judge.jsonl")
    assert server.asked == 6


def preference(name: str, outcome: str, agreed: bool = True) -> Preference:
    return Preference.model_validate({"id": name, "outcome": outcome, "agreed": agreed, "readable": True})


def test_a_disagreement_is_no_evidence_of_a_right_answer() -> None:
    cases = [ScoredCase(id=n, correct=False, answer="답", scorer="judge") for n in "abcd"]
    cases.append(ScoredCase(id="e", correct=True, answer="답", scorer="exact"))
    said = [
        preference("a", "win"),
        preference("b", "tie"),
        preference("c", "tie", agreed=False),
        preference("d", "loss"),
    ]
    scored = apply_preferences(cases, said)
    assert [case.correct for case in scored] == [True, True, False, False, True]
    assert [case.value for case in scored] == [1, 0.5, 0.5, 0, None]


def labelled(labels: list[str]) -> list[LabelledPair]:
    fields = [
        {"id": str(n), "question": "q", "first": "a", "second": "b", "label": one} for n, one in enumerate(labels)
    ]
    return [LabelledPair.model_validate(one) for one in fields]


def test_the_agreement_is_cohens() -> None:
    # Cohen 1960's kind of table, here 20 and 15 agreed, 5 and 10 not, of 50: p_o = 0.7, p_e = 0.5, kappa = 0.4.
    people = ["win"] * 25 + ["loss"] * 25
    judge = ["win"] * 20 + ["loss"] * 5 + ["win"] * 10 + ["loss"] * 15
    found = agreement([preference(str(n), one) for n, one in enumerate(judge)], labelled(people))
    assert (found.kappa, found.agreement, found.cases) == (pytest.approx(0.4), pytest.approx(0.7), 50)
    assert 0 < found.low < 0.4
    always = agreement([preference(str(n), "win") for n in range(50)], labelled(["win"] * 50))
    assert always.kappa == 0, "who always says the same shows nothing"


def test_labels_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    lines = [one.model_dump_json() for one in labelled(["win", "tie"])]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [one.label for one in read_labels(path)] == ["win", "tie"]
    path.write_text("\n".join([lines[0], lines[0]]), encoding="utf-8")
    with pytest.raises(BadInputError, match="line 2, id"):
        read_labels(path)
    path.write_text(json.dumps({"id": "a", "question": "q", "first": "a", "second": "b", "label": "better"}))
    with pytest.raises(BadInputError, match="line 1, label"):
        read_labels(path)
