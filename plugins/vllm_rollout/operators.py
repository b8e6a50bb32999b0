"""Tasks that load, unload, deploy and take back model versions; each may be repeated with the same outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from tollgate.errors import BadInputError, Problem
from vllm_rollout.hook import VllmRolloutHook

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tollgate.serving.client import Prompt

BY = "{{ dag_run.triggering_user_name or dag_run.run_id }}"
"""Who stands in the history: the user who started the run, else the run itself."""


class _RolloutOperator(BaseOperator):
    """What the operators share: the connection."""

    def __init__(self, *, vllm_conn_id: str = VllmRolloutHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vllm_conn_id = vllm_conn_id

    @property
    def hook(self) -> VllmRolloutHook:
        """The hook that does the work."""
        return VllmRolloutHook(self.vllm_conn_id)


class LoadAdapterOperator(_RolloutOperator):
    """Load a version beside what is served, after its files were checked, and optionally look at its answers.

    The result (XCom) is the name under which it is served.

    Args:
        model_id: Row of ``model_registry``. Templated, as is the following.
        prompts: Questions that it must answer.
        vllm_conn_id: Airflow connection of vLLM.
    """

    template_fields: Sequence[str] = ("model_id", "prompts")
    ui_color = "#e6e9f5"

    def __init__(self, *, model_id: int | str, prompts: Sequence[Prompt] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model_id = model_id
        self.prompts = prompts

    def execute(self, context: Context) -> str:
        """Load the version.

        Raises:
            BadInputError: There is no such version, or its files or vLLM rule it out.
            ProbeFailedError: It answers nothing.
            ServiceUnavailableError: PostgreSQL or a replica did not answer.
        """
        name = self.hook.load(_parse_id(self.model_id), list(self.prompts))
        self.log.info("%s is loaded on every replica", name)
        return name


class UnloadAdapterOperator(_RolloutOperator):
    """Unload a version unless it is deployed or in a running experiment; nothing to unload is fine.

    The result (XCom) is whether it is unloaded now.

    Args:
        model_id: Row of ``model_registry``; empty or ``None`` where the version was never registered. Templated.
        vllm_conn_id: Airflow connection of vLLM.
    """

    template_fields: Sequence[str] = ("model_id",)
    ui_color = "#ececec"

    def __init__(self, *, model_id: int | str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model_id = model_id

    def execute(self, context: Context) -> bool:
        """Unload the version.

        Raises:
            BadInputError: There is no such version.
            ServiceUnavailableError: PostgreSQL or a replica did not answer.
        """
        if self.model_id in {None, "", "None"}:
            self.log.info("No version was registered; there is nothing to unload")
            return True
        unloaded = self.hook.unload(_parse_id(self.model_id))
        self.log.info("Unloaded" if unloaded else "Kept: requests may reach it")
        return unloaded


class DeployModelOperator(_RolloutOperator):
    """Load a version, look at its answers, and move a route to it; what served before stays loaded.

    The result (XCom) holds ``route``, ``served_name``, ``moved`` and ``former``.

    Args:
        route: Name that clients use. Templated, as are all the following.
        model_id: Row of ``model_registry``.
        prompts: Questions that it must answer.
        share: Share of the route's users, above 0 and up to 1.
        by: Who decided.
        vllm_conn_id: Airflow connection of vLLM.
    """

    template_fields: Sequence[str] = ("route", "model_id", "prompts", "share", "by")
    ui_color = "#dbe2f7"

    def __init__(
        self,
        *,
        route: str,
        model_id: int | str,
        prompts: Sequence[Prompt],
        share: float | str = 1.0,
        by: str = BY,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.route = route
        self.model_id = model_id
        self.prompts = prompts
        self.share = share
        self.by = by

    def execute(self, context: Context) -> dict[str, Any]:
        """Deploy the version.

        Raises:
            BadInputError: There is no such version or share, or the version's files or vLLM rule it out.
            ProbeFailedError: It answers nothing; the route was not moved.
            ServiceUnavailableError: PostgreSQL or a replica did not answer; the route was not moved.
        """
        done = self.hook.deploy(
            self.route, _parse_id(self.model_id), self.by, list(self.prompts), _parse_share(self.share)
        )
        self.log.info("%s is served by %s; before: %s", done.route, done.served_name, ", ".join(done.former) or "none")
        return {
            "route": done.route,
            "served_name": done.served_name,
            "moved": done.moved,
            "former": list(done.former),
        }


class RollBackOperator(_RolloutOperator):
    """Give a route back to what served it before.

    The result (XCom) holds the route's shares by served name.

    Args:
        route: Name that clients use. Templated, as are all the following.
        away_from: Row of ``model_registry`` to leave; named, so that a retry cannot go back twice.
        by: Who decided.
        vllm_conn_id: Airflow connection of vLLM.
    """

    template_fields: Sequence[str] = ("route", "away_from", "by")
    ui_color = "#f7e3db"

    def __init__(self, *, route: str, away_from: int | str, by: str = BY, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.route = route
        self.away_from = away_from
        self.by = by

    def execute(self, context: Context) -> dict[str, float]:
        """Go back.

        Raises:
            BadInputError: There is no former state to go back to.
            ServiceUnavailableError: PostgreSQL or a replica did not answer; the route was not moved.
        """
        shares = self.hook.roll_back(self.route, self.by, _parse_id(self.away_from))
        self.log.info("%s is served by %s", self.route, ", ".join(shares) or "nothing")
        return shares


class ReconcileOperator(_RolloutOperator):
    """Bring every replica to the wanted state: load what routes and experiments need, unload what nothing refers to.

    The result (XCom) holds what was ``loaded`` and ``unloaded``, and the ``problems`` that stand in the way.
    """

    ui_color = "#e6e9f5"

    def execute(self, context: Context) -> dict[str, Any]:
        """Reconcile.

        Raises:
            ServiceUnavailableError: PostgreSQL did not answer.
        """
        done = self.hook.reconcile()
        for problem in done.problems:
            self.log.warning("%s", problem)
        return asdict(done)


def _parse_id(value: int | str | None) -> int:
    """A template gives an id as text."""
    if str(value).isdecimal():
        return int(str(value))
    raise BadInputError("The model version is not known.", [Problem("model_id", repr(value), "a number")])


def _parse_share(value: float | str) -> float:
    try:
        return float(value)
    except ValueError:
        raise BadInputError("No such share.", [Problem("share", repr(value), "above 0 and up to 1")]) from None
