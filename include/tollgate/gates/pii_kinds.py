"""The kinds of personal data, and where one was found: never the value itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

Kind = Literal[
    "resident_number",
    "foreigner_number",
    "passport",
    "driver_licence",
    "card",
    "bank_account",
    "business_number",
    "corporate_number",
    "phone",
    "email",
    "ip_address",
    "vehicle_plate",
    "address",
    "name",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
LABELS: dict[Kind, str] = {
    "resident_number": "[주민등록번호]",
    "foreigner_number": "[외국인등록번호]",
    "passport": "[여권번호]",
    "driver_licence": "[운전면허번호]",
    "card": "[카드번호]",
    "bank_account": "[계좌번호]",
    "business_number": "[사업자등록번호]",
    "corporate_number": "[법인등록번호]",
    "phone": "[전화번호]",
    "email": "[이메일]",
    "ip_address": "[IP주소]",
    "vehicle_plate": "[차량번호]",
    "address": "[주소]",
    "name": "[이름]",
}
NUMBERS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind not in {"address", "name"})
"""The kinds that are no matter of language, and so are looked for in structured text too."""


@dataclass(frozen=True)
class Finding:
    """One piece of personal data: of which kind, where in the text (character positions), and how sure (0 to 1)."""

    kind: Kind
    start: int
    end: int
    confidence: float


@dataclass(frozen=True, eq=False)
class Findings:
    """The findings in a column of texts, ordered by row and position; all arrays have one entry per finding."""

    row: npt.NDArray[np.int64]
    start: npt.NDArray[np.int32]
    """Position of the first character."""
    end: npt.NDArray[np.int32]
    """Position after the last character."""
    kind: npt.NDArray[np.uint8]
    """Index in :data:`KINDS`."""
    confidence: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.row)

    def counts(self) -> dict[Kind, int]:
        """How many findings of each kind there are, without the kinds that there are none of."""
        numbers = np.bincount(self.kind, minlength=len(KINDS))
        return {kind: int(number) for kind, number in zip(KINDS, numbers, strict=True) if number}

    def rows(self) -> npt.NDArray[np.int64]:
        """The rows that hold something, ascending, each once."""
        return np.unique(self.row)

    @classmethod
    def of(cls, found: Iterable[tuple[int, Finding]]) -> Findings:
        """Make columns of (row, finding) pairs in any order."""
        codes = {kind: code for code, kind in enumerate(KINDS)}
        ordered = sorted((row, one.start, one.end, codes[one.kind], one.confidence) for row, one in found)
        columns = tuple(zip(*ordered, strict=True)) or ((),) * 5
        types = (np.int64, np.int32, np.int32, np.uint8, np.float32)
        return cls(*(np.array(column, dtype=dtype) for column, dtype in zip(columns, types, strict=True)))
