"""The official client, unchanged, against the gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.containers.gateway.conftest import ROUTE, RunningGateway, logged
from tests.unit.serving.fake_vllm import FakeVllm

openai = pytest.importorskip("openai")
httpx2 = pytest.importorskip("httpx2")

Start = Callable[..., RunningGateway]
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def client(gateway: RunningGateway, key: str = "sesame") -> Any:
    http = httpx2.Client(trust_env=False)
    return openai.OpenAI(base_url=f"{gateway.address}/v1", api_key=key, max_retries=0, http_client=http)


@pytest.fixture
def keyed(start: Start) -> RunningGateway:
    gateway = start(key="sesame")
    gateway.http.headers["Authorization"] = "Bearer sesame"
    return gateway


def test_a_chat_s_answer_says_where_it_came_from(keyed: RunningGateway) -> None:
    raw = client(keyed).chat.completions.with_raw_response.create(
        model=ROUTE, messages=[{"role": "user", "content": "안녕"}]
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "router@v1: 안녕"
    assert answer.usage.total_tokens == 12
    note = answer.usage.tollgate
    assert (note["version"], note["provider"], note["fallback"]) == ("router@v1", "vllm", False)
    assert note["request_id"] == answer._request_id == raw.headers["x-tollgate-request-id"]
    assert raw.headers["x-tollgate-provider"] == "vllm"


@pytest.mark.parametrize("asks_for_usage", [False, True])
def test_a_chat_as_a_stream(keyed: RunningGateway, asks_for_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if asks_for_usage else {}
    with client(keyed) as http:
        chunks = list(
            http.chat.completions.create(
                model=ROUTE, messages=[{"role": "user", "content": "하나 둘"}], stream=True, **options
            )
        )
    text = "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices)
    assert text == "router@v1: 하나 둘 "
    notes = [chunk.usage.tollgate for chunk in chunks if chunk.usage]
    assert [note["version"] for note in notes] == (["router@v1"] if asks_for_usage else [])
    (row,) = logged(1)
    assert (row.prompt_tokens, row.completion_tokens, row.response) == (7, 5, text)
    assert row.first_token_ms is not None
    assert row.first_token_ms <= row.response_time_ms


def test_images_are_passed_on_as_they_are(keyed: RunningGateway, backend: FakeVllm) -> None:
    content = [
        {"type": "text", "text": "무엇이 보이나요?"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
    ]
    client(keyed).chat.completions.create(model=ROUTE, messages=[{"role": "user", "content": content}])
    assert backend.requests[0]["messages"] == [{"role": "user", "content": content}]
    assert logged(1)[0].query == "무엇이 보이나요?"


def test_completions(keyed: RunningGateway) -> None:
    answer = client(keyed).completions.create(model=ROUTE, prompt="Once")
    assert answer.choices[0].text == "Once and on"
    (row,) = logged(1)
    assert (row.endpoint, row.query, row.response) == ("/v1/completions", "Once", "Once and on")
    assert (row.finish_reason, row.completion_tokens) == ("length", 2)


def test_embeddings(keyed: RunningGateway) -> None:
    answer = client(keyed).embeddings.create(model=ROUTE, input=["하나", "둘"], encoding_format="float")
    assert answer.data[0].embedding == [0.5, -0.25]
    (row,) = logged(1)
    assert (row.query, row.response, row.prompt_tokens) == ("하나\n둘", None, 3)


def test_models(keyed: RunningGateway) -> None:
    http = client(keyed)
    assert [card.id for card in http.models.list()] == ["base", ROUTE]
    assert http.models.retrieve(ROUTE).id == ROUTE
    with pytest.raises(openai.NotFoundError):
        http.models.retrieve("nothing")


def test_errors_are_the_client_s_own(keyed: RunningGateway, backend: FakeVllm) -> None:
    chat = client(keyed).chat.completions
    with pytest.raises(openai.AuthenticationError):
        client(keyed, "wrong").models.list()
    with pytest.raises(openai.NotFoundError) as missing:
        chat.create(model="nothing", messages=[{"role": "user", "content": "x"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        chat.create(model=ROUTE, messages=[])
    assert bad.value.param == "messages"
    backend.cut_streams = True
    with pytest.raises(openai.APIError, match="broke"):
        list(chat.create(model=ROUTE, messages=[{"role": "user", "content": "a b c"}], stream=True))


def test_too_many_requests_are_the_client_s_own_error(start: Start) -> None:
    http = client(start(requests_per_minute=2), "any")
    http.models.list()
    http.models.list()
    with pytest.raises(openai.RateLimitError) as limited:
        http.models.list()
    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 120
    assert limited.value.response.headers["x-ratelimit-limit-requests"] == "2"
