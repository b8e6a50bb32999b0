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
from tests.performance.gateway_backend import BODY

from tollgate.settings import PROJECT

_PATIENCE = 420.0


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


def fixed_backend(folder: Path) -> contextlib.AbstractContextManager[Server] | None:
    """An nginx that answers every request with the same text, and leaves the processor to others."""
    program = _nginx_program()
    if program is None:
        return None
    port = free_port()
    text = BODY.decode().replace("\\", "\\\\").replace("'", "\\'")
    location = f"location / {{ default_type application/json; return 200 '{text}'; }}"
    return _run_nginx(program, folder / f"fixed-{port}", port, 1, "", location)


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


def nginx(folder: Path, backend_port: int, workers: int = 1) -> contextlib.AbstractContextManager[Server] | None:
    """nginx with kept connections; none where it is not installed (``BENCH_NGINX`` names another)."""
    program = _nginx_program()
    if program is None:
        return None
    upstream = f"upstream backend {{ server 127.0.0.1:{backend_port}; keepalive 256; }}"
    location = (
        "location / { proxy_pass http://backend; proxy_http_version 1.1; "
        'proxy_set_header Connection ""; proxy_buffering off; }'
    )
    port = free_port()
    return _run_nginx(program, folder / f"nginx-{port}", port, workers, upstream, location)


def _nginx_program() -> str | None:
    return os.environ.get("BENCH_NGINX") or shutil.which("nginx", path=f"{os.environ.get('PATH')}:/usr/sbin")


def _run_nginx(
    program: str, root: Path, port: int, workers: int, upstream: str, location: str
) -> contextlib.AbstractContextManager[Server]:
    root.mkdir()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {root}/{kind};" for kind in kinds)
    configuration = root / "nginx.conf"
    configuration.write_text(
        f"""daemon off; worker_processes {workers}; pid {root}/pid; error_log stderr error;
events {{ worker_connections 2048; }}
http {{
  access_log off; {temporary}
  {upstream}
  server {{ listen 127.0.0.1:{port} reuseport; keepalive_requests 10000000; {location} }}
}}
""",
        encoding="utf-8",
    )
    return serve([program, "-p", str(root), "-c", str(configuration)], port, None, root / "log")


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
