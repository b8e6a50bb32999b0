"""The stack's secrets: generated on first start, kept in one file that only its owner can read."""

from __future__ import annotations

import base64
import os
import secrets
import tempfile
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from tollgate.errors import BadInputError, Problem


def _password() -> str:
    return secrets.token_urlsafe(18)


def _key() -> str:
    return secrets.token_hex(64)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


class Secrets(BaseModel):
    """What nobody but the stack's owner may know."""

    airflow_admin_password: str = Field(default_factory=_password, description="Password of Airflow's user admin.")
    airflow_jwt_secret: str = Field(default_factory=_key, description="Signs Airflow's tokens; 128 bytes.")
    airflow_secret_key: str = Field(default_factory=_key, description="Signs the web UI's sessions.")
    airflow_fernet_key: str = Field(default_factory=_fernet_key, description="Encrypts Airflow's connections.")
    gateway_key: str = Field(default_factory=_password, description="Bearer key that the gateway's clients show.")
    gateway_user_secret: str = Field(
        default_factory=_key, description="Secret of the users' pseudonyms; a new one gives every user a new arm."
    )


def load_or_create(path: Path) -> Secrets:
    """Read the secrets; generate those that the file lacks, or the whole file when there is none.

    Two processes that call this at the same time get the same secrets.

    Args:
        path: The file; its folder is made when missing. It gets mode 0600.

    Raises:
        BadInputError: The file is there but is not what this function wrote.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _create(path, Secrets())
    path.chmod(0o600)
    try:
        text = path.read_text(encoding="utf-8")
        found = Secrets.model_validate_json(text)
    except (ValidationError, UnicodeDecodeError) as error:
        problem = Problem(str(path), "something else", "the JSON that Tollgate wrote")
        raise BadInputError(
            "The file of secrets cannot be read; restore it, or remove it to get new ones.", [problem]
        ) from error
    if found.model_fields_set != set(Secrets.model_fields):
        _replace(path, found)
    return found


def _write_beside(path: Path, content: Secrets) -> Path:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return Path(name)


def _create(path: Path, content: Secrets) -> None:
    temporary = _write_beside(path, content)
    try:
        path.hardlink_to(temporary)  # unlike a rename, never overwrites the file of a process that was faster
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _replace(path: Path, content: Secrets) -> None:
    _write_beside(path, content).replace(path)
