"""Jobs and runs as a person reads them in a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rlvr_components.jobs import JobSummary, Replica
from rlvr_pipelines.local.local_run import LocalRun
from rlvr_pipelines.local.run_progress import clock
from rlvr_trainer.tables import columns


def job_facts(job: JobSummary) -> dict[str, Any]:
    """As plain data."""
    return {"kind": "job", "job_kind": job.kind, **{
        name: value for name, value in asdict(job).items() if name != "kind"
    }}  # fmt: skip


def job_lines(job: JobSummary) -> list[str]:
    """The job, why it waits or failed, and its replicas."""
    phase = "stopping" if job.is_stopping else job.phase
    words = [job.step, phase]
    if job.attempt > 1:
        words.append(f"attempt {job.attempt}")
    if job.progress_step:
        words.append(f"step {job.progress_step}")
    if job.reward:
        words.append(f"reward {job.reward}")
    if job.exit_code is not None:
        words.append(f"exit code {job.exit_code}")
    lines = ["  ".join(words), f"  {job.kind} {job.namespace}/{job.name}, {clock(job.age_s)} old"]
    if job.run_dir:
        lines.append(f"  {job.run_dir}")
    lines += [f"  {part}" for part in job.cause.splitlines()]
    return lines + _replica_lines(job.replicas)


def list_lines(local: Sequence[LocalRun], jobs: Sequence[JobSummary]) -> list[str]:
    """One line for each run here and each job in the cluster."""
    rows = [_local_row(run) for run in local] + [_job_row(job) for job in jobs]
    if not rows:
        return ["nothing runs or ran in runs/ or in the namespace"]
    return columns([("RUN", "STEP", "PHASE", "PROGRESS", "REWARD", "WHERE"), *rows])


def _replica_lines(replicas: Sequence[Replica]) -> list[str]:
    rows = [
        (
            f"  {each.name}",
            each.phase,
            each.node,
            f"{each.num_restarts} restarts" if each.num_restarts else "",
            each.reason,
        )
        for each in replicas
    ]
    return columns(rows)


def _local_row(run: LocalRun) -> tuple[str, ...]:
    step = run.step
    done = f"{step.done}/{step.total}" if step and step.total else ""
    reward = run.progress.steps["train"].numbers.get("reward")
    shown = f"{reward:.2f}" if isinstance(reward, int | float) else ""
    title = step.title if step else ""
    return (run.name, title, run.phase, done, shown, str(run.run_dir.path))


def _job_row(job: JobSummary) -> tuple[str, ...]:
    phase = "stopping" if job.is_stopping else job.phase
    where = f"{job.namespace}/{job.name}"
    return (job.run, job.step, phase, job.progress_step, job.reward, where)
