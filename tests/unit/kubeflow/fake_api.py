"""A fake of Kubeflow Pipelines' API server, for tests: what the client needs, in memory.

A whole Kubeflow is too large for a unit test. The fake speaks HTTP on loopback and kfp_server_api's
types, which parse requests and write answers. Its refusals and their texts are
those of backend/src/apiserver of kubeflow/pipelines 2.17.
"""

from __future__ import annotations

import email.message
import email.policy
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as api
import yaml

from .workflows import Ends, workflow

CODECS = api.ApiClient(api.Configuration())
PROXY = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"
"""The path by which a cluster's API server proxies requests to Kubeflow's."""
GRPC_CODE = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13, 503: 14}


class Refused(Exception):
    """The server answers with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class FakeKubeflow:
    """The server's state and settings."""

    version: str = "2.17.0"
    multi_user: bool = False
    namespaces: tuple[str, ...] = ("kubeflow",)
    """Namespaces that the caller may use, in multi-user mode."""
    token: str = ""
    """The only accepted token; empty: none is required."""
    login_page: bool = False
    """Answer everything with an HTML page, as a proxy in front does."""
    failures: list[int] = field(default_factory=list)
    """Statuses of the next answers."""
    course: list[tuple[str, Ends]] = field(default_factory=list)
    """State and task results of a run, one item per request."""
    is_stock: bool = True
    """Use KFP's own configuration of Argo, in which every node is retried."""
    has_first_version: bool = True
    """Serve runs of the API's first version, whose answer holds the Workflow."""
    is_ui: bool = False
    """Be the UI, which proxies only v1beta1 and v2beta1."""
    logs: dict[str, str] = field(default_factory=dict)
    """Logs by pod; the logs of other pods are gone."""

    url: str = ""
    requests: list[str] = field(default_factory=list)
    pipelines: dict[str, api.V2beta1Pipeline] = field(default_factory=dict)
    versions: dict[str, api.V2beta1PipelineVersion] = field(default_factory=dict)
    experiments: dict[str, api.V2beta1Experiment] = field(default_factory=dict)
    runs: dict[str, api.V2beta1Run] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of the last request."""
    _workflow: dict[str, Any] = field(default_factory=dict)

    # The answers by path; the groups of the path and the query are the arguments.

    def list_pipelines(self, query: dict[str, str]) -> Any:
        self._authorize(query.get("namespace", ""))
        pipelines = _filtered(self.pipelines.values(), query)
        return api.V2beta1ListPipelinesResponse(pipelines=pipelines, total_size=len(pipelines))

    def create_pipeline(self, query: dict[str, str], body: bytes) -> Any:
        pipeline = _read(body, "V2beta1Pipeline")
        self._authorize(pipeline.namespace or "")
        if any(
            existing.display_name == pipeline.display_name for existing in self.pipelines.values()
        ):
            raise Refused(409, "The name already exists")
        pipeline.pipeline_id = f"pipeline-{len(self.pipelines) + 1}"
        self.pipelines[pipeline.pipeline_id] = pipeline
        return pipeline

    def list_versions(self, query: dict[str, str], pipeline_id: str) -> Any:
        own = [version for version in self.versions.values() if version.pipeline_id == pipeline_id]
        versions = _filtered(own, query)
        return api.V2beta1ListPipelineVersionsResponse(
            pipeline_versions=versions, total_size=len(versions)
        )

    def upload_version(self, query: dict[str, str], body: bytes) -> Any:
        pipeline_id, name = query["pipelineid"], query["name"]
        if pipeline_id not in self.pipelines:
            raise Refused(400, "Failed to create a pipeline version")
        for version in self.versions.values():
            if (version.pipeline_id, version.display_name) == (pipeline_id, name):
                raise Refused(409, "Failed to create a pipeline version")
        version = api.V2beta1PipelineVersion(
            pipeline_id=pipeline_id,
            pipeline_version_id=f"version-{len(self.versions) + 1}",
            name=name,
            display_name=name,
            description=query.get("description"),
            pipeline_spec=self._uploaded_spec(body),
        )
        self.versions[version.pipeline_version_id] = version
        return version

    def list_experiments(self, query: dict[str, str]) -> Any:
        namespace = query.get("namespace", "")
        if namespace and not self.multi_user:
            raise Refused(400, "In single-user mode, ListExperiment cannot filter by namespace.")
        self._authorize(namespace)
        experiments = _filtered(self.experiments.values(), query)
        return api.V2beta1ListExperimentsResponse(
            experiments=experiments, total_size=len(experiments)
        )

    def create_experiment(self, query: dict[str, str], body: bytes) -> Any:
        experiment = _read(body, "V2beta1Experiment")
        self._authorize(experiment.namespace or "")
        experiment.experiment_id = f"experiment-{len(self.experiments) + 1}"
        experiment.storage_state = "AVAILABLE"
        self.experiments[experiment.experiment_id] = experiment
        return experiment

    def create_run(self, query: dict[str, str], body: bytes) -> Any:
        run = _read(body, "V2beta1Run")
        if not run.display_name:
            raise Refused(400, "The run name is empty. Please specify a valid name")
        reference = run.pipeline_version_reference
        if reference and reference.pipeline_version_id not in self.versions:
            raise Refused(404, f"PipelineVersion {reference.pipeline_version_id} not found")
        if bool(reference) == bool(run.pipeline_spec):
            raise Refused(400, "A run has a pipeline spec or refers to a pipeline version")
        if run.experiment_id not in self.experiments:
            raise Refused(404, f"Experiment {run.experiment_id} not found")
        run.run_id = f"00000000-0000-0000-0000-{len(self.runs) + 1:012}"
        run.state = "PENDING"
        self.runs[run.run_id] = run
        return run

    def get_run(self, query: dict[str, str], run_id: str) -> Any:
        run = self._run(run_id)
        if self.course:
            state, tasks = self.course.pop(0)
            self._note(run, state)
            self._workflow = workflow(
                tasks,
                phase={"SUCCEEDED": "Succeeded", "FAILED": "Failed"}.get(state, "Running"),
                is_stock=self.is_stock,
            )
            run.run_details = api.V2beta1RunDetails(
                task_details=_details(run_id, self._workflow["status"]["nodes"].values())
            )
        return run

    def get_first_version(self, query: dict[str, str], run_id: str) -> Any:
        self._run(run_id)
        if not self.has_first_version:
            raise Refused(404, "Not Found")
        manifest = json.dumps(self._workflow) if self._workflow else ""
        return {"run": {"id": run_id}, "pipeline_runtime": {"workflow_manifest": manifest}}

    def read_ui_log(self, query: dict[str, str]) -> Any:
        if not self.is_ui or (query["podnamespace"], query["createdat"]) != (
            "kubeflow",
            "2026-11-02",
        ):
            raise Refused(404, "Not Found")
        return self.logs[query["podname"]].encode()

    def read_log(self, query: dict[str, str], run_id: str, pod: str) -> Any:
        if self.is_ui:
            raise Refused(404, "Not Found")
        self._run(run_id)
        if pod not in self.logs:
            raise Refused(500, f"Failed to read logs for run {run_id}: pods {pod!r} not found")
        return self.logs[pod].encode()

    def terminate_run(self, query: dict[str, str], body: bytes, run_id: str) -> Any:
        run = self._run(run_id)
        if run.state in ("SUCCEEDED", "FAILED", "CANCELED"):
            raise Refused(400, f"Failed to terminate run {run_id}: it has ended")
        self._note(run, "CANCELING")
        return {}

    def health(self, query: dict[str, str]) -> Any:
        return {"commit_sha": "abc", "tag_name": self.version, "multi_user": self.multi_user}

    def _note(self, run: Any, state: str) -> None:
        """Note the state; a terminated run ends as FAILED after CANCELING, never as CANCELED."""
        if run.state != state:
            now = f"2026-11-02T10:00:{len(run.state_history or ()):02}Z"
            status = api.V2beta1RuntimeStatus(state=state, update_time=now)
            run.state_history = [*(run.state_history or ()), status]
        run.state = state

    def _run(self, run_id: str) -> Any:
        if run_id not in self.runs:
            raise Refused(404, f"Run {run_id} not found")
        return self.runs[run_id]

    def _authorize(self, namespace: str) -> None:
        if self.multi_user and namespace not in self.namespaces:
            raise Refused(
                403, f"User 'me@example.com' is not authorized in namespace '{namespace}'"
            )

    def _uploaded_spec(self, body: bytes) -> Any:
        """Parse the file of a multipart form as the server does."""
        policy = email.policy.HTTP
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        form = email.message_from_bytes(head + body, policy=policy)
        assert isinstance(form, email.message.EmailMessage)
        (part,) = form.iter_parts()
        assert part.get_param("name", header="content-disposition") == "uploadfile"
        assert str(part.get_filename()).endswith(".yaml")
        pipeline, *platforms = yaml.safe_load_all(part.get_content())
        if not platforms:
            return pipeline
        return {"pipeline_spec": pipeline, "platform_spec": platforms[0]}


ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("GET", r"/apis/v2beta1/healthz", FakeKubeflow.health),
    ("GET", r"/apis/v2beta1/pipelines", FakeKubeflow.list_pipelines),
    ("POST", r"/apis/v2beta1/pipelines", FakeKubeflow.create_pipeline),
    ("POST", r"/apis/v2beta1/pipelines/upload_version", FakeKubeflow.upload_version),
    ("GET", r"/apis/v2beta1/pipelines/([^/]+)/versions", FakeKubeflow.list_versions),
    ("GET", r"/apis/v2beta1/experiments", FakeKubeflow.list_experiments),
    ("POST", r"/apis/v2beta1/experiments", FakeKubeflow.create_experiment),
    ("POST", r"/apis/v2beta1/runs", FakeKubeflow.create_run),
    ("GET", r"/apis/v2beta1/runs/([^/:]+)", FakeKubeflow.get_run),
    ("GET", r"/apis/v1beta1/runs/([^/:]+)", FakeKubeflow.get_first_version),
    ("GET", r"/k8s/pod/logs", FakeKubeflow.read_ui_log),
    ("GET", r"/apis/v1alpha1/runs/([^/:]+)/nodes/([^/:]+)/log", FakeKubeflow.read_log),
    ("POST", r"/apis/v2beta1/runs/([^/:]+):terminate", FakeKubeflow.terminate_run),
]


@contextmanager
def serving(fake: FakeKubeflow) -> Iterator[FakeKubeflow]:
    """Serve the fake on loopback within the context; its address is `fake.url`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path.removeprefix(PROXY))
            fake.requests.append(f"{self.command} {parts.path}")
            fake.headers = dict(self.headers)
            if fake.login_page:
                self._send(200, "text/html; charset=utf-8", b"<html>Log in with Dex</html>")
                return
            try:
                status, answer = 200, self._route(parts.path, parts.query, body)
            except Refused as refusal:
                status, answer = refusal.status, _error(refusal)
            if isinstance(answer, bytes):
                self._send(status, "text/plain", answer)
                return
            content = json.dumps(CODECS.sanitize_for_serialization(answer)).encode()
            self._send(status, "application/json", content)

        def _route(self, path: str, query: str, body: bytes) -> Any:
            if fake.failures:
                raise Refused(fake.failures.pop(0), "told to fail")
            if fake.token and self.headers.get("authorization") != f"Bearer {fake.token}":
                raise Refused(401, "Request header error: there is no user identity header.")
            arguments: dict[str, Any] = {
                name: values[0] for name, values in parse_qs(query).items()
            }
            for method, pattern, respond in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method == self.command:
                    bodies = (body,) if method == "POST" else ()
                    return respond(fake, arguments, *bodies, *match.groups())
            raise Refused(404, "Not Found")

        def _send(self, status: int, content_type: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _read(body: bytes, kind: str) -> Any:
    return CODECS.deserialize(SimpleNamespace(data=body), kind)


def _filtered(items: Any, query: dict[str, str]) -> list[Any]:
    matching = list(items)
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", ()):
        assert predicate["operation"] == "EQUALS", "nothing else is used"
        key, value = predicate["key"], predicate["stringValue"]
        matching = [item for item in matching if getattr(item, key) == value]
    return matching


def _error(refusal: Refused) -> dict[str, Any]:
    code = GRPC_CODE[refusal.status]
    return {
        "error": f"Failed to do it: {refusal}",
        "code": code,
        "message": f"Failed to do it: {refusal}",
        "details": [
            {"@type": "type.googleapis.com/google.rpc.Status", "code": code,
             "message": str(refusal), "details": []}
        ],
    }  # fmt: skip


def _details(run_id: str, nodes: Iterable[dict[str, Any]]) -> list[api.V2beta1PipelineTaskDetail]:
    """Return the server's view of Argo's nodes: no pod, no error, no state of what never ran."""
    states = {"Error": "FAILED", "Omitted": None}
    return [
        api.V2beta1PipelineTaskDetail(
            run_id=run_id,
            task_id=f"task-{number}",
            display_name=node["displayName"],
            state=states.get(node["phase"], node["phase"].upper()),
            create_time="2026-11-02T10:00:00Z",
            start_time=node["startedAt"],
            end_time=node["finishedAt"] or "1970-01-01T00:00:00Z",
        )
        for number, node in enumerate(nodes)
    ]
