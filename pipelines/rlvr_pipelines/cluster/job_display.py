"""Format jobs and runs as lines of text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rlvr_components.jobs import JobSummary, Replica
from rlvr_pipelines.local.local_run import LocalRun
from rlvr_pipelines.local.run_progress import clock
from rlvr_trainer.tables import columns


def job_facts(job: JobSummary) -> dict[str, Any]:
    """Return the job as plain data."""
    return {"kind": "job", "job_kind": job.kind, **{
        name: value for name, value in asdict(job).items() if name != "kind"
    }}  # fmt: skip


def job_lines(job: JobSummary) -> list[str]:
    """Return the lines of a job: its phase, its pending reason or cause, its replicas."""
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
    """Return a table with a line for every run here and job in the cluster."""
    rows = [_local_row(run) for run in local] + [_job_row(job) for job in jobs]
    if not rows:
        return ["neither runs/ has a run nor the namespace a job"]
    return columns([("RUN", "STEP", "PHASE", "PROGRESS", "REWARD", "WHERE"), *rows])


def _replica_lines(replicas: Sequence[Replica]) -> list[str]:
    rows = [
        (
            f"  {replica.name}",
            replica.phase,
            replica.node,
            f"{replica.num_restarts} restarts" if replica.num_restarts else "",
            replica.reason,
        )
        for replica in replicas
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
