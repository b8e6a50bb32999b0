"""The gateway's own settings, from ``TOLLGATE_GATEWAY_*``; ``tollgate.settings`` says where everything is."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from tollgate.settings import PROJECT


class GatewayOptions(BaseSettings):
    """Every setting of the gateway, one field each."""

    model_config = SettingsConfigDict(env_prefix="TOLLGATE_GATEWAY_", env_file=str(PROJECT / ".env"), extra="ignore")

    key: SecretStr | None = Field(
        None, description="Bearer key that clients must show; empty: no key, and this machine's clients only."
    )
    user_secret: SecretStr | None = Field(
        None,
        description="Secret of the users' pseudonyms; empty: the bearer key. A new one gives every user a new arm.",
    )
    log_text: bool = Field(True, description="Whether questions and answers are kept in the request log.")
    max_body_bytes: int = Field(8 * 2**20, ge=1024, description="Largest request body.")
    upstream_timeout: float = Field(300.0, gt=0, description="Seconds that one answer may take, streams included.")
    connect_timeout: float = Field(2.0, gt=0, description="Seconds to wait for a connection to vLLM or PostgreSQL.")
    refresh_seconds: float = Field(0.5, gt=0, le=60, description="How often routes and experiments are read again.")
    requests_per_minute: int = Field(
        100,
        ge=0,
        description="Requests a minute of each key and each address, at all gateways together; 0: no limit. "
        "The key above has none.",
    )
    shares_limits: bool = Field(True, description="Whether limits hold for all gateways together; else at each one.")
    body_seconds: float = Field(30.0, gt=0, description="Seconds in which a request's body must arrive.")
    breaker_failures: int = Field(
        5, ge=1, description="Failures in a row after which a provider's address is left alone."
    )
    breaker_seconds: float = Field(5.0, gt=0, description="Seconds that it is left alone before it is tried again.")
    drain_seconds: float = Field(
        0.0, ge=0, le=60, description="Seconds between 'not ready' and the end of new connections, on SIGTERM."
    )
    spool: Path | None = Field(
        None, description="Folder of log entries that PostgreSQL does not have yet; empty: gateway-spool under home."
    )
    spool_bytes: int = Field(
        2**30, ge=2**10, description="Most bytes there; above three quarters texts are left out, then entries."
    )
    workers: int = Field(1, ge=1, le=64, description="Processes on the gateway's port, one for each core it may use.")
    log_pause: float = Field(0.2, gt=0, le=60, description="Seconds between two writes of the log.")

    @property
    def pseudonym_secret(self) -> str:
        """The secret that users are hashed with."""
        secret = self.user_secret or self.key
        return secret.get_secret_value() if secret else ""
