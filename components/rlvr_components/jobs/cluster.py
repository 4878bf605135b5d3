"""Training jobs on Kubernetes: one backend for PyTorchJobs and TrainJobs.

kube/kinds         what differs between the two
kube/access        kubeconfig or service account, and their tokens
kube/client        requests and streams, and what the server's refusals mean
kube/watching      job, pods and events, kept up to date
kube/causes        why a job failed; waits: what it waits for; ends: of pods that are gone
kube/status        where a job stands; snapshot: asked for at once
kube/deadlines     how long it may wait and run
kube/logs          the lines of a container; replica_logs: of all replicas
kube/progress      step and reward, from the run directory into annotations
kube/following     all of it, from now to the job's end
kube/attempts      which attempt comes next; kept_ends: of those that are gone
kube/submission    one job for one name, whatever happens to the request
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

from rlvr_components.jobs import JobSpec, JobStatus, JobSummary
from rlvr_components.jobs.kube.access import Access, find_access
from rlvr_components.jobs.kube.attempts import Attempt, next_attempt, spent_by
from rlvr_components.jobs.kube.client import PATIENCE_S, Client
from rlvr_components.jobs.kube.errors import Refusal
from rlvr_components.jobs.kube.following import Follower, OnEvent
from rlvr_components.jobs.kube.kept_ends import kept_end
from rlvr_components.jobs.kube.kinds import KINDS, Kind, Object, Place, kind_of
from rlvr_components.jobs.kube.logs import lines_so_far
from rlvr_components.jobs.kube.permissions import check_permissions
from rlvr_components.jobs.kube.replica_logs import container_of
from rlvr_components.jobs.kube.snapshot import take_snapshot
from rlvr_components.jobs.kube.status import attempt_of, status_of
from rlvr_components.jobs.kube.submission import create_or_find
from rlvr_components.jobs.kube.summaries import PART_OF_RLVR, summaries
from rlvr_components.jobs.pods import JOB_LABEL, PIPELINE_RUN_LABEL, RUN_LABEL, STEP_LABEL
from rlvr_components.jobs.render import render_job
from rlvr_components.jobs.trainjob import NEWEST_OVERRIDES, OverridesField, overrides_field
from rlvr_components.platform import Platform
from rlvr_trainer.errors import ConfigError

CUSTOM_COLUMNS = (
    "kubectl get pytorchjobs -l app.kubernetes.io/part-of=rlvr -o custom-columns="
    r"'NAME:.metadata.name,STEP:.metadata.annotations.rlvr\.dev/step,"
    r"REWARD:.metadata.annotations.rlvr\.dev/reward,PHASE:.metadata.annotations.rlvr\.dev/phase'"
)
"""Shows how far jobs are, without rlvr."""

STOP_PATIENCE_S = 20.0
ASK_PATIENCE_S = 5.0
"""For somebody who waits before a terminal."""


def open_backend(
    place: Place,
    platform: Platform,
    *,
    context: str | None = None,
    on_event: OnEvent | None = None,
) -> ClusterBackend:
    """The backend of a cluster: of the kubeconfig's `context`, or the one that this pod is in.

    `on_event` gets each event of the run directory's metrics.jsonl while a job is followed.
    Raises ConfigError, PlatformError.
    """
    return ClusterBackend(kind_of(place), platform, context=context, on_event=on_event)


def find_jobs(
    *,
    namespace: str = "",
    context: str | None = None,
    run: str | None = None,
    run_id: str | None = None,
    job: str | None = None,
) -> list[JobSummary]:
    """Jobs of rlvr of any kind, the newest first; with `job`, the one of that name.

    An empty namespace is the context's own. Raises ConfigError, PlatformError.
    """
    access = find_access(context)
    client = _asking(access)
    labels = {RUN_LABEL: run, PIPELINE_RUN_LABEL: run_id}
    found = summaries(
        client,
        namespace or access.namespace,
        ",".join([PART_OF_RLVR, *(f"{label}={value}" for label, value in labels.items() if value)]),
        name=job or "",
    )
    return sorted(found, key=lambda each: (each.created, each.name), reverse=True)


def delete_jobs(jobs: Sequence[JobSummary], *, context: str | None = None) -> list[JobSummary]:
    """Delete those jobs, with all that belongs to them; returns the ones that were there.

    Raises ConfigError, PlatformError.
    """
    client = _asking(find_access(context))
    paths = {kind.name: kind.path for kind in KINDS.values()}
    return [job for job in jobs if client.delete(paths[job.kind](job.namespace, job.name))]


def _asking(access: Access) -> Client:
    """A pod, such as the last step of a pipeline, waits for an API server that is restarted."""
    return Client(access, patience_s=PATIENCE_S if access.is_of_pod else ASK_PATIENCE_S)


class ClusterBackend:
    """Runs jobs as custom resources of one kind in one namespace."""

    stop_signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(
        self,
        kind: Kind,
        platform: Platform,
        *,
        context: str | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        access = find_access(context)
        self._kind = kind
        self._platform = platform
        self._on_event = on_event
        self._namespace = platform.namespace or access.namespace
        # plain flags: a signal handler sets what its own thread may just be waiting for
        self._is_stopped = False
        self._submitting = ""
        self._client = Client(access, lambda: self._is_stopped)
        self._stop_client = Client(access)
        self._overrides: OverridesField | None = None
        self._is_permitted = False
        self._first_attempts: dict[str, int] = {}
        self._automatic: set[str] = set()
        """Names of jobs whose launch will be tried again."""
        self._jobs: dict[str, dict[str, Any]] = {}
        """Those that this launcher has submitted or adopted."""
        self._ends: dict[str, JobStatus] = {}

    @property
    def max_attempts(self) -> int:
        """Jobs that one launch may start."""
        return self._platform.max_attempts

    def next_attempt(self, spec: JobSpec) -> JobSpec:
        """The attempt that lives or has succeeded, or a new one.

        A permanent failure stays one where the launch is automatic. Raises JobFailed, ConfigError,
        PlatformError.
        """
        if not self._is_permitted:
            check_permissions(self._client, self._kind, self._namespace)
            self._is_permitted = True
        found = next_attempt(
            self._attempts(spec),
            max_attempts=self._platform.max_attempts,
            is_retry=spec.is_automatic,
        )
        self._first_attempts.setdefault(
            spec.name_of_all_attempts, 1 if spec.is_automatic else found.number
        )
        chosen = spec.with_attempt(found.number)
        if spec.is_automatic:
            self._automatic.add(chosen.name)
        if found.adopted:
            self._jobs[chosen.name] = dict(found.adopted)
            self._submitting = chosen.name  # a signal before `submit` is for this job, too
        return chosen

    def render(self, spec: JobSpec) -> dict[str, Any]:
        """The object that `submit` sends. Asks nothing but, once, which TrainJobs there are."""
        platform = self._platform.model_copy(update={"namespace": self._namespace})
        is_trainjob = self._kind.place == "trainjob"
        overrides = self._trainjob_overrides() if is_trainjob else NEWEST_OVERRIDES
        return render_job(self._kind.place, spec, platform, overrides)

    def submit(self, rendered: dict[str, Any]) -> str:
        """Create the job, or adopt the one of its name; returns its name.

        Raises ConfigError, PlatformError, JobFailed when it was stopped meanwhile.
        """
        name = str(rendered["metadata"]["name"])
        self._submitting = name
        try:
            if name not in self._jobs:
                self._jobs[name] = create_or_find(
                    self._client, self._kind, rendered, lambda: self._is_stopped
                )
        finally:
            self._submitting = ""
        return name

    def status(self, job: str) -> JobStatus:
        """Where the job stands now, or how it ended. Raises ConfigError, PlatformError."""
        if job in self._ends:
            return self._ends[job]
        return take_snapshot(self._client, self._kind, self._get(job)).status

    def logs(self, job: str, *, follow: bool = True) -> Iterator[str]:
        """Lines of all replicas, each with its replica's name: `[worker-1] …`.

        Raises ConfigError, PlatformError.
        """
        if not follow:
            pods = take_snapshot(self._client, self._kind, self._get(job)).pods
            found = (container_of(self._kind, pod) for pod in pods)
            yield from lines_so_far(self._client, [each for each in found if each])
            return
        own = self._jobs.get(job)
        follower = Follower(
            self._client,
            self._kind,
            own or self._get(job),
            self._platform if own else None,
            on_event=self._on_event,
            is_stopped=lambda: self._is_stopped,
            is_automatic=job in self._automatic,
        )
        yield from follower.lines()
        if follower.end:
            self._ends[job] = self._spent(follower.end, own) if own else follower.end

    def stop(self, job: str) -> None:
        """Delete the job; its pods get SIGTERM and commit. Nothing happens when there is none.

        Safe in a signal handler: it takes no lock that the interrupted code may hold.
        Raises ConfigError, PlatformError.
        """
        self._is_stopped = True
        name = job or self._submitting
        if name:
            known = self._jobs.get(name)
            uid = str(known["metadata"]["uid"]) if known else ""
            path = self._kind.path(self._namespace, name)
            self._stop_client.delete(path, uid=uid, patience_s=STOP_PATIENCE_S)

    def _attempts(self, spec: JobSpec) -> list[Attempt]:
        found = self._list(f"{JOB_LABEL}={spec.name_of_all_attempts}")
        attempts = [Attempt(job, self._status_of(job)) for job in found]
        if not attempts:
            self._check_no_other(spec)
        kept = kept_end(spec) if spec.is_automatic else None
        # a job that is still there says more than what was written before it was to be deleted
        if kept and all(each.number < kept.number or each.is_going for each in attempts):
            attempts.append(kept)
        return attempts

    def _check_no_other(self, spec: JobSpec) -> None:
        """Two jobs must not train in one run directory. Raises ConfigError."""
        if not spec.run_id:
            return
        for job in self._list(f"{PIPELINE_RUN_LABEL}={spec.run_id},{STEP_LABEL}={spec.step}"):
            is_terminating = "deletionTimestamp" in job["metadata"]
            if not is_terminating and self._status_of(job).phase in ("pending", "running"):
                name = job["metadata"]["name"]
                raise ConfigError(
                    f"job {name} still runs this step with the settings that the run had before; "
                    f"stop it (`rlvr stop {name}`), or continue with those settings"
                )

    def _status_of(self, job: dict[str, Any]) -> JobStatus:
        """By the job alone where that says enough."""
        alone = status_of(self._kind, job, ())
        if alone.phase != "failed":
            return alone
        return take_snapshot(self._client, self._kind, job).status

    def _spent(self, end: JobStatus, job: Object) -> JobStatus:
        """The end of a job as that of the last attempt, when the budget allows no other."""
        if end.phase != "failed" or not end.is_retried:
            return end
        label = str(job["metadata"]["labels"][JOB_LABEL])
        before = [
            Attempt(each, self._status_of(each))
            for each in self._list(f"{JOB_LABEL}={label}")
            if self._first_attempts.get(label, 1) <= attempt_of(each) < attempt_of(job)
        ]
        attempts = [*before, Attempt(job, end)]
        return spent_by(attempts, max_attempts=self._platform.max_attempts) or end

    def _list(self, selector: str) -> list[dict[str, Any]]:
        found = self._client.list(self._kind.path(self._namespace), {"labelSelector": selector})
        listed: list[dict[str, Any]] = found["items"]
        return listed

    def _get(self, job: str) -> dict[str, Any]:
        try:
            return self._client.get(self._kind.path(self._namespace, job))
        except Refusal as error:
            if error.status != 404:
                raise
            raise ConfigError(
                f"there is no {self._kind.name} {job!r} in namespace {self._namespace}; "
                "`rlvr status` lists those that there are"
            ) from None

    def _trainjob_overrides(self) -> OverridesField:
        if self._overrides is None:
            document = self._client.get(f"/openapi/v3/apis/{self._kind.api_version}")
            self._overrides = overrides_field(document)
        return self._overrides
