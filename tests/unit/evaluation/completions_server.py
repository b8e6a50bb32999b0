"""A completions server whose log probabilities are known, in a thread: what vLLM answers to ``echo`` and ``logprobs``.

Tokens are bytes as the tokenizer of :func:`write_tokenizer` makes them. A token of a likely text has the probability
1/2, any other 1/8.
"""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>")


def symbols() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies (GPT-2's ``bytes_to_unicode``)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]


def write_tokenizer(folder: Path, template: bool = True) -> Path:
    """A tokenizer of single bytes, token n being byte n, with a chat template or without."""
    folder.mkdir(parents=True, exist_ok=True)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 256 + place, "content": text, **added} for place, text in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {symbol: byte for byte, symbol in enumerate(symbols())}, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[1], "pad_token": SPECIAL[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if template:
        (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def tokens_of(text: str) -> list[int]:
    """The tokens that the tokenizer makes of a text."""
    tokens: list[int] = []
    while text:
        special = next((one for one in SPECIAL if text.startswith(one)), None)
        tokens += [256 + SPECIAL.index(special)] if special else list(text[0].encode())
        text = text[len(special) if special else 1 :]
    return tokens


class CompletionsServer:
    """Answers ``/v1/completions``, ``/v1/models`` and ``/tokenize``.

    Args:
        root: Folder that it says the model is in.
        likely: The texts whose bytes are likely.
    """

    def __init__(self, root: Path, likely: str = "예") -> None:
        self.root = root
        self.likely = set(likely.encode())
        self.asked: Counter[tuple[int, ...]] = Counter()
        self.keys: set[str | None] = set()
        self.knows_logprobs = True
        self.status = 200
        self.fails_after: int | None = None
        self.system = ""
        self.model = "m"
        handler = type("Handler", (_Handler,), {"served": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def logprob(self, token: int) -> float:
        return math.log(0.5 if token in self.likely else 0.125)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/v1/models":
            return 200, {"data": [{"id": self.model, "root": str(self.root), "max_model_len": 400, "parent": None}]}
        if self.status != 200:
            return self.status, {"error": {"message": "no"}}
        if path == "/tokenize":
            return 200, {"tokens": tokens_of(self.system + self._chat(body["messages"]))}
        return self._complete(body)

    def _chat(self, messages: list[dict[str, str]]) -> str:
        turns = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in messages)
        return turns + "<|im_start|>assistant\n"

    def _complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["model"] != self.model:
            return 404, {"error": {"message": "no such model"}}
        prompt = body["prompt"]
        if isinstance(prompt, str):
            tokens = tokens_of(prompt)
        else:
            [tokens] = prompt
            self.asked[tuple(tokens)] += 1
            if self.fails_after is not None and self.asked.total() > self.fails_after:
                return 503, {"error": {"message": "overloaded"}}
        logprobs = [None, *map(self.logprob, tokens[1:]), -0.1]
        found = {"token_logprobs": logprobs, "top_logprobs": [one if one is None else {"t": one} for one in logprobs]}
        choice = {"index": 0, "text": "", "logprobs": found if self.knows_logprobs and body["echo"] else None}
        return 200, {"choices": [choice]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: CompletionsServer

    def do_GET(self) -> None:
        self._respond({})

    def do_POST(self) -> None:
        self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _respond(self, body: dict[str, Any]) -> None:
        self.served.keys.add(self.headers.get("Authorization"))
        status, answer = self.served.answer(self.path, body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked was killed
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
