"""The servers that the gateway's benchmark starts: backends, gateways, nginx, LiteLLM and PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tollgate.settings import PROJECT

_PATIENCE = 180.0


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Server:
    """A process that listens on a port."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def memory(self) -> float:
        """Resident memory in MB, its children's included."""
        main = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in (main, *main.children(recursive=True))) / 2**20

    @property
    def processor_seconds(self) -> float:
        """Processor time so far, its children's included."""
        main = psutil.Process(self.process.pid)
        times = [one.cpu_times() for one in (main, *main.children(recursive=True))]
        return sum(one.user + one.system for one in times)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the process and its children, and wait."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            self.process.wait(60)


@contextlib.contextmanager
def serve(command: list[str], port: int, health: str | None, log: Path, **environment: str) -> Iterator[Server]:
    """Run a server until the end of the block.

    Args:
        command: What to run.
        port: Where it listens.
        health: Path that answers 200 once it is ready; none: until the port takes connections.
        log: File of its output.
        environment: Additions to the environment.

    Raises:
        RuntimeError: It ended, or was not ready in time.
    """
    paths = {"PYTHONPATH": f"{PROJECT / 'include'}:{PROJECT / 'containers'}:{PROJECT}"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | paths | environment,
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, port)
    try:
        _wait(server, health, log)
        yield server
    finally:
        server.end()


def backend(folder: Path) -> contextlib.AbstractContextManager[Server]:
    """A fast stand-in for vLLM."""
    port = free_port()
    command = [sys.executable, "-m", "tests.performance.gateway_backend", str(port)]
    return serve(command, port, None, folder / f"backend-{port}.log")


def gateway(
    folder: Path, backends: list[int], database: str, **options: str
) -> contextlib.AbstractContextManager[Server]:
    """A gateway in front of these backends, with all that it has in production turned on."""
    port = free_port()
    addresses = ",".join(f'"http://127.0.0.1:{one}"' for one in backends)
    environment = {
        "TOLLGATE_DATABASE_URL": database,
        "TOLLGATE_VLLM_URLS": f"[{addresses}]",
        "TOLLGATE_HOME": str(folder / "home"),
        "TOLLGATE_GATEWAY_KEY": "own",
        "TOLLGATE_GATEWAY_USER_SECRET": "secret",
    }
    command = [sys.executable, "-m", "gateway", "--port", str(port)]
    return serve(command, port, "/readyz", folder / f"gateway-{port}.log", **environment, **options)


def nginx(folder: Path, backend_port: int) -> contextlib.AbstractContextManager[Server] | None:
    """nginx with one worker and kept connections; none where it is not installed (``BENCH_NGINX`` names another)."""
    program = os.environ.get("BENCH_NGINX") or shutil.which("nginx", path=f"{os.environ.get('PATH')}:/usr/sbin")
    if program is None:
        return None
    port = free_port()
    (folder / "nginx").mkdir()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""daemon off; worker_processes 1; pid {folder}/nginx/pid; error_log stderr error;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx/body; proxy_temp_path {folder}/nginx/proxy;
  fastcgi_temp_path {folder}/nginx/fastcgi; uwsgi_temp_path {folder}/nginx/uwsgi; scgi_temp_path {folder}/nginx/scgi;
  upstream backend {{ server 127.0.0.1:{backend_port}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 10000000;
    location / {{
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
""",
        encoding="utf-8",
    )
    return serve([program, "-p", str(folder / "nginx"), "-c", str(configuration)], port, None, folder / "nginx.log")


def litellm(folder: Path, backend_port: int) -> contextlib.AbstractContextManager[Server] | None:
    """LiteLLM's proxy with one worker and no database; none where ``BENCH_LITELLM`` names no environment with it."""
    environment = os.environ.get("BENCH_LITELLM")
    program = Path(environment or ".venv-litellm").absolute() / "bin" / "litellm"
    if not program.exists():
        return None
    port = free_port()
    configuration = folder / "litellm.yaml"
    configuration.write_text(
        f"""model_list:
  - model_name: router
    litellm_params:
      model: openai/router
      api_base: http://127.0.0.1:{backend_port}/v1
      api_key: none
general_settings: {{ master_key: sk-bench }}
litellm_settings: {{ telemetry: false, set_verbose: false }}
""",
        encoding="utf-8",
    )
    command = [str(program), "--config", str(configuration), "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": ""}
    return serve(command, port, "/health/liveliness", folder / "litellm.log", **quiet)


def _wait(server: Server, health: str | None, log: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if server.process.poll() is not None:
            break
        if _is_ready(server.port, health):
            return
        time.sleep(0.1)
    text = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"{log.stem} did not start:\n{text}")


def _is_ready(port: int, health: str | None) -> bool:
    try:
        if health is None:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}{health}", timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False
