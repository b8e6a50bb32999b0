"""How Airflow's tasks reach vLLM: by a connection or the settings; the wanted state is in PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from tollgate.registry import lifecycle
from tollgate.serving import rollout
from tollgate.serving.client import Prompt, VllmClient
from tollgate.settings import settings
from tollgate.store.session import transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tollgate.serving.rollout import Deployed, Reconciled


class VllmRolloutHook(BaseHook):
    """Does what ``tollgate.serving.rollout`` describes, each in one transaction.

    Args:
        vllm_conn_id: Airflow connection: either schema, host and port of one replica, or the extra field
            ``addresses`` with those of all. Where there is no such connection, the settings say where vLLM is.
    """

    default_conn_name = "vllm_default"

    def __init__(self, vllm_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.vllm_conn_id = vllm_conn_id

    @property
    def addresses(self) -> list[str]:
        """Base addresses of all replicas."""
        try:
            connection = self.get_connection(self.vllm_conn_id)
        except AirflowNotFoundException:
            return settings().vllm_addresses
        if several := connection.extra_dejson.get("addresses"):
            return [str(address).rstrip("/") for address in several]
        port = f":{connection.port}" if connection.port else ""
        return [f"{connection.schema or 'http'}://{connection.host}{port}"]

    def get_conn(self) -> VllmClient:
        """A client of all replicas."""
        return VllmClient(self.addresses)

    def load(self, model_id: int, prompts: Sequence[Prompt] = ()) -> str:
        """Load a version on every replica and, where there are questions, look at its answers.

        Returns:
            The name under which it is served.
        """
        with transaction() as session:
            model = lifecycle.get(session, model_id)
        with self.get_conn() as client:
            client.load_adapter(model.served_name, Path(model.model_path), model.manifest_digest)
            if prompts:
                client.probe(model.served_name, prompts)
        return model.served_name

    def unload(self, model_id: int) -> bool:
        """Unload a version unless requests may reach it; see ``tollgate.serving.rollout.unload_if_unused``."""
        with self.get_conn() as client, transaction() as session:
            return rollout.unload_if_unused(session, model_id, client)

    def deploy(self, route: str, model_id: int, by: str, prompts: Sequence[Prompt], share: float = 1.0) -> Deployed:
        """Load a version, look at its answers and move the route; see ``tollgate.serving.rollout.deploy``.

        Full weights get a server of their own first.
        """
        from tollgate.workflow import servers  # heavy, and operators are imported when DAGs are parsed

        with servers.ready_for_release(model_id, by), self.get_conn() as client, transaction() as session:
            return rollout.deploy(session, route, model_id, by, prompts, client, share)

    def roll_back(self, route: str, by: str, away_from: int | None = None) -> dict[str, float]:
        """Give the route back to what served it before; see ``tollgate.serving.rollout.roll_back``.

        Returns:
            The shares that the route has now, by served name.
        """
        with self.get_conn() as client, transaction() as session:
            shares = rollout.roll_back(session, route, by, client, away_from)
            return {lifecycle.get(session, model_id).served_name: share for model_id, share in shares.items()}

    def reconcile(self) -> Reconciled:
        """Bring every replica to the wanted state; see ``tollgate.serving.rollout.reconcile``."""
        with self.get_conn() as client, transaction() as session:
            return rollout.reconcile(session, client)
