"""A fake of SageMaker's training jobs that runs the real container command as real processes.

It speaks the wire protocol (JSON 1.1 over HTTP), refuses what the service's model forbids, lays
`/opt/ml` in a folder for each host, starts ContainerEntrypoint and ContainerArguments there, plays
the transitions, and writes the processes' output to CloudWatch Logs, which is moto's. Faults are
injected by its methods. What it does not know about the service, it does not prove.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3

from .service_model import faults

ACCOUNT, REGION = "123456789012", "us-east-1"
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
ENDED = ("Completed", "Failed", "Stopped")
POLL_S = 0.02
PAGE_SIZE = 2
"""Names in one page of a list, so that every test of a list has several pages."""

Command = Callable[[list[str]], list[str]]


class Refused(Exception):
    """An answer with an error code."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class LostAnswer(Exception):
    """The request was accepted, and the connection closed before the answer."""


def as_it_is(command: list[str]) -> list[str]:
    """Return the command with this interpreter as `python`."""
    return [sys.executable, *command[1:]] if command[0] == "python" else command


@dataclass
class Job:
    """A job: its request, its state, its processes."""

    request: dict[str, Any]
    created: float
    status: str = "InProgress"
    secondary: str = "Starting"
    transitions: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
    started: float | None = None
    ended: float | None = None
    instance_type: str = ""
    warm_pool: str = ""
    asked_to_stop: str = ""
    """The secondary status after a stop: Stopped, MaxRuntimeExceeded, MaxWaitTimeExceeded."""
    is_interrupted: bool = False
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.request["TrainingJobName"])

    def now_is(self, secondary: str, message: str = "") -> None:
        """Note a transition."""
        moment = time.time()
        if self.transitions:
            self.transitions[-1]["EndTime"] = moment
        self.secondary = secondary
        self.transitions.append(
            {"Status": secondary, "StartTime": moment, "StatusMessage": message}
        )


class FakeSageMaker:
    """The service. `root` holds the folders of the hosts; `logs_endpoint` is moto's."""

    def __init__(self, root: Path, logs_endpoint: str) -> None:
        self.root = root
        self.command: Command = as_it_is
        """Replace the container's command, for tests that need no training."""
        self.environment: dict[str, str] = {}
        """Further environment of the containers."""
        self.grace_s = 5.0
        self.max_runtime_s: float | None = None
        """Stop jobs after this time, in place of their MaxRuntimeInSeconds."""
        self.max_pending_s = 0.2
        self.without_capacity: set[str] = set()
        self.quota: dict[str, int] = {}
        self.late_log_s = 0.0
        """Time after the end of a job for its last lines to arrive."""
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.jobs: dict[str, Job] = {}
        self._faults: dict[str, list[Exception]] = defaultdict(list)
        self._lock = threading.RLock()
        self._logs = boto3.client(
            "logs",
            endpoint_url=logs_endpoint,
            region_name=REGION,
            aws_access_key_id="fake",
            aws_secret_access_key="fake",
        )
        with suppress(self._logs.exceptions.ResourceAlreadyExistsException):
            self._logs.create_log_group(logGroupName=LOG_GROUP)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop the server and kill all containers."""
        self._server.shutdown()
        self._server.server_close()
        for job in list(self.jobs.values()):
            job.asked_to_stop = job.asked_to_stop or "Stopped"
            for process in job.processes:
                process.kill()
                process.wait()

    # faults

    def refuse(
        self, operation: str, code: str, message: str = "", *, times: int = 1, status: int = 400
    ) -> None:
        """Answer the next requests with an error."""
        self._faults[operation] += [Refused(code, message or code, status)] * times

    def lose_answer(self, operation: str, *, times: int = 1) -> None:
        """Accept the next requests, and close the connection without an answer."""
        self._faults[operation] += [LostAnswer()] * times

    def interrupt(self, name: str) -> None:
        """Take back the spot instances of a job: SIGTERM, the grace period, and a restart."""
        self.jobs[name].is_interrupted = True

    # the protocol

    def answer(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request. Raises Refused, LostAnswer."""
        with self._lock:
            self.calls.append((operation, request))
            fault = self._faults[operation].pop(0) if self._faults[operation] else None
            if isinstance(fault, Refused):
                raise fault
            forbidden = faults("sagemaker", operation, request)
            if forbidden:
                raise Refused("ValidationException", "; ".join(forbidden))
            answer: dict[str, Any] = getattr(self, f"_{operation}")(**request)
        if fault:
            raise fault
        return answer

    def _CreateTrainingJob(self, **request: Any) -> dict[str, Any]:
        name, resources = request["TrainingJobName"], request["ResourceConfig"]
        if name in self.jobs:
            raise Refused(
                "ResourceInUse",
                "Training job names must be unique within an AWS account and region, and a "
                f"training job with this name already exists ({_arn(name)})",
            )
        types = [p["InstanceType"] for p in resources.get("InstancePreferences", ())]
        types = types or [resources["InstanceType"]]
        for kind in types:
            if resources.get("InstanceCount", 1) > self.quota.get(kind, 99):
                raise Refused(
                    "ResourceLimitExceeded",
                    f"The account-level service limit '{kind} for training job usage' is "
                    f"{self.quota[kind]} Instances, with current utilization of 0 Instances and a "
                    f"request delta of {resources['InstanceCount']} Instances.",
                )
        job = self.jobs[name] = Job(request, time.time())
        job.now_is("Starting", "Starting the training job")
        for other in self.jobs.values():
            if other.warm_pool == "Available" and other.instance_type in types:
                other.warm_pool = "Reused"
        threading.Thread(target=self._play, args=(job,), daemon=True).start()
        return {"TrainingJobArn": _arn(name)}

    def _DescribeTrainingJob(self, TrainingJobName: str) -> dict[str, Any]:
        return _described(self._job(TrainingJobName))

    def _ListTrainingJobs(self, **query: Any) -> dict[str, Any]:
        jobs = [job for job in self.jobs.values() if query.get("NameContains", "") in job.name]
        jobs.sort(key=lambda job: job.created, reverse=query.get("SortOrder") == "Descending")
        start = int(query.get("NextToken") or 0)
        summaries = [
            {
                "TrainingJobName": job.name,
                "TrainingJobArn": _arn(job.name),
                "CreationTime": job.created,
                "TrainingJobStatus": job.status,
            }
            for job in jobs[start : start + PAGE_SIZE]
        ]
        following = start + PAGE_SIZE
        more = {"NextToken": str(following)} if following < len(jobs) else {}
        return {"TrainingJobSummaries": summaries, **more}

    def _StopTrainingJob(self, TrainingJobName: str) -> dict[str, Any]:
        job = self._job(TrainingJobName)
        if job.status != "InProgress":
            raise Refused(
                "ValidationException",
                f"The request was rejected because the training job is in status {job.status}.",
            )
        self._stop(job, "Stopped")
        return {}

    def _DeleteTrainingJob(self, TrainingJobName: str) -> dict[str, Any]:
        job = self._job(TrainingJobName)
        if job.status not in ENDED or job.warm_pool == "Available":
            raise Refused("ValidationException", "The job is not terminal or has a warm pool.")
        del self.jobs[TrainingJobName]
        return {}

    def _UpdateTrainingJob(
        self, TrainingJobName: str, ResourceConfig: Mapping[str, int]
    ) -> dict[str, Any]:
        job = self._job(TrainingJobName)
        if job.warm_pool != "Available":
            raise Refused("ValidationException", "The warm pool of the job is not available.")
        if ResourceConfig["KeepAlivePeriodInSeconds"] == 0:
            job.warm_pool = "Terminated"
        return {"TrainingJobArn": _arn(TrainingJobName)}

    def _job(self, name: str) -> Job:
        if name not in self.jobs:
            raise Refused("ValidationException", "Requested resource not found.")
        return self.jobs[name]

    # the life of a job

    def _stop(self, job: Job, becomes: str) -> None:
        job.status, job.asked_to_stop = "Stopping", becomes
        job.now_is("Stopping", "Stopping the training job")

    def _play(self, job: Job) -> None:
        try:
            self._transit(job)
        except Exception as error:  # a bug of the fake must not look like a hang
            self._end(job, "Failed", "Failed", f"the fake failed: {error!r}")
            raise

    def _transit(self, job: Job) -> None:
        if not self._find_capacity(job):
            return
        job.now_is("Downloading", "Downloading the training image")
        restarts = 0
        while True:
            if job.asked_to_stop:
                self._end(job, "Stopped", job.asked_to_stop)
                return
            job.started = job.started or time.time()
            job.now_is("Training", "Training image download completed. Training in progress.")
            codes = self._run_hosts(job, restarts)
            if job.is_interrupted and not job.asked_to_stop:
                job.is_interrupted = False
                job.now_is("Interrupted", "Training job interrupted to reclaim spot capacity")
                job.now_is("Restarting", "Restarting the training job")
                restarts += 1
                continue
            break
        failed = next((rank for rank, code in enumerate(codes) if code), None)
        if job.asked_to_stop:
            self._upload_model(job)
            self._end(job, "Stopped", job.asked_to_stop)
        elif failed is not None:
            self._end(job, "Failed", "Failed", self._reason(job, failed, codes[failed]))
        else:
            job.now_is("Uploading", "Uploading generated training model")
            self._upload_model(job)
            self._end(job, "Completed", "Completed")

    def _find_capacity(self, job: Job) -> bool:
        resources = job.request["ResourceConfig"]
        types = [p["InstanceType"] for p in resources.get("InstancePreferences", ())]
        deadline = time.monotonic() + self.max_pending_s
        while not job.asked_to_stop:
            available = [
                kind
                for kind in types or [resources["InstanceType"]]
                if kind not in self.without_capacity
            ]
            if available:
                job.instance_type = available[0]
                return True
            if job.secondary != "Pending":
                job.now_is("Pending", "Insufficient capacity. Waiting for capacity.")
            if time.monotonic() > deadline:
                self._end(
                    job,
                    "Failed",
                    "Failed",
                    "CapacityError: Unable to provision requested ML compute capacity. Please "
                    "retry using a different ML instance type.",
                )
                return False
            time.sleep(POLL_S)
        self._end(job, "Stopped", job.asked_to_stop)
        return False

    def _run_hosts(self, job: Job, restarts: int) -> list[int]:
        hosts = [f"127.0.0.{rank + 1}" for rank in range(_num_hosts(job))]
        readers = []
        job.processes = []
        for rank, host in enumerate(hosts):
            process = self._start(job, rank, host, hosts)
            job.processes.append(process)
            stream = f"{job.name}/algo-{rank + 1}-{int(job.created)}{restarts}"
            reader = threading.Thread(target=self._copy_log, args=(process, stream), daemon=True)
            reader.start()
            readers.append(reader)
        limit = job.request["StoppingCondition"].get("MaxRuntimeInSeconds", 86400)
        deadline = time.monotonic() + (self.max_runtime_s or limit)
        kill_at: float | None = None
        while any(process.poll() is None for process in job.processes):
            now = time.monotonic()
            if now > deadline and not job.asked_to_stop:
                self._stop(job, "MaxRuntimeExceeded")
            failed = any(process.poll() for process in job.processes)
            if (job.asked_to_stop or job.is_interrupted or failed) and kill_at is None:
                kill_at = now + self.grace_s
                for process in job.processes:
                    with suppress(ProcessLookupError):
                        process.send_signal(signal.SIGTERM)
            if kill_at is not None and now > kill_at:
                for process in job.processes:
                    process.kill()
            time.sleep(POLL_S)
        for reader in readers:
            reader.join(0.0 if self.late_log_s else 10.0)
        codes = [process.returncode for process in job.processes]
        return [128 - code if code < 0 else code for code in codes]

    def _start(self, job: Job, rank: int, host: str, hosts: list[str]) -> subprocess.Popen[bytes]:
        request = job.request
        folder = self._folder(job, rank)
        config = folder / "input" / "config"
        for path in (config, folder / "output", folder / "model", folder / "input" / "data"):
            path.mkdir(parents=True, exist_ok=True)
        group = {
            "instance_group_name": "homogeneousCluster",
            "instance_type": job.instance_type,
            "hosts": hosts,
        }
        resources = {
            "current_host": host,
            "current_instance_type": job.instance_type,
            "current_group_name": "homogeneousCluster",
            "hosts": hosts,
            "instance_groups": [group],
            "network_interface_name": "lo",
        }
        channels = {}
        for channel in request.get("InputDataConfig", ()):
            channels[channel["ChannelName"]] = {
                "TrainingInputMode": "File",
                "S3DistributionType": "FullyReplicated",
                "RecordWrapperType": "None",
            }
            _download(channel, folder / "input" / "data" / channel["ChannelName"])
        for name, content in (
            ("resourceconfig.json", resources),
            ("inputdataconfig.json", channels),
            ("hyperparameters.json", request.get("HyperParameters", {})),
        ):
            (config / name).write_text(json.dumps(content))
        algorithm = request["AlgorithmSpecification"]
        command = [*algorithm["ContainerEntrypoint"], *algorithm.get("ContainerArguments", ())]
        own = {name: value for name, value in os.environ.items() if not name.startswith("RLVR_")}
        return subprocess.Popen(
            self.command(command),
            env={
                **own,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}",
                **request.get("Environment", {}),
                "RLVR_SAGEMAKER_ROOT": str(folder),
                "TRAINING_JOB_NAME": job.name,
                "TRAINING_JOB_ARN": _arn(job.name),
                "AWS_REGION": REGION,
                "PYTHONUNBUFFERED": "1",
                **self.environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _copy_log(self, process: subprocess.Popen[bytes], stream: str) -> None:
        assert process.stdout
        is_new = True
        for line in process.stdout:
            if self.late_log_s:
                time.sleep(self.late_log_s)
            if is_new:
                self._logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=stream)
                is_new = False
            event = {
                "timestamp": int(time.time() * 1000),
                "message": line.decode("utf-8", "replace").rstrip("\n") or " ",
            }
            self._logs.put_log_events(
                logGroupName=LOG_GROUP, logStreamName=stream, logEvents=[event]
            )

    def _reason(self, job: Job, rank: int, code: int) -> str:
        file = self._folder(job, rank) / "output" / "failure"
        said = file.read_text("utf-8")[:1024] if file.is_file() else ""
        return f"AlgorithmError: {said}, exit code: {code}"[:1024]

    def _upload_model(self, job: Job) -> None:
        uri = job.request["OutputDataConfig"]["S3OutputPath"].removeprefix("s3://")
        bucket, _, prefix = uri.partition("/")
        folder = self._folder(job, 0) / "model"
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.is_file():
                key = f"{prefix}/{job.name}/output/model/{path.relative_to(folder).as_posix()}"
                boto3.client("s3").upload_file(str(path), bucket, key)

    def _folder(self, job: Job, rank: int) -> Path:
        return self.root / job.name / f"algo-{rank + 1}"

    def _end(self, job: Job, status: str, secondary: str, reason: str = "") -> None:
        with self._lock:
            if job.request["ResourceConfig"].get("KeepAlivePeriodInSeconds") and job.started:
                job.warm_pool = "Available"
            job.reason, job.ended = reason, time.time()
            job.now_is(secondary, reason)
            job.status = status

    def wait(self, name: str, secondary: str, timeout_s: float = 30.0) -> Job:
        """Wait until the job is in a secondary status and return it."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            job = self.jobs.get(name)
            if job and job.secondary == secondary:
                return job
            time.sleep(POLL_S)
        raise AssertionError(f"{name} is not {secondary}: {self.jobs.get(name)}")


def _num_hosts(job: Job) -> int:
    resources = job.request["ResourceConfig"]
    preferred = resources.get("InstancePreferences", ({},))[0]
    return int(resources.get("InstanceCount") or preferred.get("InstanceCount") or 1)


def _described(job: Job) -> dict[str, Any]:
    shown = {key: value for key, value in job.request.items() if key != "Tags"}
    resources = {**shown["ResourceConfig"]}
    if "InstancePreferences" in resources and job.instance_type:
        resources |= {
            "SelectedInstanceType": job.instance_type,
            "SelectedInstanceCount": _num_hosts(job),
        }
    times: dict[str, Any] = {}
    if job.started:
        times["TrainingStartTime"] = job.started
    if job.ended:
        times["TrainingEndTime"] = job.ended
        times["TrainingTimeInSeconds"] = max(1, round(job.ended - (job.started or job.ended)))
        times["BillableTimeInSeconds"] = times["TrainingTimeInSeconds"]
    return {
        **shown,
        "ResourceConfig": resources,
        "TrainingJobArn": _arn(job.name),
        "ModelArtifacts": {"S3ModelArtifacts": shown["OutputDataConfig"]["S3OutputPath"]},
        "TrainingJobStatus": job.status,
        "SecondaryStatus": job.secondary,
        "SecondaryStatusTransitions": job.transitions,
        "CreationTime": job.created,
        **({"FailureReason": job.reason} if job.reason else {}),
        **({"WarmPoolStatus": {"Status": job.warm_pool}} if job.warm_pool else {}),
        **times,
    }


def _download(channel: Mapping[str, Any], folder: Path) -> None:
    uri = channel["DataSource"]["S3DataSource"]["S3Uri"].removeprefix("s3://")
    bucket, _, prefix = uri.partition("/")
    client = boto3.client("s3")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for item in (item for page in pages for item in page.get("Contents", ())):
        target = folder / item["Key"].removeprefix(prefix)
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, item["Key"], str(target))


def _arn(name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/{name}"


def _handler(service: FakeSageMaker) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            operation = self.headers["X-Amz-Target"].removeprefix("SageMaker.")
            try:
                self._send(200, service.answer(operation, json.loads(body or b"{}")))
            except Refused as error:
                content = {"__type": error.code, "message": error.message}
                self._send(error.status, content)
            except LostAnswer:
                self.close_connection = True

        def _send(self, status: int, content: dict[str, Any]) -> None:
            encoded = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, format: str, *arguments: Any) -> None:
            logging.getLogger(__name__).debug(format, *arguments)

    return Handler


def fake_service(
    root: Path, endpoint: str, setenv: Callable[[str, str], None]
) -> Iterator[FakeSageMaker]:
    """Serve the fake, with boto3 configured for it and for moto's CloudWatch at `endpoint`."""
    service = FakeSageMaker(root, endpoint)
    setenv("AWS_ENDPOINT_URL_SAGEMAKER", service.endpoint)
    setenv("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", endpoint)
    setenv("AWS_ENDPOINT_URL_STS", endpoint)
    setenv("AWS_DEFAULT_REGION", REGION)
    yield service
    service.close()
