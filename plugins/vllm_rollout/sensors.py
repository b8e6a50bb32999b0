"""Following a rollout by steps: each look is one short poke, and no worker is held in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from runs.people import who

if TYPE_CHECKING:
    from airflow.sdk import Context


class RolloutSensor(BaseSensorOperator):
    """Look at a rollout until it has ended; the result (XCom) is its state then.

    Args:
        rollout: What ``tollgate.workflow.rollouts.begin`` returned, as JSON. Templated.
    """

    template_fields: Sequence[str] = ("rollout",)
    ui_color = "#dbe2f7"

    def __init__(self, *, rollout: Mapping[str, Any] | Any, **kwargs: Any) -> None:
        super().__init__(mode="reschedule", **kwargs)
        self.rollout = rollout

    def poke(self, context: Context) -> PokeReturnValue:
        """Measure, decide, and do what was decided.

        Raises:
            ServiceUnavailableError: PostgreSQL did not answer; the next poke goes on.
        """
        from tollgate.workflow import rollouts  # imports SciPy, which parsing must not wait for

        if self.rollout["rollout_id"] is None:
            return PokeReturnValue(is_done=True, xcom_value=dict(self.rollout))
        state = rollouts.look(self.rollout["rollout_id"], who(context))
        self.log.info("%s: %s · %s", state.action, " ".join(state.reasons), " ".join(state.reasons_ko))
        return PokeReturnValue(is_done=state.status != "running", xcom_value=state.model_dump(mode="json"))
