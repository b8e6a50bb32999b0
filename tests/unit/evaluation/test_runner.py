from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import polars
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from tollgate.errors import BadInputError, ServiceUnavailableError
from tollgate.evaluation.cases import Case, Message
from tollgate.evaluation.runner import RetryPolicy, cases_from_dataset, run_cases

QUICK = RetryPolicy(attempts=3, first_pause=0.001)


class EchoServer:
    """Speaks OpenAI's chat completions and answers with the question; ``refuse`` may answer a request otherwise."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.requests: list[dict] = []
        self.headers: list[str | None] = []
        self.under_way = self.most_under_way = 0
        self.refuse: Callable[[str], web.Response | None] = lambda question: None
        self.address = ""

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        question = body["messages"][-1]["content"]
        self.asked.append(question)
        self.requests.append(body)
        self.headers.append(request.headers.get("Authorization"))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0.002)  # long enough for others to arrive
        try:
            return self.refuse(question) or web.json_response(
                {
                    "choices": [{"message": {"content": f"답 {question}"}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
                }
            )
        finally:
            self.under_way -= 1


@pytest_asyncio.fixture
async def server() -> AsyncIterator[EchoServer]:
    echo = EchoServer()
    application = web.Application()
    application.router.add_post("/v1/chat/completions", echo.complete)
    async with TestServer(application) as running:
        echo.address = str(running.make_url("/"))
        yield echo


def cases(count: int) -> list[Case]:
    return [
        Case(id=f"c{i}", category="통행료", messages=(Message(role="user", content=f"q{i}"),), expected=f"답 q{i}")
        for i in range(count)
    ]


async def test_every_answer_is_returned_in_order_and_kept_on_disk(server: EchoServer, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    results = await run_cases(server.address, "m@v1", cases(40), concurrency=7, results_path=path, api_key="secret-key")
    assert [result.answer for result in results] == [f"답 q{i}" for i in range(40)]
    assert results[0].finish_reason == "stop"
    assert results[0].completion_tokens == 2
    assert all(result.latency_ms > 0 for result in results)
    assert 1 < server.most_under_way <= 7
    assert server.requests[0] | {"messages": None} == {
        "model": "m@v1",
        "messages": None,
        "max_tokens": 256,
        "temperature": 0.0,
    }
    assert set(server.headers) == {"Bearer secret-key"}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {line["id"] for line in lines} == {f"c{i}" for i in range(40)}
    assert "secret-key" not in path.read_text(encoding="utf-8")


async def test_a_run_that_broke_off_goes_on_where_it_stopped(server: EchoServer, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    server.refuse = lambda question: web.Response(status=503) if len(server.asked) > 10 else None
    with pytest.raises(ServiceUnavailableError, match=r"3 attempts: HTTP 503"):
        await run_cases(server.address, "m@v1", cases(30), concurrency=4, results_path=path, retry=QUICK)
    whole = path.read_bytes()
    kept = {json.loads(line)["id"] for line in whole.splitlines()}
    assert 0 < len(kept) < 30
    path.write_bytes(whole + b'{"id": "c29", "answer": "ha')  # as a kill in the middle of a write leaves it

    server.refuse = lambda question: None
    server.asked.clear()
    results = await run_cases(server.address, "m@v1", cases(30), concurrency=4, results_path=path)
    assert [result.answer for result in results] == [f"답 q{i}" for i in range(30)]
    assert {f"c{question[1:]}" for question in server.asked} == {f"c{i}" for i in range(30)} - kept
    assert len(server.asked) == 30 - len(kept)
    assert [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert path.read_bytes().startswith(whole)


async def test_kept_answers_count_only_for_the_same_question_model_and_answer(
    server: EchoServer, tmp_path: Path
) -> None:
    path = tmp_path / "results.jsonl"
    await run_cases(server.address, "m@v1", cases(3), results_path=path)
    server.asked.clear()
    changed = [*cases(2), cases(3)[2].model_copy(update={"expected": "다른 답"})]
    await run_cases(server.address, "m@v1", changed, results_path=path)
    assert server.asked == ["q2"]
    server.asked.clear()
    await run_cases(server.address, "m@v2", changed, results_path=path)
    assert len(server.asked) == 3


async def test_a_passing_failure_is_retried(server: EchoServer) -> None:
    server.refuse = lambda question: web.Response(status=500) if len(server.asked) == 1 else None
    [result] = await run_cases(server.address, "m@v1", cases(1), retry=QUICK)
    assert (result.answer, len(server.asked)) == ("답 q0", 2)


async def test_a_model_that_is_not_loaded_is_bad_input_at_once(server: EchoServer) -> None:
    server.refuse = lambda question: web.json_response({"error": {"message": "no such model"}}, status=404)
    with pytest.raises(BadInputError, match=r"does not serve the model.*no such model(.|\n)*'m@v9'"):
        await run_cases(server.address, "m@v9", cases(1), retry=QUICK)
    assert len(server.asked) == 1


async def test_a_refused_case_is_a_wrong_answer_and_does_not_stop_the_others(server: EchoServer) -> None:
    server.refuse = lambda question: web.Response(status=400, text="too long") if question == "q1" else None
    results = await run_cases(server.address, "m@v1", cases(3), retry=QUICK)
    assert [result.error for result in results] == [None, "HTTP 400: too long", None]
    assert [result.answer for result in results] == ["답 q0", "", "답 q2"]


@pytest.mark.parametrize("body", ["<html>", "[]", '{"choices": []}', '{"choices": [{"message": {"content": [1]}}]}'])
async def test_a_server_that_speaks_something_else_is_named(server: EchoServer, body: str) -> None:
    server.refuse = lambda question: web.Response(text=body)
    with pytest.raises(ServiceUnavailableError, match="no chat completion"):
        await run_cases(server.address, "m@v1", cases(1), retry=QUICK)


async def test_a_server_that_is_away_is_named(unused_tcp_port: int) -> None:
    with pytest.raises(ServiceUnavailableError, match=f"127.0.0.1:{unused_tcp_port}"):
        await run_cases(f"http://127.0.0.1:{unused_tcp_port}", "m@v1", cases(1), retry=QUICK)


def write_split(folder: Path, rows: list[dict]) -> Path:
    polars.DataFrame(rows).write_parquet(folder / "test.parquet")
    return folder


def row(name: str, *turns: tuple[str, str]) -> dict:
    return {"id": name, "category": None, "messages": [{"role": role, "content": text} for role, text in turns]}


def test_a_split_becomes_cases_without_the_answer(tmp_path: Path) -> None:
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "u2"), ("assistant", "a2")]
    [case] = cases_from_dataset(write_split(tmp_path, [row("r1", *turns)]))
    assert [turn.content for turn in case.messages] == ["s", "u", "a", "u2"]
    assert (case.id, case.expected, case.category) == ("r1", "a2", None)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("r1", ("user", "u"), ("assistant", "a"), ("user", "u2"))], "row 1, messages: found 3 turns"),
        ([row("r1", ("user", "u"), ("assistant", "a"))] * 2, "row 2, id: found 'r1'"),
        ([{"id": "r1"}], "columns id, messages and category"),
    ],
)
def test_a_split_that_cannot_be_asked_is_refused(tmp_path: Path, rows: list[dict], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        cases_from_dataset(write_split(tmp_path, rows))


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"validation\.parquet"):
        cases_from_dataset(tmp_path, "validation")
