"""From a dataset version to a model version in production, in an A/B test, or refused with its reason.

validate → train (container, GPU) → serve the candidate beside production → evaluate over HTTP → verdict → register →
release, ask a person, or refuse. A release is a promotion where nothing serves the route yet, else an A/B test or a
rollout by steps. An adapter that is to be served as full weights is merged after the training. Full weights are
examined, and later serve, on a vLLM server of their own.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Param, TaskGroup, TriggerRule, chain, dag, get_current_context, task

from jobs.form import optional_params, training_params
from jobs.operator import ContainerJobOperator
from jobs.records import mark_failed
from mlflow_registry.operators import RegisterModelOperator
from runs.approval import ANSWER, ReleaseApprovalOperator
from runs.notes import note_failure, note_verdict
from runs.people import who
from runs.policy import TASK_DEFAULTS
from runs.results import result_of
from tollgate.settings import settings
from tollgate.training import merging
from vllm_rollout.operators import UnloadAdapterOperator

ANY_BRANCH = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
JOB = "{{ ti.xcom_pull(task_ids='validate')['%s'] }}"
SERVED = "{{ ti.xcom_pull(task_ids='candidate.serve')['%s'] }}"
HYPERPARAMETERS = (
    "backend",
    "lora_rank",
    "lora_alpha",
    "learning_rate",
    "epochs",
    "batch_size",
    "max_length",
    "precision",
    "seed",
    "distribution",
    "serve_adapter_as",
)
MORE_HYPERPARAMETERS = (
    "lora_dropout",
    "lr_scheduler",
    "warmup_fraction",
    "weight_decay",
    "gradient_accumulation",
    "max_steps",
    "packing",
    "assistant_only_loss",
    "gradient_checkpointing",
    "logging_steps",
    "eval_steps",
    "save_steps",
    "checkpoints_kept",
    "early_stopping_patience",
    "early_stopping_minimum_gain",
)

PARAMS = {
    "model_name": Param(
        "highway-router",
        type="string",
        pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$",
        title="Model",
        description="Name of the model and of the route that it serves at the gateway.",
        section="What",
    ),
    "dataset": Param(
        "highway@latest",
        type="string",
        pattern=r"^[a-z0-9][a-z0-9._-]{0,99}@(v[1-9][0-9]*|latest)$",
        title="Dataset version",
        description="For example highway@v3, or highway@latest.",
        section="What",
    ),
    "base_model": Param(
        None,
        type=["null", "string"],
        title="Base model",
        description="Absolute path of its folder; empty: the one that vLLM serves.",
        section="What",
    ),
    "method": Param(
        "lora",
        type="string",
        enum=["lora", "qlora", "full"],
        title="Method",
        description="qlora trains the same adapter over a base in 4 bits; full: all weights, on a server of their own.",
        section="How",
    ),
    **training_params(HYPERPARAMETERS, section="How"),
    **optional_params(MORE_HYPERPARAMETERS, section="How, in detail"),
    "more_hyperparameters": Param(
        "",
        type=["null", "string"],
        format="multiline",
        title="More hyperparameters",
        description='Further fields of the specification, as JSON: {"target_modules": ["q_proj"], "eval_steps": 100}.',
        section="How, in detail",
    ),
    "resume_job": Param(
        None,
        type=["null", "string"],
        pattern=r"^[a-z0-9][a-z0-9._-]{0,199}$",
        title="Earlier job",
        description="Name of a stopped or failed job, to go on from its checkpoint with the same settings.",
        section="Resume",
    ),
    **training_params(("resume_from",), section="Resume"),
    "gpus": Param(
        1,
        type="integer",
        minimum=0,
        maximum=8,
        title="GPUs",
        description="How many; the job waits in the queue until so many are free.",
        section="How",
    ),
    "gpu_ids": Param(
        None,
        type=["null", "array"],
        items={"type": "integer", "minimum": 0},
        uniqueItems=True,
        maxItems=8,
        title="Certain GPUs",
        description="Ids of the GPUs to wait for, such as [0, 1], instead of a number; they must be configured.",
        section="How",
    ),
    "threshold": Param(
        0.90,
        type="number",
        exclusiveMinimum=0,
        exclusiveMaximum=1,
        title="Required accuracy",
        description="Must be exceeded on the test part; its lower bound must reach it for an automatic release.",
        section="Gate",
    ),
    "margin": Param(
        0.02,
        type="number",
        exclusiveMinimum=0,
        maximum=0.5,
        title="Margin against the champion",
        description="So much below the production version's accuracy still counts as no worse.",
        section="Gate",
    ),
    "verdict": Param(
        {"category_margin": 0.10, "empty_limit": 0.01},
        type="object",
        title="Further rules of the verdict",
        description="Fields of VerdictSettings, for example minimum_cases, category_floor, latency_limit_ms, "
        "perplexity_ratio; see docs/evaluation.md.",
        section="Gate",
    ),
    "max_answer_tokens": Param(128, type="integer", minimum=1, maximum=8192, title="Longest answer", section="Gate"),
    "release": Param(
        "experiment",
        type="string",
        enum=["experiment", "rollout"],
        title="Way into production",
        description="Beside a champion: an A/B test, which asks for the better one, or a rollout by steps, which asks "
        "for no harm.",
        section="Release",
    ),
    "experiment": Param(
        {"minimum_effect": 0.3, "standard_deviation": 1.13},
        type="object",
        title="Plan of the A/B test",
        description="Fields of ExperimentPlan, for example users_per_arm, minimum_effect, split, maximum_days. "
        "Unless guardrails are named, ratings, errors, empty answers and latency are watched.",
        section="Release",
    ),
}


def handed_over() -> tuple[Any, Any, Any, Any]:
    """What every end of the road needs: job, version, verdict, and a person's answer, if one was asked."""
    job, version, judged = map(result_of, ("validate", "register", "candidate.verdict"))
    return job, version, judged, result_of("approval", ANSWER)


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=8,
    default_args=TASK_DEFAULTS,
    tags=["tollgate", "training"],
    doc_md=__doc__,
    params=PARAMS,
)
def finetune() -> None:
    """Wire the road."""

    @task
    def validate(params: dict[str, Any], run_id: str) -> dict[str, Any]:
        """Check everything that was asked for before anything heavy starts."""
        from tollgate.workflow import finetune as work

        fields = (*HYPERPARAMETERS, *MORE_HYPERPARAMETERS, "resume_from")
        return work.validate(params, fields, run_id, who(get_current_context()))

    train = ContainerJobOperator(
        task_id="train",
        job_folder=JOB % "folder",
        backend="{{ params.backend }}",
        read_only_paths=[JOB % "base_model", JOB % "dataset_folder"],
        gpus="{{ params.gpus }}",
        mlflow_experiment="{{ params.model_name }}",
        gpu_ids="{{ (params.gpu_ids or []) | tojson }}",
        pool="gpu",
        execution_timeout=timedelta(days=7),
        on_failure_callback=[note_failure, mark_failed],
    )

    @task.branch
    def choose_form() -> str:
        """Fork by what will be served: what was trained, or its adapter merged into the base."""
        from tollgate.workflow import finetune as work

        return "merge" if work.prepare_merging(result_of("validate")) else "candidate.serve"

    merge = ContainerJobOperator(
        task_id="merge",
        job_folder=JOB % "folder" + f"/{merging.FOLDER}",
        script="containers/trainer/merge.py",
        entrypoint=["python", "/opt/tollgate/containers/trainer/merge.py"],
        command=[JOB % "folder", JOB % "folder" + "/model", "--report", JOB % "folder" + f"/{merging.FOLDER}"],
        backend="{{ params.backend }}",
        read_only_paths=[JOB % "base_model", JOB % "dataset_folder"],
        writable_paths=[JOB % "folder"],
        execution_timeout=timedelta(days=1),
        on_failure_callback=[note_failure, mark_failed],
    )

    @task(trigger_rule=ANY_BRANCH)
    def serve(params: dict[str, Any]) -> dict[str, Any]:
        """Give the candidate its own, immutable name, and load an adapter into vLLM, beside production."""
        from tollgate.workflow import finetune as work

        by, longest = who(get_current_context()), params["max_answer_tokens"]
        return work.serve_candidate(result_of("validate"), by, longest, work.rules_of(params))

    @task.branch
    def choose_server() -> str:
        """Fork by what is served: adapters answer beside production, full weights on a server of their own."""
        from tollgate.workflow import finetune as work

        return "candidate.examine" if work.serves_full_weights(result_of("validate")) else "candidate.evaluate"

    @task(trigger_rule=ANY_BRANCH)
    def evaluate(params: dict[str, Any]) -> dict[str, Any]:
        """Put the test part to candidate, champion and base over HTTP."""
        from tollgate.workflow import finetune as work

        by, longest = who(get_current_context()), params["max_answer_tokens"]
        job, version = result_of("validate"), result_of("candidate.serve")
        return work.evaluate(job, version, by, longest, work.rules_of(params))

    @task
    def verdict(params: dict[str, Any]) -> dict[str, Any]:
        """Pass, inconclusive or fail, with the reasons in words."""
        from tollgate.workflow import finetune as work

        job = result_of("validate")
        judged = work.judge(job, work.rules_of(params))
        note_verdict(get_current_context(), judged, Path(job["folder"]))
        return judged

    @task.branch
    def decide() -> str:
        """Fork by the verdict."""
        outcome = result_of("candidate.verdict")["outcome"]
        return {"pass": "release.start_server", "inconclusive": "approval", "fail": "refuse"}[outcome]

    @task(trigger_rule=ANY_BRANCH, execution_timeout=timedelta(days=1))
    def start_server() -> dict[str, Any]:
        """Full weights: a vLLM server of their own, which outlives this run. Adapters need none."""
        from tollgate.workflow import finetune as work

        return work.start_server(result_of("register"), who(get_current_context()))

    @task.branch
    def choose(params: dict[str, Any]) -> str:
        """Fork by whether there is a champion, and by the way that was chosen."""
        from tollgate.workflow import finetune as work

        if not work.has_champion(result_of("register")):
            return "release.promote"
        return "release.begin_rollout" if params["release"] == "rollout" else "release.open_experiment"

    @task
    def promote() -> dict[str, Any]:
        """Move the whole route to the version and make it the production version."""
        from tollgate.workflow import finetune as work

        return work.promote(*handed_over(), who(get_current_context()))

    @task
    def open_experiment(params: dict[str, Any]) -> dict[str, Any]:
        """Share the champion's route between both versions."""
        from tollgate.workflow import finetune as work

        job, version, judged, answer = handed_over()
        by = who(get_current_context())
        return work.open_experiment(job, version, params["experiment"], judged, answer, by)

    @task
    def begin_rollout() -> dict[str, Any]:
        """Give the version the first share of the champion's route."""
        from tollgate.workflow import finetune as work

        return work.begin_rollout(*handed_over(), who(get_current_context()))

    @task(trigger_rule=ANY_BRANCH)
    def refuse() -> None:
        """Archive the version and fail with the reason."""
        from tollgate.workflow import finetune as work

        _, version, judged, answer = handed_over()
        work.refuse(version, judged, answer, who(get_current_context()))

    with TaskGroup("candidate", tooltip="The candidate beside production, and what it is worth") as candidate:
        served = serve().as_setup()
        examine = ContainerJobOperator(
            task_id="examine",
            job_folder=SERVED % "examination",
            script="containers/vllm/examine.py",
            image=settings().vllm_image,
            entrypoint=["python", "/opt/tollgate/containers/vllm/examine.py"],
            read_only_paths=[SERVED % "weights"],
            writable_paths=[SERVED % "answers"],
            gpus="{{ 1 if params.gpus or params.gpu_ids else 0 }}",
            pool="gpu",
            execution_timeout=timedelta(days=1),
        )
        judged, evaluated, way = verdict(), evaluate(), choose_server()
        chain(served, way, [examine, evaluated])
        chain(examine, evaluated, judged)

    register = RegisterModelOperator(
        task_id="register",
        job_name=JOB % "name",
        model_name="{{ params.model_name }}",
        verdict=judged["outcome"],
        reasons=judged["reasons"],
        evaluation=JOB % "folder" + "/evaluation",
    )
    approval = ReleaseApprovalOperator(
        task_id="approval", approve="release.start_server", reject="refuse", response_timeout=timedelta(days=14)
    )
    unload = UnloadAdapterOperator(
        task_id="unload_unless_in_use", model_id="{{ ti.xcom_pull(task_ids='candidate.serve')['model_id'] }}"
    )

    with TaskGroup("release", tooltip="At once where nothing serves the route, else through an A/B test"):
        started, chosen = start_server(), choose()
        begun = begin_rollout()
        ways = [promote(), open_experiment(), begun]
        started >> chosen >> ways
        begun >> TriggerDagRunOperator(
            task_id="follow_rollout",
            trigger_dag_id="roll_out",
            trigger_run_id="finetune__{{ run_id }}",
            conf={
                "version": "{{ ti.xcom_pull(task_ids='release.begin_rollout')['served_name'] }}",
                "why": "{{ run_id }}",
            },
            skip_when_already_exists=True,
        )

    refused, decided, form = refuse(), decide(), choose_form()
    chain(validate(), train, form, [merge, served])
    chain(merge, served)
    chain(candidate, register, decided)
    decided >> [started, approval, refused]
    approval >> [started, refused]
    [*ways, refused] >> unload.as_teardown(setups=served)


finetune()
