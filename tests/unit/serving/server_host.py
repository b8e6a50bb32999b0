"""A host whose servers are fakes in this process: they end, and hang, when a test says so."""

from __future__ import annotations

from contextlib import ExitStack

from tests.unit.serving.fake_vllm import FakeVllm

from tollgate.errors import TollgateError
from tollgate.serving.server_keeper import ServerOrder, StartedServer


class FakeHost:
    """``servers`` are those that run, by the version; ``started`` and ``stopped`` count.

    ``refuses`` makes every start fail, ``waits_for`` makes it wait, ``forgets`` loses the caller after the next start
    or stop, as a kill would.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.servers: dict[str, FakeVllm] = {}
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.refuses: str | None = None
        self.waits_for: str | None = None
        self.forgets = False
        self.unhealthy = False
        self.says: str | None = None
        self._stack = stack

    def start(self, order: ServerOrder) -> StartedServer | str:
        name = order.served_name
        if self.waits_for:
            return self.waits_for
        if self.refuses:
            raise TollgateError(self.refuses)
        if name not in self.servers:
            server = self._stack.enter_context(FakeVllm(base=name, root=str(order.model)))
            server.refuse, server.says = self.unhealthy, self.says
            self.servers[name] = server
            self.started.append(name)
        if self.forgets:
            self.forgets = False
            raise KeyboardInterrupt
        return StartedServer(f"fake:{name}", self.servers[name].address)

    def is_running(self, job_id: str) -> bool:
        return job_id.partition(":")[2] in self.servers

    def stop(self, order: ServerOrder, job_id: str | None) -> None:
        server = self.servers.pop(order.served_name, None)
        if server is not None:
            server.__exit__()
            self.stopped.append(order.served_name)
        if self.forgets:
            self.forgets = False
            raise KeyboardInterrupt

    def last_words(self, order: ServerOrder) -> str:
        return f"last words of {order.served_name}"

    def kill(self, name: str) -> None:
        """As SIGKILL would."""
        self.servers.pop(name).__exit__()
