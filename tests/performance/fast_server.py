"""A server that speaks OpenAI's chat completions and does nothing else, as fast as it can; run it as a process.

It answers with the question. ``GET /asked`` says how often each question was answered. It prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from collections import Counter
from typing import Any

import uvicorn


class FastServer:
    """An ASGI application.

    Args:
        delay: Seconds that an answer takes.
    """

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.asked: Counter[str] = Counter()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b"".join([part async for part in _parts(receive)])
        if scope["path"] == "/asked":
            answer: Any = self.asked
        else:
            question = json.loads(body)["messages"][-1]["content"]
            if self.delay:
                await asyncio.sleep(self.delay)
            answer = {
                "choices": [{"message": {"role": "assistant", "content": question}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 3},
            }
            self.asked[question] += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


async def _parts(receive: Any) -> Any:
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        yield message.get("body", b"")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)  # from here on whoever comes is kept waiting, not refused
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        configuration = uvicorn.Config(FastServer(parser.parse_args().delay), log_level="error", lifespan="off")
        uvicorn.Server(configuration).run([listening])


if __name__ == "__main__":
    main()
