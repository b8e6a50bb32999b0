"""Working on batches in threads: order, errors, and how far ahead it reads."""

import os
import threading
from collections.abc import Iterator

import pytest

from tollgate.gates.threads import in_order


def test_answers_come_in_the_order_of_the_items() -> None:
    first_may_end = threading.Event()

    def slow_first(number: int) -> int:
        if number == 0 and len(os.sched_getaffinity(0)) > 1:
            assert first_may_end.wait(30)
        first_may_end.set()
        return number * 10

    assert list(in_order(slow_first, range(5))) == [0, 10, 20, 30, 40]


def test_an_error_stands_where_its_answer_would() -> None:
    def fails_at_two(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    answers = in_order(fails_at_two, range(9))
    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(answers)


def test_items_are_taken_only_as_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1_000):
            taken.append(number)
            yield number

    answers = in_order(lambda number: number, items())
    next(answers)
    answers.close()
    assert len(taken) <= 6


def test_nothing_comes_of_nothing() -> None:
    assert list(in_order(lambda number: number, [])) == []
