"""A server in the place of ``serve.py``: lists its weights as vLLM does, with the standard library alone."""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, MODEL = os.environ["TOLLGATE_BASE_MODEL_NAME"], os.environ["TOLLGATE_BASE_MODEL"]
PAGES = {
    "/health": "",
    "/v1/models": json.dumps({"data": [{"id": NAME, "root": MODEL, "parent": None}]}),
    "/metrics": "vllm:num_requests_running 0.0\nvllm:num_requests_waiting 0.0\n",
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        text = PAGES[self.path].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["TOLLGATE_VLLM_PORT"])), Handler).serve_forever()
