"""Adapters with one fault each, and whether a rollout refuses them without touching production."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.unit.serving.fake_vllm import FakeVllm, write_adapter

from tollgate.errors import BadInputError, GateRefusedError
from tollgate.registry import lifecycle, signatures
from tollgate.serving import release, rollout
from tollgate.serving.canary import CanaryPlan
from tollgate.serving.client import VllmClient
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel

WEIGHTS = "adapter_model.safetensors"


def _flip(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-2] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def _cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def _unsign(folder: Path) -> None:
    (folder / signatures.SIGNATURE).unlink()


def refused(server: FakeVllm, base: Path, folder: Path) -> dict[str, bool]:
    """By fault: whether the version was refused, and route, stages and server are as before.

    Args:
        server: Behaves as vLLM does.
        base: The base that it serves.
        folder: An empty folder.
    """
    route = "matrix"
    with VllmClient([server.address], base_model=base, max_rank=32, signed=True) as client:
        good = _register(route, write_adapter(folder / "good", base))
        with transaction() as session:
            release.promote(session, good, "bench", "first", ["ping"], client)
        found = {}
        for name, make in _faults(base, folder).items():
            found[name] = _is_refused(route, _register(route, *make()), client, server)
    return found


def _faults(base: Path, folder: Path) -> dict[str, Callable[[], tuple[Path, Callable[[Path], object] | None]]]:
    """How each faulty adapter is written, and what is done to it after it was signed."""
    other = folder / "other-base"
    return {
        "NaN in the weights": lambda: (write_adapter(folder / "nan", base, fill=float("nan")), None),
        "NaN or empty answers once loaded": lambda: (_serves_nan(write_adapter(folder / "empty", base)), None),
        "another base's shapes": lambda: (write_adapter(folder / "shapes", base, hidden=8), None),
        "another base's name": lambda: (write_adapter(folder / "name", other), None),
        "rank above the server's": lambda: (write_adapter(folder / "rank", base, rank=64), None),
        "half-copied, then signed": lambda: (_half(write_adapter(folder / "half", base)), None),
        "cut after it was signed": lambda: (write_adapter(folder / "cut", base), _cut),
        "one bit changed after it was signed": lambda: (write_adapter(folder / "bit", base), _flip),
        "unsigned": lambda: (write_adapter(folder / "unsigned", base), _unsign),
    }


def _serves_nan(folder: Path) -> Path:
    (folder / "serves_nan").touch()
    return folder


def _half(folder: Path) -> Path:
    _cut(folder)
    return folder


def _register(route: str, folder: Path, spoil: Callable[[Path], object] | None = None) -> int:
    digest = signatures.sign(folder)
    if spoil is not None:
        spoil(folder)
    with transaction() as session:
        newest = max((model.version for model in lifecycle.versions(session, route)), default=0)
        model = RegisteredModel(
            model_name=route,
            version=newest + 1,
            base_model="base",
            model_path=str(folder),
            verdict="pass",
            manifest_digest=digest,
        )
        session.add(model)
        session.flush()
        return model.id


def _state(route: str, server: FakeVllm) -> tuple[dict[int, float], list[str], list[str]]:
    with transaction() as session:
        stages = [model.status for model in lifecycle.versions(session, route)]
        return rollout.current(session, route), stages, sorted(server.loaded)


def _is_refused(route: str, model_id: int, client: VllmClient, server: FakeVllm) -> bool:
    before = _state(route, server)
    try:
        with transaction() as session:
            release.begin_rollout(session, model_id, "bench", "try", CanaryPlan(), ["ping"], client)
    except (BadInputError, GateRefusedError):
        return _state(route, server) == before
    return False
