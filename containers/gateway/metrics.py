"""The gateway's figures in Prometheus' text form (version 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Counter:
    """A number that only grows, for each combination of its labels' values."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self._text = text
        self._labels = labels
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}
        self._lock = threading.Lock()

    def add(self, amount: float = 1.0, *values: str) -> None:
        """Count ``amount`` more; one value for each label."""
        with self._lock:
            self._values[values] = self._values.get(values, 0.0) + amount

    def lines(self) -> Iterator[str]:
        """The text form."""
        yield f"# HELP {self.name} {self._text}"
        yield f"# TYPE {self.name} counter"
        with self._lock:
            known = list(self._values.items())
        for values, number in known:
            yield f"{self.name}{_braces(self._labels, values)} {number:g}"


class Histogram:
    """How many observations were at most as long as each bound, in seconds, for each combination of labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()

    def observe(self, seconds: float, *values: str) -> None:
        """Count one observation; one value for each label."""
        with self._lock:
            counts = self._counts.setdefault(values, [0] * (len(_SECONDS) + 1))
            counts[bisect_left(_SECONDS, seconds)] += 1
            self._sums[values] = self._sums.get(values, 0.0) + seconds

    def lines(self) -> Iterator[str]:
        """The text form."""
        yield f"# HELP {self._name} {self._text}"
        yield f"# TYPE {self._name} histogram"
        with self._lock:
            known = [(values, list(counts), self._sums[values]) for values, counts in self._counts.items()]
        bounds = [*(f"{bound:g}" for bound in _SECONDS), "+Inf"]
        for values, counts, total in known:
            for bound, number in zip(bounds, accumulate(counts), strict=True):
                yield f"{self._name}_bucket{_braces((*self._labels, 'le'), (*values, bound))} {number}"
            yield f"{self._name}_sum{_braces(self._labels, values)} {total:.6f}"
            yield f"{self._name}_count{_braces(self._labels, values)} {sum(counts)}"


class Metrics:
    """All figures of one gateway."""

    def __init__(self) -> None:
        labels = ("route", "variant", "version", "provider")
        prefix = "tollgate_gateway"
        self.requests = Counter(f"{prefix}_requests_total", "Requests, by final status.", (*labels, "status"))
        self.refused = Counter(f"{prefix}_refused_total", "Requests that reached no route.", ("code",))
        self.seconds = Histogram(f"{prefix}_request_seconds", "Time to the last byte of the answer.", labels)
        self.first_byte = Histogram(f"{prefix}_first_byte_seconds", "Time to the first byte of the answer.", labels)
        self.failovers = Counter(f"{prefix}_failovers_total", "Attempts that failed before an answer.", ("provider",))
        self.tokens = Counter(f"{prefix}_tokens_total", "Tokens of answers, as providers count.", (*labels, "kind"))
        self.feedback = Counter(f"{prefix}_feedback_total", "Ratings taken.")
        self.log_shed = Counter(f"{prefix}_log_shed_total", "Log entries dropped because the spool was full.")
        self.log_text_shed = Counter(f"{prefix}_log_text_shed_total", "Log entries whose texts were not kept.")
        self.log_lost = Counter(f"{prefix}_log_lost_total", "Log entries that could not be written.")

    def count_failover(self, provider: str) -> None:
        """An attempt at a provider failed."""
        self.failovers.add(1, provider)

    def text(self, gauges: dict[str, float]) -> str:
        """All figures, and those that are only known now: ``gauges`` by name without the prefix."""
        parts = (
            self.requests,
            self.refused,
            self.seconds,
            self.first_byte,
            self.feedback,
            self.log_shed,
            self.log_text_shed,
            self.failovers,
            self.tokens,
            self.log_lost,
        )
        lines = [line for part in parts for line in part.lines()]
        for name, value in gauges.items():
            lines += [f"# TYPE tollgate_gateway_{name} gauge", f"tollgate_gateway_{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _braces(labels: Sequence[str], values: Sequence[str]) -> str:
    pairs = ",".join(f'{label}="{_escape(value)}"' for label, value in zip(labels, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
