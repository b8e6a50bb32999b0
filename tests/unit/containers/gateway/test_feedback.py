from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
from tests.unit.containers.gateway.conftest import RunningGateway, logged, wait_for

Start = Callable[..., RunningGateway]


def rate(gateway: RunningGateway, request_id: str, **fields: Any) -> httpx.Response:
    return gateway.http.post("/v1/feedback", json={"request_id": request_id} | fields)


def test_a_rating_given_twice_is_one_rating(gateway: RunningGateway) -> None:
    request_id = gateway.ask().headers["x-tollgate-request-id"]
    logged(1)
    for _ in range(2):
        answer = rate(gateway, request_id, rating=4, text="좋아요")
        wait_for(lambda: logged(1)[0].user_rating == 4)
        assert answer.json()["request_id"] == request_id
    (row,) = logged(1)
    assert (row.user_rating, row.user_feedback) == (4, "좋아요")
    rate(gateway, request_id, rating=2)
    wait_for(lambda: logged(1)[0].user_rating == 2)
    assert logged(1)[0].user_feedback == "좋아요"


def test_a_rating_may_come_before_its_row(start: Start) -> None:
    gateway = start(log_pause=0.5)
    request_ids = [gateway.ask(f"{number}").headers["x-tollgate-request-id"] for number in range(5)]
    for number, request_id in enumerate(request_ids):
        assert rate(gateway, request_id, rating=number + 1).status_code in {200, 202}
    wait_for(lambda: [row.user_rating for row in logged(5)] == [1, 2, 3, 4, 5])


def test_a_rating_out_of_range_is_refused(gateway: RunningGateway) -> None:
    request_id = gateway.ask().headers["x-tollgate-request-id"]
    for rating in (0, 6, -1, 4.5, "5", True, None, [5]):
        answer = rate(gateway, request_id, rating=rating)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "rating"), rating
    assert logged(1)[0].user_rating is None


def test_a_rating_of_nothing_is_refused(gateway: RunningGateway) -> None:
    assert rate(gateway, "nothing", rating=3).json()["error"]["code"] == "request_not_found"
    assert rate(gateway, "", rating=3).status_code == 400
