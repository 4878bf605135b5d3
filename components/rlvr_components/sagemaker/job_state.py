"""Read a job's status and cause from the answer of DescribeTrainingJob. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rlvr_components.cost.instance_prices import find_instance, price_date
from rlvr_components.cost.spending import billed_usd
from rlvr_components.jobs.job import JobStatus, JobSummary, Replica
from rlvr_components.sagemaker.training_request import (
    ATTEMPT,
    RUN,
    RUN_DIR,
    RUN_ID,
    SPEC_HASH,
    STEP,
)
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, JobFailed, PlatformError
from rlvr_trainer.launch.exit_causes import EXIT_OUT_OF_MEMORY, FIRST_SIGNAL_CODE, RETRIED
from rlvr_trainer.launch.run_time_limit import MAX_RUNTIME_REASON

KIND = "SageMaker"
PENDING = {
    "Starting",
    "Pending",
    "LaunchingMLInstances",
    "PreparingTrainingStack",
    "Downloading",
    "DownloadingTrainingImage",
    "Interrupted",
    "Restarting",
}
"""Secondary statuses before our process runs; all others count as running."""
ENDED = {"Completed", "Failed", "Stopped", "Deleting"}
OUR_CAUSE = re.compile(r"\[(?P<code>\d+)\] step (?P<step>\d+): (?P<cause>.*)", re.S)
"""First line of the failure file that our container writes."""
SERVICES_TAIL = re.compile(r",? ?exit code: ?(?P<code>\d+)\s*$")
"""Ending of a FailureReason, which SageMaker adds."""
INTERRUPTED = "Interrupted"
CONTINUE = "the committed checkpoints stay, and the same run continues from the last one"

Job = Mapping[str, Any]
"""The answer of DescribeTrainingJob."""


def status_of(job: Job) -> JobStatus:
    """Return phase, exit code and cause. `Stopped` is never a success."""
    status, secondary = str(job["TrainingJobStatus"]), str(job.get("SecondaryStatus", ""))
    match status:
        case "Completed":
            return JobStatus("succeeded", 0, replicas=_replicas(job, "Succeeded"))
        case "Failed":
            return _failed(str(job.get("FailureReason", "")), job)
        case "Stopped" | "Deleting":
            return _stopped(secondary, job)
    said = _last_message(job)
    cause = f"{secondary}: {said}" if said else secondary
    if secondary in PENDING:
        return JobStatus("pending", cause=cause, replicas=_replicas(job, "Pending"))
    cause = "" if secondary == "Training" else cause
    return JobStatus("running", cause=cause, replicas=_replicas(job, "Running"))


def summary_of(job: Job, *, region: str, now: datetime) -> JobSummary:
    """Return the job's line in a list of jobs."""
    facts, status = facts_of(job), status_of(job)
    created: datetime = job["CreationTime"]
    return JobSummary(
        name=str(job["TrainingJobName"]),
        kind=KIND,
        namespace=region,
        run=facts.get(RUN, ""),
        step=facts.get(STEP, ""),
        attempt=int(facts.get(ATTEMPT) or 1),
        phase=status.phase,
        cause=status.cause or (bill_of(job) if status.phase == "succeeded" else ""),
        exit_code=status.exit_code,
        run_id=facts.get(RUN_ID, ""),
        run_dir=facts.get(RUN_DIR, ""),
        created=created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        age_s=(now - created).total_seconds(),
        replicas=status.replicas,
        is_stopping=job["TrainingJobStatus"] == "Stopping",
    )


def facts_of(job: Job) -> dict[str, str]:
    """Return what identifies the job: run, step, attempt, run directory, hash of its spec."""
    return dict(job.get("HyperParameters") or {})


def is_ours(job: Job) -> bool:
    """Return True for a job that we have submitted."""
    return SPEC_HASH in facts_of(job)


def has_ended(job: Job) -> bool:
    """Return True if the job has terminated."""
    return job["TrainingJobStatus"] in ENDED


def has_warm_pool(job: Job) -> bool:
    """Return True if instances are kept after the job, and cost."""
    return (job.get("WarmPoolStatus") or {}).get("Status") == "Available"


def num_hosts(job: Job) -> int:
    """Return the number of the job's instances."""
    resources = job.get("ResourceConfig") or {}
    groups = sum(int(group["InstanceCount"]) for group in resources.get("InstanceGroups") or ())
    chosen = resources.get("SelectedInstanceCount") or resources.get("InstanceCount")
    preferences: Sequence[Job] = resources.get("InstancePreferences") or ()
    preferred = preferences[0].get("InstanceCount") if preferences else None
    return int(groups or chosen or preferred or 1)


def transitions(job: Job) -> list[str]:
    """Return the secondary transitions so far as text, those of unknown statuses too."""
    listed: Sequence[Mapping[str, Any]] = job.get("SecondaryStatusTransitions") or ()
    return [
        f"{transition['Status']}: {_one_line(transition.get('StatusMessage', ''))}".rstrip(": ")
        for transition in listed
    ]


def bill_of(job: Job) -> str:
    """Return what SageMaker billed for a job that has ended; empty if it does not tell."""
    billed = job.get("BillableTimeInSeconds")
    if billed is None:
        return ""
    resources, hosts = job.get("ResourceConfig") or {}, num_hosts(job)
    kind = resources.get("SelectedInstanceType") or resources.get("InstanceType") or "instances"
    text = f"billed {billed} s on {hosts} x {kind}"
    instance = find_instance(kind)
    if instance:
        usd = billed_usd(billed, hosts, instance.usd_per_hour)
        text += f", ${usd:,.2f} by the list prices of {price_date()}"
    ran = job.get("TrainingTimeInSeconds")
    if job.get("EnableManagedSpotTraining") and ran:
        text += f", on spot, {100 * (1 - billed / ran):.0f} % less than its {ran} s"
    return text


def _failed(reason: str, job: Job) -> JobStatus:
    cause, code, is_retried = explain_failure(reason)
    return JobStatus("failed", code, cause, _replicas(job, "Failed"), is_retried)


def explain_failure(reason: str) -> tuple[str, int, bool]:
    """Return cause, exit code, and if another attempt is made, from a FailureReason."""
    text = _one_line(reason)
    kind, _, said = text.partition(": ")
    tail = SERVICES_TAIL.search(text)
    own = OUR_CAUSE.search(text)
    if own:
        code, cause = int(own["code"]), SERVICES_TAIL.sub("", own["cause"]).strip()
        at_limit = code == EXIT_PREEMPTED and MAX_RUNTIME_REASON in cause
        cause = f"{cause} (after step {own['step']})"
        return cause, code, code in RETRIED and not at_limit  # the limit is the user's
    if kind == "AlgorithmError" and tail:
        return _silent(int(tail["code"]), SERVICES_TAIL.sub("", said))
    if kind == "CapacityError":
        return (
            f"no capacity: {said or text}; name more types in instance_preferences, raise "
            "max_pending_s, or try another region",
            PlatformError.exit_code,
            False,
        )
    if kind in ("InternalServerError", "InternalError"):
        return f"SageMaker failed ({said or text})", PlatformError.exit_code, True
    if kind == "ClientError":
        return f"{said}{_hint(said)}", ConfigError.exit_code, False
    return text or "SageMaker tells no cause; read its log", JobFailed.exit_code, False


def _silent(code: int, said: str) -> tuple[str, int, bool]:
    """Explain an exit code without a cause of ours, as of a process that was killed."""
    if code == EXIT_OUT_OF_MEMORY:
        cause = (
            "out of memory: a process was killed; lower training.per_device_batch_size or "
            "sampling.max_completion_tokens, or choose a larger instance_type"
        )
        return cause, code, True
    if code > FIRST_SIGNAL_CODE and code not in RETRIED:
        number = code - FIRST_SIGNAL_CODE
        known = number in {known.value for known in signal.Signals}
        name = signal.Signals(number).name if known else f"signal {number}"
        return f"the container was killed by {name}", PlatformError.exit_code, True
    more = f": {said}" if said else " and wrote no cause; see its log"
    return f"the container exited with code {code}{more}", code, code in RETRIED


def _hint(said: str) -> str:
    lowered = said.lower()
    if "space" in lowered or "disk" in lowered:
        return "; raise volume_gib in SageMaker's settings"
    if "image" in lowered:
        return "; push the trainer's image to ECR in the jobs' region, and name it in `image`"
    if "s3" in lowered or "access" in lowered:
        return "; grant role_arn the storage, in the region of the jobs"
    return "; correct SageMaker's settings"


def _stopped(secondary: str, job: Job) -> JobStatus:
    limits, replicas = job.get("StoppingCondition") or {}, _replicas(job, "Failed")
    match secondary:
        case "MaxRuntimeExceeded":
            cause = (
                f"stopped after max_runtime_s ({limits.get('MaxRuntimeInSeconds')} s), before its "
                f"last step; {CONTINUE}"
            )
            return JobStatus("failed", EXIT_PREEMPTED, cause, replicas)
        case "MaxWaitTimeExceeded":
            cause = (
                f"stopped after max_wait_s ({limits.get('MaxWaitTimeInSeconds')} s) of waiting "
                f"for spot instances and running; raise it, or leave spot out: {CONTINUE}"
            )
            return JobStatus("failed", EXIT_PREEMPTED, cause, replicas)
        case "Interrupted":
            cause = f"its spot instances were taken back; {CONTINUE}"
            return JobStatus("failed", EXIT_PREEMPTED, cause, replicas, is_retried=True)
    pending = limits.get("MaxPendingTimeInSeconds")
    if pending and not job.get("TrainingStartTime") and "pending" in _last_message(job).lower():
        cause = (
            f"no capacity within max_pending_s ({pending} s); name more types in "
            "instance_preferences, raise it, or try another region"
        )
        return JobStatus("failed", PlatformError.exit_code, cause, replicas)
    cause = f"the job was stopped by someone else (rlvr stop, the console); {CONTINUE}"
    return JobStatus("failed", JobFailed.exit_code, cause, replicas)


def _replicas(job: Job, phase: str) -> tuple[Replica, ...]:
    resources = job.get("ResourceConfig") or {}
    kind = str(resources.get("SelectedInstanceType") or resources.get("InstanceType") or "")
    return tuple(Replica(f"algo-{rank}", phase, kind) for rank in range(1, num_hosts(job) + 1))


def _last_message(job: Job) -> str:
    listed = job.get("SecondaryStatusTransitions") or ()
    return _one_line(listed[-1].get("StatusMessage", "")) if listed else ""


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
