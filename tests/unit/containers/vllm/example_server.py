"""A server in the place of ``serve.py``: answers as vLLM does, with the standard library alone.

    python example_server.py FOLDER MODE

``answer`` answers everything; ``end`` ends at once; ``hang`` is never healthy; ``stall`` answers two questions and is
silent from then on. It writes its process number and its settings into FOLDER, and every question that it answered.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER, MODE = Path(sys.argv[1]), sys.argv[2]
SETTINGS = {name: value for name, value in os.environ.items() if name.startswith("TOLLGATE_")}
answered = 0
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if MODE == "hang" else 200)
        self.end_headers()

    def do_POST(self) -> None:
        global answered
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            answered += 1
            if MODE == "stall" and answered > 2:
                (FOLDER / "stalled").touch()
                threading.Event().wait()
            with (FOLDER / "asked").open("a") as asked:
                asked.write(body["messages"][-1]["content"] + "\n")
        choice = {"message": {"content": f"{body['model']}, {body['max_tokens']}"}, "finish_reason": "stop"}
        answer: dict[str, object] = {"choices": [choice], "usage": {"prompt_tokens": len(body["messages"])}}
        if "prompt_logprobs" in body:  # a message is a token of probability 1/e
            answer["prompt_logprobs"] = [None, *[{"7": {"logprob": -1.0}} for _ in body["messages"][1:]]]
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


if __name__ == "__main__":
    (FOLDER / "server.json").write_text(json.dumps({"pid": os.getpid(), "settings": SETTINGS}))
    if MODE == "end":
        sys.exit(3)
    ThreadingHTTPServer(("127.0.0.1", int(SETTINGS["TOLLGATE_VLLM_PORT"])), Handler).serve_forever()
