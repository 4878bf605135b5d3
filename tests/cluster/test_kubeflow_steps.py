"""Run the pipeline's steps as pods, as Kubeflow does: image, command and settings of the IR.

There is no Kubeflow here. Its driver is played by `Pipeline`, its launcher and Argo's part in the
pod by `step_container.py`; service account and rights are those of manifests/overlays/kubeflow.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr_components.pipeline_run import LaunchSettings, write_settings
from rlvr_components.platform.settings import Platform
from rlvr_pipelines.pipeline.package import compile_package
from rlvr_trainer.data import prepare
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.storage import open_storage

from .conftest import S3, Kubectl

pytestmark = pytest.mark.timeout(300)
full = pytest.mark.full

HERE = Path(__file__).parent
OVERLAY = HERE.parents[1] / "manifests" / "overlays" / "kubeflow"
SECRET = "rlvr-s3"
SMALL = [
    "data={num_train_rows: 60, num_test_rows: 8, num_exemplars: 2}",
    "prompt.num_shots=2",
    "sampling={num_generations: 8, max_completion_tokens: 16}",
    "training={max_steps: 2, save_steps: 2, per_device_batch_size: 32, "
    "learning_rate: 1e-3, gradient_checkpointing: false, num_validation_rows: 0}",
]
TRAINING = "[master-0] "
"""Prefix of the job's lines in the step's log."""


@cache
def compiled() -> dict[str, Any]:
    """Compile a small recipe; return the IR and its platform part."""
    return compile_package(recipe(), secret=SECRET).spec


@cache
def recipe() -> Any:
    return load_recipe("arithmetic", SMALL)


@dataclass
class Pipeline:
    """A run of the compiled pipeline, one pod per task: the driver's part."""

    kubectl: Kubectl
    s3: S3
    platform: dict[str, Any]
    owner: dict[str, str] | None = None
    """The owner of its pods."""
    form: dict[str, Any] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    """Outputs of finished tasks, by the names that the IR has for them: `TASK-OUTPUT`."""

    def __post_init__(self) -> None:
        self.run_id = str(uuid.uuid4())
        self.prefix = f"{self.kubectl.namespace}/rlvr-arithmetic"
        self.root = f"s3://{self.s3.bucket}/{self.prefix}/{self.run_id}"
        self.form["job_platform"] = json.dumps(self.platform)

    @property
    def folder(self) -> str:
        """Return the run's folder, beside the artifacts unless the form says otherwise."""
        return f"s3://{self.s3.bucket}/{self.prefix}/runs/{self.run_id}"

    def run(self, task: str, **parameters: Any) -> dict[str, Any]:
        """Run the task's pod until it ends; return `parameters` and `artifacts`."""
        return self.finished(self.start(task, **parameters))

    def start(self, task: str, **parameters: Any) -> str:
        """Create the task's pod and return its name."""
        name = f"rlvr-{task}-{uuid.uuid4().hex[:5]}"
        self.kubectl.apply(self.pod(name, task, parameters))
        return name

    def finished(self, pod: str) -> dict[str, Any]:
        phase = self.wait_until_ended(pod)
        log = self.kubectl("logs", pod, check=False)
        assert phase == "Succeeded", log
        task = self.kubectl.get("pod", pod)["metadata"]["labels"]["task"]
        key = f"{self.prefix}/{self.run_id}/{task}/salt/output_metadata.json"
        body = self.s3.client().get_object(Bucket=self.s3.bucket, Key=key)["Body"].read()
        outputs: dict[str, Any] = json.loads(body)
        for values in outputs.values():
            self.known |= {f"{task}-{name}": value for name, value in values.items()}
        return outputs

    def wait_until_ended(self, pod: str, timeout_s: float = 200) -> str:
        def phase() -> str:
            return str(self.kubectl.get("pod", pod)["status"]["phase"])

        self.kubectl.wait(
            f"{pod} has ended", lambda: phase() in ("Succeeded", "Failed"), timeout_s=timeout_s
        )
        return phase()

    def pod(self, name: str, task: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the pod as KFP's compiler and driver make it."""
        executor = compiled()["pipeline_spec"]["deploymentSpec"]["executors"][f"exec-{task}"]
        platforms = compiled()["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]
        platform, container = platforms["executors"][f"exec-{task}"], executor["container"]
        metadata: dict[str, Any] = {
            "name": name,
            "labels": {"pipeline/runid": self.run_id, "task": task},
        }
        if self.owner:
            metadata["ownerReferences"] = [{**self.owner, "controller": True}]
        folders = ("gcs", "s3", "minio", ".local", ".cache", ".config")
        script = (HERE / "step_container.py").read_text()
        given = json.dumps(self.executor_input(task, platform, parameters))
        deadline = {"activeDeadlineSeconds": int(platform.get("activeDeadlineSeconds", 3600))}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": deadline
            | {
                "serviceAccountName": "pipeline-runner",
                "restartPolicy": "Never",
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "volumes": [{"name": folder.strip("."), "emptyDir": {}} for folder in folders],
                "containers": [
                    {
                        "name": "main",
                        "image": container["image"],
                        "command": ["python", "-c", script, given, *container["command"]],
                        "args": container["args"],
                        "env": [*_kubeflow_environment(), *_environment(platform)],
                        "volumeMounts": [
                            {"name": folder.strip("."), "mountPath": f"/{folder}"}
                            for folder in folders
                        ],
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                            "seccompProfile": {"type": "RuntimeDefault"},
                            **platform["securityContext"],
                        },
                    }
                ],
            },
        }

    def executor_input(
        self, task: str, platform: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the executor input: inputs as wired in the IR, outputs below the pipeline root."""
        pipeline = compiled()["pipeline_spec"]
        definition = pipeline["components"][f"comp-{task}"]
        wiring = _task(task)["inputs"]
        values = {name: self._look_up(source) for name, source in wiring["parameters"].items()}
        for name, parameter in definition["inputDefinitions"]["parameters"].items():
            if parameter["parameterType"] == "TASK_CONFIG":
                values[name] = {"env": _environment(platform), "resources": {}, "volumes": None}
        outputs, folder = definition["outputDefinitions"], f"{self.root}/{task}/salt"
        return {
            "inputs": {
                "parameterValues": {**values, **parameters},
                "artifacts": {
                    name: {"artifacts": [self._look_up(source)]}
                    for name, source in wiring.get("artifacts", {}).items()
                },
            },
            "outputs": {
                "parameters": {
                    name: {"outputFile": f"/tmp/kfp/outputs/{name}"}
                    for name in outputs.get("parameters", {})
                },
                "artifacts": {
                    name: {
                        "artifacts": [
                            {
                                "name": name,
                                "uri": f"{folder}/{name}",
                                "type": artifact["artifactType"],
                                "metadata": {},
                            }
                        ]
                    }
                    for name, artifact in outputs["artifacts"].items()
                },
                "outputFile": f"/s3/{folder.removeprefix('s3://')}/output_metadata.json",
            },
        }

    def _look_up(self, wire: Mapping[str, Any]) -> Any:
        match wire:
            case {"componentInputParameter": name} | {"componentInputArtifact": name}:
                key_of_form = name.removeprefix("pipelinechannel--")
            case {"taskOutputParameter": {"producerTask": producer, "outputParameterKey": key}}:
                key_of_form = f"{producer}-{key}"
            case {"taskOutputArtifact": {"producerTask": producer, "outputArtifactKey": key}}:
                key_of_form = f"{producer}-{key}"
            case {"taskFinalStatus": _}:
                return {"state": "SUCCEEDED", "pipelineTaskName": "exit-handler-1"}
        asked = compiled()["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        if key_of_form in asked:
            return self.form.get(key_of_form, asked[key_of_form].get("defaultValue"))
        return self.known[key_of_form]

    def jobs(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.kubectl.get("pytorchjobs")["items"]
        return items

    def job_pods(self) -> list[str]:
        """Return the phases of the pods of jobs."""
        items = self.kubectl.get("pods", "-l", "training.kubeflow.org/job-name")["items"]
        return [pod["status"]["phase"] for pod in items]

    def start_training(self) -> str:
        """Start the train step, wait for its job, and return the step's pod."""
        pod = self.start("train")
        self.wait_until_launched(pod)
        return pod

    def wait_until_launched(self, pod: str, text: str = "") -> None:
        """Wait until the job exists and, if given, `text` is in the step's log."""

        def is_launched() -> bool:
            log = self.kubectl("logs", pod, check=False)
            assert self.kubectl.get("pod", pod)["status"]["phase"] != "Failed", log
            return bool(self.jobs()) and text in log

        self.kubectl.wait(f"{pod} launches a job {text!r}", is_launched)

    def terminate(self, pod: str) -> None:
        """Send SIGTERM to PID 1, as Argo does; the pod is not deleted."""
        self.kubectl("exec", pod, "--", "python", "-c", "import os; os.kill(1, 15)")

    def kill(self, pod: str) -> None:
        """Send SIGKILL to the step."""
        self.kubectl("exec", pod, "--", "sh", "-c", "kill -9 -$(cat /tmp/process-group)")
        assert self.wait_until_ended(pod, timeout_s=20) == "Failed"


def _task(name: str) -> dict[str, Any]:
    pipeline = compiled()["pipeline_spec"]
    for component in (pipeline["root"], *pipeline["components"].values()):
        if name in component.get("dag", {}).get("tasks", {}):
            task: dict[str, Any] = component["dag"]["tasks"][name]
            return task
    raise AssertionError(f"the pipeline has no task {name}")


def _kubeflow_environment() -> list[dict[str, Any]]:
    return [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.{part}"}}}
        for name, part in (("KFP_POD_NAME", "name"), ("KFP_POD_UID", "uid"))
    ]


def _environment(platform: Mapping[str, Any]) -> list[dict[str, Any]]:
    fields = [
        {"name": variable["name"], "valueFrom": {"fieldRef": {"fieldPath": variable["fieldPath"]}}}
        for variable in platform["fieldPathAsEnv"]
    ]
    secrets = [
        {
            "name": key["envVar"],
            "valueFrom": {
                "secretKeyRef": {
                    "name": secret["secretName"],
                    "key": key["secretKey"],
                    "optional": secret["optional"],
                }
            },
        }
        for secret in platform["secretAsEnv"]
        for key in secret["keyToEnv"]
    ]
    return [*fields, *secrets]


@pytest.fixture
def pipeline(
    kubectl: Kubectl,
    s3: S3,
    base_manifests: None,
    trainer_image: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Pipeline:
    """Return a run in a namespace that manifests/overlays/kubeflow was applied to."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    [transformer] = yaml.safe_load((OVERLAY / "kustomization.yaml").read_text())["transformers"]
    profile = yaml.safe_load(transformer)["metadata"]["namespace"]
    overlay = kubectl("kustomize", str(OVERLAY)).replace(profile, kubectl.namespace)
    kubectl("create", "serviceaccount", "pipeline-runner")
    kubectl("apply", "-f", "-", stdin=overlay)
    settings = {
        "image": trainer_image,
        "cpu_per_node": 0.5,
        "memory_gib_per_node": 5,
        "shm_gib": 0.5,
        "env": {"OMP_NUM_THREADS": "1"},
        "stop_grace_s": 10,
    }
    return Pipeline(kubectl, s3, settings)


@pytest.fixture
def prepared(pipeline: Pipeline, tmp_path: Path) -> Pipeline:
    """Write the outputs of the steps before the training."""
    prepare(recipe(), tmp_path / "data", count_tokens=len)
    uri = f"{pipeline.root}/prepare-data/salt/data"
    open_storage(uri).upload_dir(tmp_path / "data", "")
    pipeline.known = {
        "prepare-data-data": {"name": "data", "uri": uri, "metadata": {}},
        "check-resolved_recipe": recipe().model_dump_json(),
        "check-storage": pipeline.folder.rpartition("/")[0],
        "check-job_image": pipeline.platform["image"],
        "check-reuse_key": pipeline.run_id,
    }
    settle(pipeline)
    return pipeline


def settle(pipeline: Pipeline, **settings: Any) -> None:
    """Write the settings of the run's jobs, as the check step does."""
    platform = Platform.model_validate({**pipeline.platform, **settings})
    chosen = LaunchSettings("pytorchjob", "arithmetic", platform, writes_artifacts=True)
    write_settings(open_storage(pipeline.folder), chosen)


@pytest.fixture
def workflow(kubectl: Kubectl) -> Iterator[dict[str, str]]:
    """Create an Argo Workflow without steps, which runs for ever; yield a reference to it."""
    group, kind = "argoproj.io", "Workflow"
    names = {"kind": kind, "plural": "workflows", "singular": "workflow"}
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1", "served": True, "storage": True}
    has_argo = f"workflows.{group}" in kubectl("get", "crd", "-o", "name")
    if not has_argo:
        kubectl.apply(
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": f"workflows.{group}"},
                "spec": {
                    "group": group,
                    "names": names,
                    "scope": "Namespaced",
                    "versions": [{**version, "schema": {"openAPIV3Schema": schema}}],
                },
            }
        )
    kubectl("wait", "--for=condition=Established", f"crd/workflows.{group}", "--timeout=30s")
    api = {"apiVersion": f"{group}/v1alpha1", "kind": kind}
    templates = [{"name": "none", "suspend": {}}]
    spec = {"entrypoint": "none", "templates": templates}
    metadata = {"name": "rlvr-run", "namespace": kubectl.namespace}
    kubectl.apply({**api, "metadata": metadata, "spec": spec})
    uid = kubectl.get("workflow", "rlvr-run")["metadata"]["uid"]
    yield {**api, "name": "rlvr-run", "uid": uid}
    if not has_argo:
        kubectl("delete", "crd", f"workflows.{group}", "--timeout=60s")


# ------------------------------------------------------------------- core


def test_the_check_step_settles_the_run_and_launches_nothing(pipeline: Pipeline) -> None:
    pod = pipeline.start("check")
    checked = pipeline.finished(pod)

    assert json.loads(checked["parameters"]["resolved_recipe"])["training"]["max_steps"] == 2
    assert f"{checked['parameters']['storage']}/{pipeline.run_id}" == pipeline.folder
    settings = json.loads(open_storage(pipeline.folder).read_bytes("launch.json"))
    assert settings["writes_artifacts"], "pods write the adapter where Kubeflow expects it"
    assert settings["platform"]["labels"] == {"sidecar.istio.io/inject": "false"}, "the ConfigMap's"
    assert pipeline.jobs() == []
    assert "Found endpoint" not in pipeline.kubectl("logs", pod), "boto3, for each client"


def test_terminate_deletes_a_training_job(prepared: Pipeline) -> None:
    pod = prepared.start("train")
    prepared.wait_until_launched(pod, TRAINING)
    [job] = prepared.jobs()
    assert job["metadata"]["labels"]["pipeline/runid"] == prepared.run_id

    prepared.terminate(pod)

    prepared.kubectl.wait("the job is gone", lambda: not prepared.jobs(), timeout_s=3)
    assert prepared.wait_until_ended(pod, timeout_s=10) == "Failed"
    prepared.kubectl.wait(
        "its pods are gone", lambda: "Running" not in prepared.job_pods(), timeout_s=20
    )
    assert prepared.jobs() == [], "the job was not started again"


def test_terminate_deletes_a_pending_job(prepared: Pipeline) -> None:
    settle(prepared, cpu_per_node=1000)
    pod = prepared.start("train")
    prepared.wait_until_launched(pod, "pending: ")

    prepared.terminate(pod)

    prepared.kubectl.wait("the job is gone", lambda: not prepared.jobs(), timeout_s=3)
    prepared.kubectl.wait("its pods are gone", lambda: not prepared.job_pods(), timeout_s=20)


def test_a_retry_of_a_step_adopts_the_job_and_finish_deletes_it(prepared: Pipeline) -> None:
    settle(prepared, cpu_per_node=1000)
    prepared.kill(prepared.start_training())
    [job] = prepared.jobs()

    second = prepared.start("train")
    prepared.wait_until_launched(second, "pending: ")
    [adopted] = prepared.jobs()
    assert adopted["metadata"]["uid"] == job["metadata"]["uid"]
    prepared.kill(second)

    finished = prepared.run("finish")
    assert prepared.jobs() == []
    outcome = json.loads(open_storage(prepared.folder).read_bytes("outcome.json"))
    assert outcome["deleted"] == [job["metadata"]["name"]]
    assert finished["artifacts"]["outcome"]["uri"].startswith(prepared.root)


def test_sigterm_stops_a_job_only_if_its_run_is_terminated(
    prepared: Pipeline, workflow: dict[str, str]
) -> None:
    settle(prepared, cpu_per_node=1000)
    prepared.owner = workflow
    lost = prepared.start("train")
    prepared.wait_until_launched(lost, "pending: ")
    [job] = prepared.jobs()

    prepared.terminate(lost)

    assert prepared.wait_until_ended(lost, timeout_s=10) == "Failed"
    assert "the next attempt of this step adopts it" in prepared.kubectl("logs", lost)
    second = prepared.start("train")
    prepared.wait_until_launched(second, "pending: ")
    [adopted] = prepared.jobs()
    assert adopted["metadata"]["uid"] == job["metadata"]["uid"]

    patch = '{"spec": {"activeDeadlineSeconds": 0}}'
    prepared.kubectl("patch", "workflow", "rlvr-run", "--type=merge", "-p", patch)
    prepared.terminate(second)

    prepared.kubectl.wait("the job is gone", lambda: not prepared.jobs(), timeout_s=3)


def test_a_job_goes_with_the_pod_that_launched_it(prepared: Pipeline) -> None:
    settle(prepared, cpu_per_node=1000)
    pod = prepared.start_training()
    prepared.kill(pod)
    [job] = prepared.jobs()
    uid = prepared.kubectl.get("pod", pod)["metadata"]["uid"]
    [owner] = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Pod", uid)

    prepared.kubectl("delete", "pod", pod)

    prepared.kubectl.wait("the job is gone", lambda: not prepared.jobs(), timeout_s=20)
    prepared.kubectl.wait("its pods are gone", lambda: not prepared.job_pods(), timeout_s=20)


# ------------------------------------------------------------------- full


@full
def test_a_job_goes_with_the_workflow(prepared: Pipeline, workflow: dict[str, str]) -> None:
    settle(prepared, cpu_per_node=1000)
    prepared.owner = workflow
    pod = prepared.start_training()
    prepared.kill(pod)
    [job] = prepared.jobs()
    [owner] = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Workflow", workflow["uid"])

    prepared.kubectl("delete", "pod", pod)
    second = prepared.start("train")
    prepared.wait_until_launched(second, "pending: ")
    [adopted] = prepared.jobs()
    assert adopted["metadata"]["uid"] == job["metadata"]["uid"], "a lost pod costs nothing"
    prepared.kill(second)

    # the collector looks for new kinds twice a minute
    prepared.kubectl("delete", "workflow", "rlvr-run")
    prepared.kubectl.wait("the job is gone", lambda: not prepared.jobs(), timeout_s=60)


@full
def test_every_step_in_its_own_image(pipeline: Pipeline) -> None:
    models = f"s3://{pipeline.s3.bucket}/{pipeline.prefix}/models"
    pipeline.form["publish_uri"] = models
    pipeline.run("check")
    prepared = pipeline.run("prepare-data")
    assert prepared["artifacts"]["metrics"]["metadata"]["test"] == 8

    side_by_side = [pipeline.start("evaluate-base"), pipeline.start("train")]
    base, trained = (pipeline.finished(pod) for pod in side_by_side)
    adapter = trained["artifacts"]["adapter"]
    assert adapter["metadata"]["recipe_hash"] == recipe().hash
    written = open_storage(adapter["uri"]).list()
    assert "adapter_model.safetensors" in written, "by the job's pods"

    evaluated = pipeline.run("evaluate-trained")
    assert evaluated["artifacts"]["model"]["uri"] == adapter["uri"]
    compared = pipeline.run("compare-and-report")
    metrics = compared["artifacts"]["metrics"]["metadata"]
    assert metrics["accuracy_before"] == base["artifacts"]["metrics"]["metadata"]["accuracy"]
    assert isinstance(compared["parameters"]["Output"], bool)
    report = compared["artifacts"]["report"]["uri"].removeprefix(f"s3://{pipeline.s3.bucket}/")
    page = pipeline.s3.client().get_object(Bucket=pipeline.s3.bucket, Key=report)["Body"].read()
    assert page.lower().startswith(b"<!doctype html")

    published = pipeline.run("publish", is_better=True)["parameters"]["Output"]
    assert published.startswith(models)
    assert "adapter_model.safetensors" in open_storage(published).list()

    finished = pipeline.run("finish")
    assert set(finished["artifacts"]) == {"outcome"}
    assert json.loads(open_storage(pipeline.folder).read_bytes("outcome.json"))["deleted"] == []
    assert len(pipeline.jobs()) == 3
    assert "Running" not in pipeline.job_pods()
