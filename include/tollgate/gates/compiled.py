"""How the gates' inner kernels are compiled.

numba counts the references to every array that a compiled function is handed, by atomic additions that threads contend
for. Kernels that are called for each word, with tables that all threads share, spent a sixth of their time on it. A
function that makes and returns no arrays needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numba as nb

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])

_OPTIONS: Final[dict[str, Any]] = {"_nrt": False}  # no public name: numba (0.68) compiles its own sorting so


def inner(function: _Kernel) -> _Kernel:
    """Compile a function that other compiled functions call, and that makes and returns no arrays but views.

    Raises:
        numba.TypingError: When it is first compiled: it makes an array.
    """
    compiled: _Kernel = nb.njit(cache=True, nogil=True, **_OPTIONS)(function)
    return compiled
