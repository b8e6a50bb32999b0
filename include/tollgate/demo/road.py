"""The demo's road: three candidates for a router of customer messages, and an A/B test with simulated users.

Everything goes through the doors that users have: Airflow's REST interface and the gateway.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

from rich.console import Console
from rich.progress import Progress

from tollgate.demo.experiment import EXPERIMENT
from tollgate.demo.follow import RunFollower
from tollgate.demo.messages import SYSTEM_PROMPT, ab_messages
from tollgate.demo.raw_data import write_raw
from tollgate.demo.recipe import ADAPTERS, Candidate
from tollgate.demo.summary import CandidateSummary, DatasetSummary, DemoSummary, ExperimentSummary
from tollgate.demo.users import Crowd, Question, Visit, send_users
from tollgate.errors import ServiceUnavailableError, TollgateError
from tollgate.serving.release import retire
from tollgate.settings import PROJECT, Settings
from tollgate.stack import lifecycle
from tollgate.stack.access import ADMIN, local_airflow
from tollgate.stack.secrets import load_or_create
from tollgate.store.session import transaction

ROUTE = "highway-router"
DATASET = "highway"
DAGS = ("prepare_dataset", "finetune", "analyze_experiments")
OPERATOR = "the demo's operator"
NAMES: dict[Candidate, str] = {
    "first": "part of the data",
    "swapped": "swapped labels",
    "full": "all data",
    "wrong": "wrong everywhere",
}
FORM_FIELDS = ("method", "lora_rank", "lora_alpha", "learning_rate", "epochs", "batch_size", "max_length", "precision")
WAVES = 4
HARM_WAVES = 7
"""Waves of the harmful challenger's users: together as many as the good one's test has at once."""
HARM_FIRST_USER = 100_000
STRICT_THRESHOLD = 0.95
"""The candidate of all rows answers more than this right, and its lower bound lies below: nobody can tell."""


class DemoRoad:
    """One walk along the road; what happened stands in :attr:`summary`.

    Args:
        configuration: The settings.
        console: Where to say what happens.
        seed: Seed of data and users.
    """

    def __init__(self, configuration: Settings, console: Console, seed: int = 0) -> None:
        self.summary = DemoSummary()
        self._settings = configuration
        self._console = console
        self._seed = seed
        self._datasets: dict[Candidate, str] = {}

    def walk(self, ask: bool = False, harm: bool = False) -> DemoSummary:
        """Walk the whole road: base model, stack, data, three candidates, A/B test.

        Args:
            ask: Then send one more candidate to a stricter gate, which asks a person; wait for the answer.
            harm: Then let a challenger that is fluent and wrong pass its gate, and see a guardrail roll it back.
        """
        with self._stage("base model"):
            self._pretrain()
        with self._stage("stack"):
            lifecycle.up(self._settings, self._console)
            self._wait_for_dags()
            self._clear_route()
        with self._stage("datasets"):
            full = self._prepare_first_two()
        self._finetune("first", self._datasets["first"])
        self._finetune("swapped", self._datasets["swapped"])
        with self._stage("dataset, all data"):
            self._datasets["full"] = self._end_of_prepare(full, f"prepare, {NAMES['full']}")["reference"]
        self._finetune("full", self._datasets["full"])
        with self._stage("A/B test"):
            self._experiment()
        self._judge()
        if ask:
            self._finetune("full", self._datasets["full"], ask=True)
            self._judge_question()
        if harm:
            self._harm()
        return self.summary

    def walk_real_data(self, source: Path, steps: int) -> DemoSummary:
        """Take a file of the user's through the same road with a few training steps, and say what the gate said.

        Args:
            source: The file.
            steps: Training steps.
        """
        with self._stage("base model"):
            self._pretrain()
        with self._stage("stack"):
            lifecycle.up(self._settings, self._console)
            self._wait_for_dags()
        name = _dataset_name(source)
        with self._stage("dataset"):
            run_id = self._airflow.trigger("prepare_dataset", {"name": name, "source": str(source.resolve())})
            version = self._end_of_prepare(run_id, f"prepare {source.name}")
        conf = {
            "model_name": name,
            "dataset": version["reference"],
            **{key: value for key, value in ADAPTERS["full"].model_dump().items() if key in FORM_FIELDS},
            "max_length": self._settings.max_model_len,
            "more_hyperparameters": json.dumps({"max_steps": steps}),
        }
        with self._stage(f"finetune {name}"):
            self._candidate(name, version["reference"], conf)
        self.summary.production = self._production(name)
        self.summary.ok = self.summary.production is not None
        return self.summary

    @contextmanager
    def _stage(self, name: str) -> Generator[None]:
        self._console.rule(f"[bold]{name}", align="left")
        started = time.monotonic()
        yield
        self.summary.seconds[name] = round(time.monotonic() - started, 1)

    def _pretrain(self) -> None:
        """Make the demo's base model in the machine-learning environment, unless it is there."""
        script, folder = PROJECT / "containers" / "trainer" / "pretrain.py", self._settings.models / "demo-base"
        command = [str(self._settings.ml_python), str(script), str(folder)]
        before = _written_at(folder)
        environment = {**os.environ, "TQDM_DISABLE": "1"}
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process,
            self._console.status("pre-training the demo's base model …") as status,
        ):
            for line in process.stdout or ():
                status.update(f"pre-training the demo's base model: {_in_words(line)}")
        if process.returncode:
            raise TollgateError(
                f"The base model could not be made: {' '.join(command)} ended with {process.returncode}."
            )
        self._console.print(f"  {folder}", highlight=False)
        if before and _written_at(folder) != before and lifecycle.down(self._settings):
            self._console.print("  the base model is a new one: the stack that served the old one was stopped")

    def _wait_for_dags(self) -> None:
        self._airflow = local_airflow()
        deadline = time.monotonic() + 180
        missing = list(DAGS)
        with self._console.status("waiting until Airflow has read the DAGs …"):
            while missing and time.monotonic() < deadline:
                missing = [dag for dag in missing if not self._airflow.has_dag(dag)]
                if missing and self._airflow.import_errors():
                    break
                time.sleep(1)
        if missing:
            errors = "\n".join(f"{name}: {text[-500:]}" for name, text in self._airflow.import_errors().items())
            raise ServiceUnavailableError(f"Airflow has not read {', '.join(missing)}.\n{errors}")
        for dag in DAGS:
            self._airflow.unpause(dag)

    def _clear_route(self) -> None:
        """Let an earlier demo's versions go, so that this one begins with a route that nothing serves."""
        with transaction() as session:
            gone = retire(session, ROUTE, OPERATOR, "a new run of the demo begins")
        if gone:
            self._console.print(f"  retired from an earlier run: {', '.join(gone)}", highlight=False)

    def _prepare_first_two(self) -> str:
        """Bring the raw files of the first two candidates through the gates, and begin with the third's.

        Returns:
            The third's run, which goes on beside the first candidate's training: one core has time for it.
        """
        first_two: tuple[Candidate, ...] = ("first", "swapped")
        runs = {one: self._begin_prepare(one) for one in first_two}
        for one, run_id in runs.items():
            version = self._end_of_prepare(run_id, f"prepare, {NAMES[one]}")
            self._datasets[one] = str(version["reference"])
        return self._begin_prepare("full")  # the same dataset's next version: after its first

    def _begin_prepare(self, candidate: Candidate) -> str:
        source = self._settings.home / "demo" / f"{candidate}.jsonl"
        planted = write_raw(source, self._seed, candidate)
        self._console.print(f"  {source.name}: {planted.lines:,} lines", highlight=False)
        name = f"{DATASET}-{candidate}" if candidate in {"swapped", "wrong"} else DATASET
        description = f"Synthetic customer messages, {NAMES[candidate]}"
        conf = {"name": name, "source": str(source), "description": description}
        return self._airflow.trigger("prepare_dataset", conf)

    def _end_of_prepare(self, run_id: str, title: str) -> dict[str, Any]:
        self._console.print(f"  {title}", highlight=False)
        follower = RunFollower(self._airflow, self._console)
        if follower.follow("prepare_dataset", run_id, title) != "success":
            note = self._airflow.run("prepare_dataset", run_id).get("note")
            raise TollgateError(f"prepare_dataset failed: {note}")
        version: dict[str, Any] = self._airflow.result("prepare_dataset", run_id, "write_version")
        counts = version["counts"]
        self.summary.dataset = DatasetSummary(
            version=version["reference"],
            rows_in=counts["rows_in"],
            quarantined=counts["quarantined"],
            dropped=counts["dropped"],
            masked=counts["masked"],
            splits=counts["splits"],
        )
        return version

    def _finetune(self, candidate: Candidate, dataset: str, ask: bool = False) -> None:
        recipe = ADAPTERS[candidate].model_dump()
        conf = {
            "model_name": ROUTE,
            "dataset": dataset,
            **{name: value for name, value in recipe.items() if name in FORM_FIELDS},
            "more_hyperparameters": json.dumps(
                {name: value for name, value in recipe.items() if name not in FORM_FIELDS}
            ),
            "max_answer_tokens": 64,
            "experiment": EXPERIMENT.plan.model_dump(mode="json"),
            **({"threshold": STRICT_THRESHOLD} if ask else {}),
        }
        name = f"{NAMES[candidate]}, stricter gate" if ask else NAMES[candidate]
        with self._stage(f"finetune, {name}"):
            self._candidate(name, dataset, conf, ask)

    def _candidate(self, name: str, dataset: str, conf: dict[str, Any], ask: bool = False) -> None:
        run_id = self._airflow.trigger("finetune", {**conf, "seed": self._seed})
        answer = None if ask else ("Approve", f"answered by {OPERATOR}")
        follower = RunFollower(self._airflow, self._console, answer)
        follower.follow("finetune", run_id, f"finetune, {name}")

        def result(task: str) -> dict[str, Any]:
            found = self._airflow.result("finetune", run_id, task)
            if found is None:
                note = self._airflow.run("finetune", run_id).get("note") or "see its log"
                raise TollgateError(f"finetune ({name}) ended without {task}: {note}")
            return dict(found)

        verdict, version = result("candidate.verdict"), result("candidate.serve")
        figures, training = result("candidate.evaluate"), result("train")
        if figures["base"]:
            self.summary.base_accuracy = figures["base"]["accuracy"]
        released = self._airflow.result("finetune", run_id, "release.promote") or self._airflow.result(
            "finetune", run_id, "release.open_experiment"
        )
        outcome = {"promoted": "in production", "experiment": "A/B test against production"}.get(
            (released or {}).get("action", ""), "refused"
        )
        answered = self._airflow.result("finetune", run_id, "approval", key="answer")
        self.summary.candidates.append(
            CandidateSummary(
                name=name,
                dataset=dataset,
                accuracy=verdict["accuracy"],
                lower_bound=verdict["lower_bound"],
                verdict=verdict["outcome"],
                reasons=verdict["reasons"],
                model_version=version["served_name"],
                outcome=outcome,
                answered_by=(OPERATOR if follower.answered else answered["responded_by_user"]["name"])
                if answered
                else None,
                training_seconds=training.get("seconds"),
            )
        )
        for reason in verdict["reasons"]:
            self._console.print(f"  [bold]{verdict['outcome']}[/]: {reason}", highlight=False)

    def _experiment(self) -> None:
        """Send simulated users until the analysis decides, in at most :data:`WAVES` waves."""
        visits: list[Visit] = []
        outcome: dict[str, Any] | None = None
        for wave in range(WAVES):
            users = EXPERIMENT.users if wave == 0 else EXPERIMENT.users // 4
            visits += self._send(users, len(visits))
            outcome = self._look()
            if outcome is None or outcome["decision"]["final"]:
                break
        if outcome is None:
            self.summary.problems.append("There was no running experiment to look at.")
            return
        self.summary.experiment = _experiment_summary(outcome, visits)
        self.summary.production = self._production(ROUTE)

    def _harm(self) -> None:
        """Train a challenger on labels that are wrong in the test part, too, and send users until it is rolled back."""
        champion = self._production(ROUTE)
        main_road = self.summary.dataset, self.summary.base_accuracy
        with self._stage(f"dataset, {NAMES['wrong']}"):
            version = self._end_of_prepare(self._begin_prepare("wrong"), f"prepare, {NAMES['wrong']}")
        self._finetune("wrong", version["reference"])
        self.summary.dataset, self.summary.base_accuracy = main_road  # the harmful one's test part is wrong
        visits: list[Visit] = []
        outcome: dict[str, Any] | None = None
        with self._stage(f"A/B test, {NAMES['wrong']}"):
            for _ in range(HARM_WAVES):
                visits += self._send(EXPERIMENT.users // HARM_WAVES, HARM_FIRST_USER + len(visits))
                outcome = self._look()
                if outcome is None or outcome["decision"]["final"]:
                    break
        self.summary.harm = _experiment_summary(outcome, visits) if outcome else None
        self.summary.production = self._production(ROUTE)
        self._judge_harm(champion)

    def _judge_harm(self, champion: dict[str, str] | None) -> None:
        """Say whether a guardrail rolled the challenger back by itself, before the plan's end."""
        found, test = self.summary, self.summary.harm
        users = min(test.users.values()) if test else 0
        decision = test.decision if test else "none"
        musts = {
            f"the harmful challenger must pass its gate, it was: {found.candidates[-1].outcome}": test is not None,
            f"a guardrail must roll it back, the A/B test decided: {decision}": test is not None
            and decision == "roll_back"
            and test.reasons[0].startswith("Guardrail"),
            f"that must happen before the plan's end ({users} users in the smaller arm)": users
            < EXPERIMENT.plan.users_per_arm,
            "the champion must serve the route again": found.production == champion,
        }
        found.problems += [must for must, held in musts.items() if not held]
        found.ok = not found.problems

    def _send(self, users: int, first_user: int) -> list[Visit]:
        key = load_or_create(self._settings.secrets_file).gateway_key
        crowd = Crowd(
            route=ROUTE,
            questions=[
                Question(system=SYSTEM_PROMPT, text=message.text, right_answer=json.loads(message.label.to_json()))
                for message in ab_messages(self._seed)
            ],
            users=users,
            first_user=first_user,
            questions_each=EXPERIMENT.questions_each,
            seed=self._seed,
        )
        with Progress(console=self._console, transient=True) as progress:
            bar = progress.add_task("simulated users", total=users)
            visits = send_users(self._settings.gateway_address, key, crowd, lambda _: progress.advance(bar))
        asked = sum(len(visit.ratings) + visit.failed for visit in visits)
        self._console.print(f"  {users} simulated users asked and rated {asked:,} questions", highlight=False)
        return visits

    def _look(self) -> dict[str, Any] | None:
        run_id = self._airflow.trigger("analyze_experiments", {})
        RunFollower(self._airflow, self._console).follow("analyze_experiments", run_id, "analyze_experiments")
        for index in range(8):
            outcome = self._airflow.result("analyze_experiments", run_id, "look", index)
            if outcome is None or str(outcome["name"]).startswith(f"{ROUTE}-"):
                return outcome
        return None

    def _production(self, model_name: str) -> dict[str, str] | None:
        from tollgate.registry.lifecycle import champion

        with transaction() as session:
            model = champion(session, model_name)
        return {"version": model.served_name, "route": model_name} if model else None

    def _judge(self) -> None:
        """Say whether all went as it must."""
        found = self.summary
        first, swapped, full = found.candidates[:3]
        decision = found.experiment.decision if found.experiment else "none"
        musts = {
            f"the candidate from part of the data must reach production, it was: {first.outcome}": first.outcome
            == "in production",
            f"the candidate from swapped labels must be refused, it was: {swapped.outcome}": swapped.outcome
            == "refused",
            f"the candidate from all data must meet production in an A/B test, it was: {full.outcome}": full.outcome
            == "A/B test against production",
            f"the A/B test must promote the better candidate, it decided: {decision}": decision == "promote",
            "the promoted candidate must serve the route": (found.production or {}).get("version")
            == full.model_version,
        }
        found.problems += [must for must, held in musts.items() if not held]
        found.ok = not found.problems

    def _judge_question(self) -> None:
        """Say whether the stricter gate asked, and somebody answered."""
        found = self.summary
        strict = found.candidates[-1]
        if strict.verdict != "inconclusive" or strict.answered_by is None:
            found.problems.append(f"the stricter gate must ask a person, it said: {strict.verdict}")
        found.production = self._production(ROUTE)
        found.ok = not found.problems


def _dataset_name(source: Path) -> str:
    """A dataset's and model's name after a file; letters that no name may have, such as Korean ones, become dashes."""
    letters = (letter if letter.isascii() and letter.isalnum() else "-" for letter in source.stem.lower())
    return "".join(letters).strip("-")[:100] or "dataset"


def _experiment_summary(outcome: dict[str, Any], visits: list[Visit]) -> ExperimentSummary:
    analysis, decision = outcome["analysis"], outcome["decision"]
    comparison = analysis["comparison"] or {}
    milliseconds = sorted(1000 * second for visit in visits for second in visit.seconds)
    cuts = quantiles(milliseconds, n=100, method="inclusive") if len(milliseconds) > 1 else [0.0] * 99
    return ExperimentSummary(
        name=outcome["name"],
        users={arm: figures["users"] for arm, figures in analysis["arms"].items()},
        means={arm: figures["mean"] for arm, figures in analysis["arms"].items()},
        p_values={"welch": comparison.get("welch_p"), "mann_whitney": comparison.get("mann_whitney_p")},
        interval={"low": comparison.get("low"), "high": comparison.get("high")},
        decision=decision["action"],
        reasons=decision["reasons"],
        requests=len(milliseconds) + sum(visit.failed for visit in visits),
        failed_requests=sum(visit.failed for visit in visits),
        latency_ms={"p50": round(cuts[49], 1), "p99": round(cuts[98], 1)},
    )


def _written_at(model: Path) -> float | None:
    """When a model's weights were written; null where there are none."""
    weights = model / "model.safetensors"
    return weights.stat().st_mtime if weights.is_file() else None


def addresses(configuration: Settings) -> dict[str, str]:
    """What to open after the demo, and how to log in."""
    secret = configuration.secrets_file
    return {
        "Airflow": f"{configuration.airflow_address} (user {ADMIN}, password: airflow_admin_password in {secret})",
        "MLflow": configuration.mlflow_address,
        "gateway": f"{configuration.gateway_address}/v1 (bearer key: gateway_key in {secret})",
    }


def _in_words(line: str) -> str:
    try:
        report = json.loads(line)
    except ValueError:
        return line.strip()
    return ", ".join(f"{name} {value}" for name, value in report.items())
