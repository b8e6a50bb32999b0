"""A signed manifest of a model's files, made when the version is registered and checked before every load.

The manifest lists every file with its SHA-256 and stands in ``model.sig`` beside the files, as OpenSSF's model-signing
writes it (a DSSE envelope around an in-toto statement, signed with ECDSA over NIST P-256). It shows that the files are
those that were registered here; it says nothing about who made them before that. Since any folder that was once signed
would pass, the registry also keeps the manifest's own digest: another version's signed files are refused, too.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tollgate.errors import BadInputError, Problem
from tollgate.registry.model_card import CARD
from tollgate.settings import Settings, settings

SIGNATURE = "model.sig"
UNSIGNED = (SIGNATURE, CARD)
"""Files that the manifest leaves out: itself, and the model card, which is written again as figures come in."""

_SHOWN = 5


class ModelUnsignedError(BadInputError):
    """The model's folder has no signature."""


class SignatureMismatchError(BadInputError):
    """The model's files are not those that were signed, or nobody trusted signed them."""


def required(configuration: Settings | None = None) -> bool:
    """Whether models are signed when registered and checked before they are loaded."""
    return (configuration or settings()).signatures == "required"


def ensure_key(path: Path) -> Path:
    """Make the signing key unless it is there; of several processes that call this at once, all get the same key.

    Args:
        path: The private key in PEM form (mode 0600); its folder is made with mode 0700.

    Returns:
        The public key beside it, ``<name>.pub``, in PEM form.

    Raises:
        BadInputError: The file is there, but is no EC private key, or others may read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        _create_key(path)
    if path.stat().st_mode & 0o077:
        problem = Problem(str(path), f"mode {path.stat().st_mode & 0o777:o}", "mode 600")
        raise BadInputError("Others can read the signing key.", [problem])
    public = path.with_name(f"{path.name}.pub")
    if not public.exists():
        _write_whole(public, _public_half(path), 0o644)
    return public


def sign(folder: Path, key: Path | None = None) -> str:
    """Sign every file of a model's folder, and write ``model.sig`` into it.

    Args:
        folder: Folder of the adapter or of the full weights.
        key: The private key; default: that of the settings, made where there is none.

    Returns:
        The manifest's digest, 64 hexadecimal digits; it follows from the files' names and contents alone.

    Raises:
        BadInputError: There is no such folder, it holds no file or a symbolic link, or the key cannot be used.
    """
    from model_signing import signing

    key = key or settings().signing_key_file
    ensure_key(key)
    if not any(path.is_file() and path.name not in UNSIGNED for path in folder.rglob("*")):
        raise BadInputError("There is nothing to sign.", [Problem(str(folder), "no files", "a folder with a model")])
    partial = folder.parent / f".{folder.name}.{SIGNATURE}.{os.getpid()}"
    try:
        signing.Config().set_hashing_config(_hashing()).use_elliptic_key_signer(private_key=key).sign(folder, partial)
        partial.replace(folder / SIGNATURE)
    except ValueError as error:
        problem = Problem(str(folder), str(error), "ordinary files, and an EC key")
        raise BadInputError("The model cannot be signed.", [problem]) from error
    finally:
        partial.unlink(missing_ok=True)
    return manifest_digest(folder)


def verify(folder: Path, digest: str | None = None, trusted: Sequence[Path] | None = None) -> str:
    """Compare a model's files with its signed manifest.

    Args:
        folder: Folder of the adapter or of the full weights.
        digest: The digest that the registry keeps of the version's manifest; null: whichever was signed.
        trusted: Public keys; default: those of the settings, which is this installation's own.

    Returns:
        The manifest's digest.

    Raises:
        ModelUnsignedError: There is no signature.
        SignatureMismatchError: A file was changed, added or lost, the signature is damaged or of no trusted key, or the
            files are those of another version.
    """
    found = manifest_digest(folder)
    problems = _file_problems(folder)
    if problems:
        raise SignatureMismatchError("The model's files are not those that were signed.", problems)
    keys = list(trusted if trusted is not None else trusted_keys())
    reasons = [_refusal(folder, key) for key in keys]
    if None not in reasons:
        said = "; ".join(sorted({reason for reason in reasons if reason})) or "no key is trusted"
        expected = f"a signature by {' or '.join(map(str, keys)) or 'a key of TOLLGATE_TRUSTED_KEYS'}"
        raise SignatureMismatchError(
            "The model's signature is not valid.", [Problem(str(folder / SIGNATURE), said, expected)]
        )
    if digest is not None and digest != found:
        problem = Problem(str(folder), f"manifest {found[:12]}", f"manifest {digest[:12]}, as registered")
        raise SignatureMismatchError("The model's files are signed, but they are another version's.", [problem])
    return found


def manifest_digest(folder: Path) -> str:
    """The digest of the manifest in ``model.sig``, whether or not its signature is valid.

    Raises:
        ModelUnsignedError: There is no signature.
        SignatureMismatchError: It cannot be read.
    """
    statement = _statement(folder)
    try:
        return str(statement["subject"][0]["digest"]["sha256"])
    except (KeyError, IndexError, TypeError) as error:
        raise _unreadable(folder) from error


def trusted_keys(configuration: Settings | None = None) -> list[Path]:
    """The public keys whose signatures count: those of the settings, else this installation's own."""
    configuration = configuration or settings()
    return list(configuration.trusted_keys) or [ensure_key(configuration.signing_key_file)]


def _hashing() -> Any:
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=UNSIGNED, ignore_git_paths=False)


def _refusal(folder: Path, key: Path) -> str | None:
    """Why a signature does not hold under a key; null: it does."""
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    if not key.is_file():
        return f"there is no key {key}"
    checker = verifying.Config().set_hashing_config(_hashing()).use_elliptic_key_verifier(public_key=key)
    try:
        checker.verify(folder, folder / SIGNATURE)
    except InvalidSignature:
        return "a manifest that was changed after it was signed"
    except ValueError as error:
        return "a signature by another key" if "Key mismatch" in str(error) else str(error).partition("\n")[0]
    return None


def _file_problems(folder: Path) -> list[Problem]:
    """Files that differ from the manifest: what people need to know, in the words of files."""
    signed = _signed_files(folder)
    try:
        there = {entry.identifier: entry.digest.digest_hex for entry in _hashing().hash(folder).resource_descriptors()}
    except ValueError as error:
        return [Problem(str(folder), str(error), "ordinary files only")]
    lost = [Problem(str(folder / name), "no file", "the file that was signed") for name in signed.keys() - there.keys()]
    added = [
        Problem(str(folder / name), "a file that was not signed", "no file") for name in there.keys() - signed.keys()
    ]
    changed = [
        Problem(str(folder / name), f"SHA-256 {there[name][:12]}", f"{signed[name][:12]}, as signed: it was changed")
        for name in signed.keys() & there.keys()
        if signed[name] != there[name]
    ]
    return sorted([*changed, *lost, *added], key=str)[:_SHOWN]


def _signed_files(folder: Path) -> dict[str, str]:
    try:
        return {entry["name"]: entry["digest"] for entry in _statement(folder)["predicate"]["resources"]}
    except (KeyError, TypeError) as error:
        raise _unreadable(folder) from error


def _statement(folder: Path) -> dict[str, Any]:
    try:
        bundle = json.loads((folder / SIGNATURE).read_bytes())
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    except FileNotFoundError as error:
        problem = Problem(
            str(folder), f"no {SIGNATURE}", "a signed model: tollgate model sign NAME@vN, if you trust it"
        )
        raise ModelUnsignedError("The model is not signed.", [problem]) from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _unreadable(folder) from error
    return dict(statement)


def _unreadable(folder: Path) -> SignatureMismatchError:
    problem = Problem(str(folder / SIGNATURE), "something else", "a bundle as model-signing writes it")
    return SignatureMismatchError("The model's signature cannot be read.", [problem])


def _create_key(path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    text = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_whole(path, text, 0o600)


def _public_half(path: Path) -> bytes:
    from cryptography.hazmat.primitives import serialization

    try:
        private = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        problem = Problem(str(path), "something else", "an EC private key in PEM form, without a password")
        raise BadInputError("The signing key cannot be read.", [problem]) from error
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _write_whole(path: Path, content: bytes, mode: int) -> None:
    """Give the file its name only once it is whole, and never in the place of one that was there before."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
