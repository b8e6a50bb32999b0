"""The gateway's figures in Prometheus' text form (version 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


State = list[list[Any]]


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

    def state(self) -> State:
        """What was counted, as JSON can hold it."""
        with self._lock:
            return [[list(values), number] for values, number in self._values.items()]

    def merge(self, state: State) -> None:
        """Add what another one has counted."""
        for values, number in state:
            self.add(number, *values)

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
        self.name = name
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

    def state(self) -> State:
        """What was observed, as JSON can hold it."""
        with self._lock:
            return [[list(values), list(counts), self._sums[values]] for values, counts in self._counts.items()]

    def merge(self, state: State) -> None:
        """Add what another one has observed."""
        with self._lock:
            for names, counts, total in state:
                values = tuple(names)
                known = self._counts.setdefault(values, [0] * len(counts))
                self._counts[values] = [one + other for one, other in zip(known, counts, strict=True)]
                self._sums[values] = self._sums.get(values, 0.0) + total

    def lines(self) -> Iterator[str]:
        """The text form."""
        yield f"# HELP {self.name} {self._text}"
        yield f"# TYPE {self.name} histogram"
        with self._lock:
            known = [(values, list(counts), self._sums[values]) for values, counts in self._counts.items()]
        bounds = [*(f"{bound:g}" for bound in _SECONDS), "+Inf"]
        for values, counts, total in known:
            for bound, number in zip(bounds, accumulate(counts), strict=True):
                yield f"{self.name}_bucket{_braces((*self._labels, 'le'), (*values, bound))} {number}"
            yield f"{self.name}_sum{_braces(self._labels, values)} {total:.6f}"
            yield f"{self.name}_count{_braces(self._labels, values)} {sum(counts)}"


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

    def answered(
        self,
        labels: tuple[str, str, str, str],
        status: int,
        seconds: float,
        first_byte_seconds: float | None,
        tokens: tuple[int, int],
    ) -> None:
        """Count one request: route, variant, version and provider; prompt's and answer's tokens."""
        self.requests.add(1, *labels, str(status))
        self.seconds.observe(seconds, *labels)
        if first_byte_seconds is not None:
            self.first_byte.observe(first_byte_seconds, *labels)
        for kind, number in zip(("prompt", "completion"), tokens, strict=True):
            if number:
                self.tokens.add(number, *labels, kind)

    def count_failover(self, provider: str) -> None:
        """An attempt at a provider failed."""
        self.failovers.add(1, provider)

    def state(self) -> dict[str, State]:
        """All that was counted and observed, as JSON can hold it."""
        return {part.name: part.state() for part in self._parts()}

    def merged(self, states: Iterable[dict[str, State]]) -> Metrics:
        """These figures and those of others, added up."""
        total = Metrics()
        for state in (self.state(), *states):
            for part in total._parts():
                part.merge(state[part.name])
        return total

    def text(self, gauges: dict[str, float]) -> str:
        """All figures, and those that are only known now: ``gauges`` by name without the prefix."""
        lines = [line for part in self._parts() for line in part.lines()]
        for name, value in gauges.items():
            lines += [f"# TYPE tollgate_gateway_{name} gauge", f"tollgate_gateway_{name} {value:g}"]
        return "\n".join(lines) + "\n"

    def _parts(self) -> tuple[Counter | Histogram, ...]:
        return (
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


def _braces(labels: Sequence[str], values: Sequence[str]) -> str:
    pairs = ",".join(f'{label}="{_escape(value)}"' for label, value in zip(labels, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
