"""KoBEST on a real vLLM (CPU), through lm-evaluation-harness and directly: the same choices."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.unit.evaluation.completions_server import write_tokenizer
from tests.unit.evaluation.kobest_files import write_kobest
from tests.unit.training.example_base import QWEN3, write_base_model, write_random_weights

from tollgate.evaluation.cases import CaseResult, read_json_lines
from tollgate.evaluation.harness import run_harness
from tollgate.evaluation.suite_run import Asking, run_suite
from tollgate.evaluation.suites import open_suite
from tollgate.settings import PROJECT, settings

LONGEST = 400
START_SECONDS = 900
VOCABULARY = 258


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of random weights with a chat template; each byte is a token."""
    folder = tmp_path / "model"
    write_base_model(folder, hidden=128, vocab_size=VOCABULARY, **QWEN3)
    write_tokenizer(folder)
    write_random_weights(folder, seed=7, spread=0.1)
    return folder


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[str]:
    for python in (settings().ml_python, settings().harness_python):
        if not python.exists():
            pytest.skip(f"{python} is not there; make it with: make setup")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "TOLLGATE_HOME": str(tmp_path / "home"),
        "TOLLGATE_BASE_MODEL": str(model),
        "TOLLGATE_VLLM_PORT": str(port),
        "TOLLGATE_MAX_MODEL_LEN": str(LONGEST),
        # Compiling how log probabilities are ranked takes longer than ranking these.
        "TORCHDYNAMO_DISABLE": "1",
    }
    command = [str(settings().ml_python), str(PROJECT / "containers" / "vllm" / "serve.py"), "--dtype", "float32"]
    with (
        (tmp_path / "vllm.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            _wait(f"http://127.0.0.1:{port}", process, tmp_path / "vllm.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            if httpx.get(f"{address}/health", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"vLLM did not become healthy: {log.read_text(errors='replace')[-3000:]}")


def test_harness_and_direct_way_choose_the_same(server: str, model: Path, tmp_path: Path) -> None:
    suite = write_kobest(tmp_path / "kobest")
    asking = Asking(server=server, model="base", concurrency=4)
    direct = run_suite(open_suite(suite, "likelihood"), asking, tmp_path / "direct")
    harness = run_harness(suite, asking, tmp_path / "harness")
    assert [case.answer for case in harness.cases] == [case.answer for case in direct.cases]
    assert [case.correct for case in harness.cases] == [case.correct for case in direct.cases]

    answers = {case.id: case for _, case in read_json_lines(tmp_path / "direct" / "answers.jsonl", CaseResult)}
    lines = (tmp_path / "harness" / "harness" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(answers)
    for case, line in zip(harness.cases, lines, strict=True):
        ours, theirs = answers[case.id].logprobs, json.loads(line)["logprobs"]
        # The harness counts the line break before the answer to it: the same for every choice of a question.
        gaps = np.subtract(theirs, ours)
        assert (gaps < 0).all()
        assert gaps == pytest.approx(gaps[0], abs=0.01)
