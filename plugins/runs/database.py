"""What tasks that are one SQL statement hand on."""

from __future__ import annotations

from typing import Any


def first_column(cursor: Any) -> list[Any]:
    """The first column of all rows (a ``handler`` of ``SQLExecuteQueryOperator``)."""
    return [row[0] for row in cursor.fetchall()]
