"""A server that behaves as vLLM 0.32 was measured to, without a model: it answers ``<served name>: <question>``.

``python tests/unit/serving/fake_vllm.py PORT`` runs it as a process that can be killed.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np
from aiohttp import web


class FakeVllm:
    """Runs in a thread of its own. ``loaded`` maps adapter names to folders; ``refuse`` answers everything with 500,
    and ``says`` answers every question with that.
    """

    def __init__(self, max_rank: int = 32, base: str = "base", root: str = "/models/base", port: int = 0) -> None:
        self.port = port
        self.max_rank = max_rank
        self.base = base
        self.root = root
        self.under_way = 0
        self.loaded: dict[str, str] = {}
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.status = 0
        self.refuse = False
        self.says: str | None = None
        self.cut_streams = False
        self.pause = 0.0
        self.cancelled = threading.Event()
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def restart_empty(self) -> None:
        self.loaded.clear()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/embeddings", self._embed)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        self._loop.run_until_complete(site.start())
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=500 if self.refuse else 200)

    async def _models(self, _: web.Request) -> web.Response:
        cards = [{"id": self.base, "root": self.root, "parent": None}]
        cards += [{"id": name, "root": root, "parent": self.base} for name, root in self.loaded.items()]
        return web.json_response({"object": "list", "data": cards})

    async def _metrics(self, _: web.Request) -> web.Response:
        """As vLLM 0.32 words it; a request under way is one that was asked for and is not answered yet."""
        labels = f'{{engine="0",model_name="{self.base}"}}'
        answered = f'{{engine="0",finished_reason="stop",model_name="{self.base}"}}'
        lines = [
            "# HELP vllm:num_requests_running Number of requests in model execution batches.",
            f"vllm:num_requests_running{labels} {float(self.under_way)}",
            f"vllm:num_requests_waiting{labels} 0.0",
            'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 7.0',
            f"vllm:request_success_total{answered} {float(len(self.requests))}",
            f"vllm:request_success_created{answered} 1.7e+09",
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, path = body["lora_name"], Path(body["lora_path"])
        if name == self.base:
            return error(400, "InvalidUserInput", f"The lora adapter '{name}' conflicts with a served base model.")
        if name in self.loaded:
            return error(400, "InvalidUserInput", f"The lora adapter '{name}' has already been loaded.")
        if not (path / "adapter_config.json").exists():
            return error(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for <path>")
        rank = json.loads((path / "adapter_config.json").read_text())["r"]
        if rank > self.max_rank:
            return error(
                500, "InternalServerError", worker_failed(f"LoRA rank {rank} is greater than max_lora_rank 32.")
            )
        self.loaded[name] = str(path)
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.loaded.pop(name, None) is None:
            return error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers.get("Authorization"))
        name = body["model"]
        if self.status:
            return error(self.status, "Error", f"status {self.status} for {request.headers.get('Authorization')}")
        if self.refuse:
            return error(500, "InternalServerError", "EngineCore encountered an issue.")
        if name != self.base and name not in self.loaded:
            return error(404, "NotFoundError", f"The model `{name}` does not exist.")
        if self._is_nan(name):
            if body.get("logprobs"):
                return error(400, "BadRequestError", "Out of range float values are not JSON compliant")
            return completion(name, "")
        try:
            await asyncio.sleep(self.pause)
            answer = self.says or f"{name}: {body['messages'][-1]['content']}"
            return await self._stream(request, body, answer) if body.get("stream") else completion(name, answer)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled.set()
            raise

    async def _stream(self, request: web.Request, body: dict[str, Any], answer: str) -> web.StreamResponse:
        name = body["model"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for word in answer.split(" "):
            chunk = {"model": name, "choices": [{"index": 0, "delta": {"content": word + " "}}]}
            await response.write(b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n")
            await asyncio.sleep(self.pause)
            if self.cut_streams:
                assert request.transport is not None
                request.transport.abort()
                return response
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n')
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        choice = {"index": 0, "text": f"{body['prompt']} and on", "finish_reason": "length"}
        usage = {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
        content = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
        return web.json_response(content | {"choices": [choice], "usage": usage})

    async def _embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        return web.json_response({"object": "list", "model": body["model"], "data": data, "usage": usage})

    def _is_nan(self, name: str) -> bool:
        return name in self.loaded and (Path(self.loaded[name]) / "serves_nan").exists()


def completion(name: str, answer: str) -> web.Response:
    return web.json_response(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": name,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
        }
    )


def error(status: int, kind: str, message: str) -> web.Response:
    body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return web.json_response(body, status=status)


def worker_failed(words: str) -> str:
    return f"Call to add_lora method failed: Worker failed with error '{words}', please check the stack trace above"


def write_base(folder: Path, hidden: int = 16, layers: int = 2) -> Path:
    """A base model's ``config.json``, which is all that a check of adapters reads."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    (folder / "config.json").write_text(json.dumps(sizes))
    return folder


def write_adapter(
    folder: Path, base: Path, rank: int = 4, hidden: int = 16, layers: int = 2, fill: float = 0.5, **configuration: Any
) -> Path:
    """An adapter of ``q_proj`` in PEFT's form, with its weights in safetensors form (float32)."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"peft_type": "LORA", "r": rank, "bias": "none", "base_model_name_or_path": str(base)} | configuration
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for layer in range(layers):
        for side, shape in (("A", (rank, hidden)), ("B", (hidden, rank))):
            part = np.full(shape, fill, np.float32).tobytes()
            header[f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight"] = {
                "dtype": "F32",
                "shape": shape,
                "data_offsets": [len(data), len(data) + len(part)],
            }
            data += part
    table = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(table)) + table + data)
    return folder


if __name__ == "__main__":
    with FakeVllm(port=int(sys.argv[1])) as server:
        server.pause = 0.02
        threading.Event().wait()
