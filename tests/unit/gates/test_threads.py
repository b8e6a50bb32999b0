"""Working on batches in threads: order, errors, and how far ahead it reads."""

import os
import threading
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from tollgate.gates import toxicity
from tollgate.gates.threads import aside, in_order, in_parts


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


@pytest.mark.parametrize("count", [0, 1, 5_000, 100_003])
def test_parts_are_the_whole_range_in_order(count: int) -> None:
    parts = in_parts(count, lambda start, stop: (start, stop))
    assert [parts[0][0], parts[-1][1]] == [0, count]
    assert [stop for _, stop in parts[:-1]] == [start for start, _ in parts[1:]]
    assert len(parts) == 1 or count > 8_000


def test_what_fails_in_a_part_is_told() -> None:
    def fails(start: int, _stop: int) -> None:
        if start:
            raise ValueError("second part")

    with pytest.raises(ValueError, match="second part"):
        in_parts(100_000, fails) if len(os.sched_getaffinity(0)) > 1 else fails(1, 2)


def test_kernels_may_run_in_several_threads_at_once() -> None:
    texts = pa.array(["이 병신 같은 직원들아", "감사합니다"] * 10_000)
    alone = toxicity.score_column(texts)
    for scores in in_order(lambda _number: toxicity.score_column(texts), range(6)):
        np.testing.assert_array_equal(scores, alone)


def _nice_value(*_: object) -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_work_aside_and_the_threads_it_starts_give_way_to_the_others() -> None:
    before = _nice_value()
    with aside() as pool:
        alone, started = pool.submit(lambda: (_nice_value(), list(in_order(_nice_value, range(3))))).result()
    assert alone > before
    assert started == [alone] * 3
    assert _nice_value() == before
