"""Who may use the gateway, and who a request's user is."""

from __future__ import annotations

import hmac
import ipaddress
from http import HTTPStatus
from typing import Any

from gateway.asgi import Scope, header
from gateway.errors import RequestError
from tollgate.experiments.assignment import hash_user

USER_HEADER = b"x-tollgate-user"


class Access:
    """Checks bearer keys and gives users their pseudonyms.

    Args:
        key: The key that clients must show; without one only this machine's clients are let in.
        secret: Secret of the pseudonyms.
    """

    def __init__(self, key: str | None, secret: str) -> None:
        self._key = key.encode() if key else None
        self._secret = secret

    def check(self, scope: Scope) -> None:
        """Return if the client may go on.

        Raises:
            RequestError: 401 for a missing or wrong key, 403 for a foreign client where there is no key.
        """
        if self._key is None:
            if not _is_local(scope):
                text = "The gateway has no key yet (TOLLGATE_GATEWAY_KEY) and serves its own machine only."
                raise RequestError(HTTPStatus.FORBIDDEN, text, "no_key_configured")
            return
        if not hmac.compare_digest(_bearer(scope).encode(), self._key):
            text = "The API key is missing or wrong; send it as 'Authorization: Bearer <key>'."
            raise RequestError(HTTPStatus.UNAUTHORIZED, text, "invalid_api_key")

    def user(self, scope: Scope, payload: dict[str, Any]) -> str | None:
        """Pseudonym of the request's user: the header, else the field ``user``, else the API key; else null."""
        named = header(scope, USER_HEADER) or payload.get("user")
        if isinstance(named, str) and named:
            return hash_user(named, self._secret)
        key = _bearer(scope)
        return hash_user(f"key {key}", self._secret) if key else None


def _bearer(scope: Scope) -> str:
    scheme, _, key = (header(scope, b"authorization") or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _is_local(scope: Scope) -> bool:
    client = scope.get("client")
    if client is None:  # a Unix socket
        return True
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False
