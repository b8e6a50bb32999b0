"""Inner kernels count no references: that is what they are compiled apart for."""

from __future__ import annotations

import re
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt
import pytest

from tollgate.gates.compiled import inner


def _total(values: npt.NDArray[np.int64], start: int) -> int:
    total = 0
    for value in values[start:]:
        if value > 3:
            total += value
    return total


def _counted(compiled: Any) -> int:
    compiled(np.arange(10), 2)
    return sum(len(re.findall(r"call void @NRT_(?:incref|decref)", code)) for code in compiled.inspect_llvm().values())


def test_no_reference_to_an_array_is_counted() -> None:
    found: Any = inner(_total)
    assert found(np.arange(10), 2) == 39
    assert _counted(found) == 0


def _doubled(values: npt.NDArray[np.int64]) -> Any:
    return values * 2


def _sum_of_doubled(values: npt.NDArray[np.int64]) -> Any:
    return (values * 2).sum()


@pytest.mark.parametrize(
    ("function", "reason"), [(_doubled, "Only accept returning of array"), (_sum_of_doubled, "NRT required")]
)
def test_a_kernel_that_makes_an_array_is_refused(function: Any, reason: str) -> None:
    with pytest.raises(nb.errors.NumbaError, match=reason):
        inner(function)(np.arange(3))
