from __future__ import annotations

import base64
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tollgate.errors import BadInputError
from tollgate.stack.secrets import Secrets, load_or_create


def test_first_call_writes_a_file_for_its_owner_only_and_later_calls_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secrets.json"
    first = load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create(path) == first
    assert [entry.name for entry in path.parent.iterdir()] == ["secrets.json"]


def test_secrets_are_long_enough_for_what_they_sign(tmp_path: Path) -> None:
    secrets = load_or_create(tmp_path / "secrets.json")
    assert len(secrets.airflow_jwt_secret.encode()) >= 64
    assert len(base64.urlsafe_b64decode(secrets.airflow_fernet_key)) == 32
    values = list(secrets.model_dump().values())
    assert len(set(values)) == len(values)


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_or_create(path), range(32)))
    assert all(secrets == found[0] for secrets in found)


def test_a_secret_that_an_older_file_lacks_is_added_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    before = load_or_create(path).model_dump()
    del before["gateway_key"]
    path.write_text(json.dumps(before), encoding="utf-8")
    completed = load_or_create(path)
    assert completed.gateway_key
    assert completed.model_dump(exclude={"gateway_key"}) == before
    assert load_or_create(path) == completed


def test_a_file_that_others_can_read_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text(Secrets().model_dump_json(), encoding="utf-8")
    path.chmod(0o644)
    load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b'["a"]', b"\xff\xfe", b'{"gateway_key": 5}'])
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secrets.json"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"secrets\.json"):
        load_or_create(path)
    assert path.read_bytes() == content
