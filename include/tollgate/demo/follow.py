"""Following a DAG run from the terminal: each task as it ends, and where the training is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status

from tollgate.stack.airflow_api import AirflowApi
from tollgate.training.progress import ProgressReader, RunProgress

_MARKS = {
    "success": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "upstream_failed": "[red]–[/]",
    "up_for_retry": "[yellow]↻[/]",
    "awaiting_input": "[yellow]?[/]",
}
_TIMEOUT = 3600.0


class RunFollower:
    """Prints what happens in one run.

    Args:
        airflow: A logged-in client.
        console: Where to print.
        answer: What to say when a run asks a person: option and reason. Without it the run waits for somebody else.
    """

    def __init__(self, airflow: AirflowApi, console: Console, answer: tuple[str, str] | None = None) -> None:
        self._airflow = airflow
        self._console = console
        self._answer = answer
        self.answered: list[str] = []

    def follow(self, dag_id: str, run_id: str, title: str) -> str:
        """Wait for the run's end, printing each task's, and return the run's state."""
        shown: set[tuple[str, int, str]] = set()
        with Status(f"{title} …", console=self._console) as status:

            def on_poll(tasks: list[dict[str, Any]]) -> None:
                for task in sorted(tasks, key=lambda one: str(one.get("end_date") or "~")):
                    self._show(task, shown)
                running = [task["task_id"] for task in tasks if task["state"] == "running"]
                status.update(f"{title}: {self._position(dag_id, run_id, running)}")
                if any(task["state"] == "awaiting_input" for task in tasks):
                    self._reply(dag_id, run_id)

            return self._airflow.wait(dag_id, run_id, _TIMEOUT, on_poll)

    def _show(self, task: dict[str, Any], shown: set[tuple[str, int, str]]) -> None:
        state = str(task["state"])
        key = (f"{task['task_id']}[{task.get('map_index')}]", int(task["try_number"]), state)
        if state not in _MARKS or key in shown:
            return
        shown.add(key)
        took = f" {task['duration']:.0f} s" if task.get("duration") else ""
        self._console.print(f"    {_MARKS[state]} {task['task_id']}[dim]{took}[/]", highlight=False)

    def _position(self, dag_id: str, run_id: str, running: list[str]) -> str:
        if "train" in running:
            job = self._airflow.result(dag_id, run_id, "validate")
            where = _last_progress(Path(job["folder"]) / "progress.jsonl") if job else None
            if where:
                return f"training, {where}"
        return ", ".join(running) or "waiting for the scheduler"

    def _reply(self, dag_id: str, run_id: str) -> None:
        if self._answer is None:
            return
        option, reason = self._answer
        for question in self._airflow.open_questions(dag_id, run_id):
            self._console.print(f"    [yellow]?[/] {question['subject']} [bold]{option}[/] ({reason})", highlight=False)
            self._airflow.answer_question(question, option, {"reason": reason})
            self.answered.append(question["subject"])


def _last_progress(path: Path) -> str | None:
    progress = RunProgress(ProgressReader(path).read())
    if progress.last is None:
        return None
    loss = progress.newest("loss")
    said = "" if loss is None else f", loss {loss:.3f}"
    return f"{progress.last.percent:.0f} % of {progress.last.max_steps} steps{said}"
