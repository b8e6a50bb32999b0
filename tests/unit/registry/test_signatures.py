"""The signed manifest: what is refused, and in which words."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.unit.registry.test_commands import _run
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter, write_base

from tollgate.errors import BadInputError
from tollgate.registry import lifecycle, registration, signatures
from tollgate.registry.signatures import ModelUnsignedError, SignatureMismatchError
from tollgate.serving import rollout
from tollgate.serving.client import VllmClient
from tollgate.settings import settings
from tollgate.store.session import transaction

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOLLGATE_SIGNATURES", "required")
    settings.cache_clear()
    yield tmp_path / "home"
    settings.cache_clear()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", write_base(tmp_path / "base"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_signed_folder_may_move_and_get_a_new_card_but_no_other_change(adapter: Path, tmp_path: Path) -> None:
    digest = signatures.sign(adapter)
    moved = adapter.rename(tmp_path / "elsewhere")
    (moved / "README.md").write_text("# v1", encoding="utf-8")
    assert signatures.verify(moved, digest) == digest
    flip(moved / WEIGHTS)
    with pytest.raises(SignatureMismatchError, match=rf"{WEIGHTS}: found SHA-256 \w+, expected \w+, as signed"):
        signatures.verify(moved, digest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), f"{WEIGHTS}: found no file"),
        (
            lambda folder: (folder / "handler.py").write_text("import os"),
            "handler.py: found a file that was not signed",
        ),
        (lambda folder: (folder / ".gitignore").write_text("*"), ".gitignore: found a file that was not signed"),
        (lambda folder: (folder / "more").symlink_to("/etc/passwd"), "ordinary files only"),
    ],
)
def test_lost_and_added_files_are_named(adapter: Path, change: Callable[[Path], object], words: str) -> None:
    signatures.sign(adapter)
    change(adapter)
    with pytest.raises(SignatureMismatchError) as refused:
        signatures.verify(adapter)
    assert words in str(refused.value)


def test_an_unsigned_folder_and_an_unreadable_signature_are_told_apart(adapter: Path) -> None:
    with pytest.raises(ModelUnsignedError, match="tollgate model sign"):
        signatures.verify(adapter)
    (adapter / signatures.SIGNATURE).write_text('{"dsseEnvelope": {"payload": "e30="}}')
    with pytest.raises(SignatureMismatchError, match="cannot be read"):
        signatures.verify(adapter)


def test_a_manifest_made_to_fit_changed_files_is_found_out(adapter: Path) -> None:
    signatures.sign(adapter)
    flip(adapter / WEIGHTS)
    bundle = json.loads((adapter / signatures.SIGNATURE).read_bytes())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    for entry in statement["predicate"]["resources"]:
        entry["digest"] = hashlib.sha256((adapter / entry["name"]).read_bytes()).hexdigest()
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    (adapter / signatures.SIGNATURE).write_text(json.dumps(bundle))
    with pytest.raises(SignatureMismatchError, match="changed after it was signed"):
        signatures.verify(adapter)


def test_only_trusted_keys_count(adapter: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger" / "key.pem"
    signatures.sign(adapter, stranger)
    with pytest.raises(SignatureMismatchError, match="a signature by another key"):
        signatures.verify(adapter)
    with pytest.raises(SignatureMismatchError, match="no key is trusted"):
        signatures.verify(adapter, trusted=[])
    public = signatures.ensure_key(stranger)
    signatures.verify(adapter, trusted=[signatures.ensure_key(settings().signing_key_file), public])


def test_the_key_is_made_once_and_for_its_owner_only(home: Path) -> None:
    key = settings().signing_key_file
    with ThreadPoolExecutor(8) as pool:
        publics = {path.read_bytes() for path in pool.map(signatures.ensure_key, [key] * 8)}
    assert len(publics) == 1
    assert (stat.S_IMODE(key.stat().st_mode), stat.S_IMODE(key.parent.stat().st_mode)) == (0o600, 0o700)
    assert key == home / "keys" / "model-signing.pem"
    key.chmod(0o640)
    with pytest.raises(BadInputError, match="mode 640, expected mode 600"):
        signatures.ensure_key(key)


def test_registering_signs_once_and_a_retry_accepts_nothing_else(
    finished_job: Callable[[str], str], tmp_path: Path
) -> None:
    finished_job("job-1")
    folder = write_adapter(tmp_path / "job-1" / "adapter", tmp_path / "base")
    version = registration.reserve("job-1", "router", "kim")
    with transaction() as session:
        digest = lifecycle.get(session, version.model_id).manifest_digest
    assert signatures.verify(folder, digest) == digest
    assert registration.reserve("job-1", "router", "kim") == version
    flip(folder / WEIGHTS)
    with pytest.raises(SignatureMismatchError, match=WEIGHTS):
        registration.reserve("job-1", "router", "kim")


def test_a_crash_between_signature_and_row_is_made_good(finished_job: Callable[[str], str], tmp_path: Path) -> None:
    finished_job("job-1")
    folder = write_adapter(tmp_path / "job-1" / "adapter", tmp_path / "base")
    digest = signatures.sign(folder)
    version = registration.reserve("job-1", "router", "kim")
    with transaction() as session:
        assert lifecycle.get(session, version.model_id).manifest_digest == digest


@pytest.fixture
def versions(finished_job: Callable[[str], str], tmp_path: Path) -> list[int]:
    """Ids of two signed versions that passed."""
    ids = []
    for number, job in enumerate(("job-1", "job-2"), start=1):
        finished_job(job)
        write_adapter(tmp_path / job / "adapter", write_base(tmp_path / "base"), fill=number / 4)
        ids.append(registration.reserve(job, "router", "kim").model_id)
    with transaction() as session:
        for model_id in ids:
            lifecycle.record_verdict(session, model_id, "pass", [])
    return ids


def deploy(model_id: int, server: FakeVllm, base: Path) -> None:
    with VllmClient([server.address], base_model=base) as client, transaction() as session:
        rollout.deploy(session, "router", model_id, "kim", ["ping"], client)


def test_no_replica_loads_a_version_whose_files_were_changed(versions: list[int], tmp_path: Path) -> None:
    base = tmp_path / "base"
    with FakeVllm() as server:
        deploy(versions[0], server, base)
        flip(tmp_path / "job-2" / "adapter" / WEIGHTS)
        with pytest.raises(SignatureMismatchError, match=WEIGHTS):
            deploy(versions[1], server, base)
        assert list(server.loaded) == ["router@v1"]
        server.restart_empty()
        flip(tmp_path / "job-1" / "adapter" / WEIGHTS)
        with VllmClient([server.address], base_model=base) as client, transaction() as session:
            done = rollout.reconcile(session, client)
        assert (done.loaded, list(server.loaded)) == ([], [])
        assert "as signed: it was changed" in done.problems[0]


def test_another_versions_signed_files_are_refused(versions: list[int], tmp_path: Path) -> None:
    (tmp_path / "job-2" / "adapter").rename(tmp_path / "kept")
    (tmp_path / "job-1" / "adapter").rename(tmp_path / "job-2" / "adapter")
    with FakeVllm() as server, pytest.raises(SignatureMismatchError, match="they are another version's"):
        deploy(versions[1], server, tmp_path / "base")


def test_a_person_can_check_a_version_and_sign_one_from_before(versions: list[int], tmp_path: Path) -> None:
    assert "are those that were signed" in _run("verify", "router@v1")
    (tmp_path / "job-1" / "adapter" / signatures.SIGNATURE).unlink()
    with pytest.raises(ModelUnsignedError):
        _run("verify", "router@v1")
    _run("sign", "router@v1", "--why", "moved here from the old server")
    assert len(json.loads(_run("verify", "router@v1", "--json"))["manifest_digest"]) == 64
    with transaction() as session:
        last = lifecycle.history(session, "router")[-1]
    assert (last.to_stage, "moved here" in last.why) == ("candidate", True)
