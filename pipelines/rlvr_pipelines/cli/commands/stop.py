"""`rlvr stop`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.cli.groups import JobPlace, access_options, job_place_options
from rlvr_pipelines.cli.options import debug_option, output_option, print_json

if TYPE_CHECKING:
    from rlvr_components.jobs import JobSummary
    from rlvr_pipelines.run_name import RunName

LOCAL_WAIT_S = 300


@click.command(short_help="Stop RUN; its checkpoints stay.")
@click.argument("run")
@access_options
@job_place_options
@output_option
@debug_option
def stop(run: str, access: AccessOptions, where: JobPlace, output: str) -> None:
    """Stop RUN and all of its jobs; its checkpoints stay.

    RUN is a run directory here, the name of a run or job in the cluster or on SageMaker, or the id
    of a run in Kubeflow. Training commits a checkpoint first, from which the run can be resumed (in
    Kubeflow by KFP's Retry).

    \b
    rlvr stop runs/arithmetic
    rlvr stop gsm8k --namespace rlvr
    """
    from rlvr_components.kubernetes.access import use_context
    from rlvr_pipelines.run_name import parse_run

    use_context(access.context)
    named = parse_run(run)
    match named.where:
        case "local":
            facts = _stop_local(named.path)
        case "kubeflow":
            facts = _stop_kubeflow(named, access)
        case "cluster":
            on_sagemaker = where.is_sagemaker
            facts = _stop_sagemaker(named, where) if on_sagemaker else _stop_cluster(named, access)
    if output == "json":
        print_json(facts)


def _stop_local(path: Path) -> dict[str, Any]:
    from rlvr_pipelines.local.local_run import inspect_run, stop_run
    from rlvr_trainer.errors import PlatformError

    before = inspect_run(path)
    if before.phase != "running":
        _say(f"{path} is not running: {before.phase}")
        return {"run": str(path), "kind": "local", "stopped": False, "phase": before.phase}
    _say(f"stopping {path}: training commits a checkpoint at the end of its step")
    if not stop_run(path, LOCAL_WAIT_S):
        raise PlatformError(
            f"{path} (process {before.process}) did not stop within {LOCAL_WAIT_S} s; read "
            f"`rlvr logs {path}`, and kill the process if it hangs: committed checkpoints stay"
        )
    after = inspect_run(path)
    _say(f"nothing of {path} is running; `rlvr run` with this --run-dir resumes from the last "
         "checkpoint")  # fmt: skip
    return {"run": str(path), "kind": "local", "stopped": True, "phase": after.phase}


def _stop_cluster(named: RunName, access: AccessOptions) -> dict[str, Any]:
    from rlvr_pipelines.extras import KUBERNETES, require

    require(KUBERNETES, "stopping a job")
    from rlvr_pipelines.cluster.cluster_runs import jobs_of

    jobs = jobs_of(named, access)
    _check_one_run(named, jobs)
    return _stop_jobs(named, jobs, access)


def _check_one_run(named: RunName, jobs: Sequence[JobSummary]) -> None:
    """Raise ConfigError if the name is that of several live runs."""
    from rlvr_trainer.errors import ConfigError

    living = {job.run_id or job.run_dir: job.name for job in jobs if not job.has_ended}
    if len(living) > 1:
        raise ConfigError(
            f"{named.text!r} names {len(living)} live runs ({', '.join(living.values())}), maybe "
            "of other users; stop one by its job's name, or by its id in Kubeflow"
        )


def _stop_sagemaker(named: RunName, where: JobPlace) -> dict[str, Any]:
    from rlvr_pipelines.extras import S3, require

    require(S3, "stopping a job on SageMaker")
    from rlvr_pipelines.sagemaker.sagemaker_runs import jobs_of, stop_jobs

    jobs = jobs_of(named.text, where.region)
    _check_one_run(named, jobs)
    for job in (job for job in jobs if not job.has_ended):
        _say(f"stopping {job.name}: its containers commit a checkpoint (2 min at most)")
    stopped = stop_jobs(jobs, where.region)
    _say(f"nothing of {named.text} is running, and no instances are kept for it; the same command "
         "resumes from the last checkpoint")  # fmt: skip
    return {
        "run": named.text,
        "kind": "sagemaker",
        "stopped": bool(stopped),
        "jobs": [job.name for job in stopped],
    }


def _stop_kubeflow(named: RunName, access: AccessOptions) -> dict[str, Any]:
    """Terminate the run, whose steps delete their jobs; delete the jobs that are left."""
    from rlvr_pipelines.extras import KUBERNETES, PIPELINES, is_installed, require

    require(PIPELINES, "stopping a run in Kubeflow")
    from rlvr_components.workflow import NEW_RUN, RETRY
    from rlvr_pipelines.kubeflow.connection import connect
    from rlvr_pipelines.kubeflow.kubeflow_runs import get_run, terminate_run

    kubeflow = connect(access)
    run = get_run(kubeflow, named.text)
    if run.ended:
        _say(f"{run.name} has ended: {run.phase}")
    else:
        terminate_run(kubeflow, run.id)
        _say(f"{run.name} is terminating; {RETRY} from the last checkpoint, {NEW_RUN}")
    facts = {"run": run.id, "kind": "kubeflow", "stopped": not run.ended, "link": run.link}
    if not is_installed(KUBERNETES):
        _say("its jobs were not checked: pip install 'rlvr[kubernetes]'")
        return facts
    from rlvr_pipelines.cluster.cluster_runs import jobs_of

    namespace = run.job_namespace or access.namespace
    jobs = jobs_of(named, access, namespace=namespace)
    if not jobs:
        _say(f"it has no job in {namespace or 'the namespace of the kubeconfig'}; if they are in "
             "another one, name it with --namespace")  # fmt: skip
        return {**facts, "jobs": []}
    return {**facts, "jobs": _stop_jobs(named, jobs, access)["jobs"]}


def _stop_jobs(named: RunName, jobs: Sequence[JobSummary], access: AccessOptions) -> dict[str, Any]:
    from rlvr_pipelines.cluster.cluster_runs import stop_jobs

    living = [job for job in jobs if not job.has_ended]
    for job in living:
        _say(f"deleting {job.name}: its pods commit a checkpoint before they terminate (2 min at "
             "most, unless the platform's stop_grace_s says otherwise)")  # fmt: skip
    stopped = stop_jobs(living, access)
    where = sorted({job.run_dir for job in stopped if job.run_dir})
    resume = "" if named.where == "kubeflow" else ", and the same command resumes from there"
    _say(f"nothing of {named.text} is running" + (
        f"; what it committed stays in {', '.join(where)}{resume}" if where else ""
    ))  # fmt: skip
    return {
        "run": named.text,
        "kind": "cluster",
        "stopped": bool(stopped),
        "jobs": [job.name for job in stopped],
    }


def _say(text: str) -> None:
    click.echo(text, err=True)
