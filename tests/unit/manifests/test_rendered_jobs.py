"""Render jobs: the whole object as a golden file, and each property on its own.

After an intended change: RLVR_REWRITE_GOLDEN=1 pytest tests/unit/manifests
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr_components.jobs import JobSpec, Owner, Resources
from rlvr_components.jobs.pods import launch_command
from rlvr_components.jobs.pytorchjob import render_pytorchjob
from rlvr_components.jobs.trainjob import OverridesField, overrides_field, render_trainjob
from rlvr_components.platform.settings import Platform, Volume
from rlvr_trainer.errors import ConfigError

from .pod_security import violations

GOLDEN = Path(__file__).parent / "golden"
TRAINJOB_COMPONENT = Path(__file__).parents[3] / "manifests" / "components" / "trainjob"
FIELDS: tuple[OverridesField, ...] = ("podSpecOverrides", "podTemplateOverrides", "runtimePatches")

SMALL = Platform(image="registry.example.com/rlvr/rlvr-trainer:0.1.0")
LARGE = Platform(
    namespace="rlvr",
    image=f"registry.example.com/rlvr/rlvr-trainer@sha256:{'0' * 64}",
    image_pull_secrets=("registry",),
    num_nodes=2,
    gpus_per_node=8,
    cpu_per_node=180,
    memory_gib_per_node=1900.5,
    ephemeral_gib_per_node=20000,
    shm_gib=256,
    efa_per_node=32,
    node_selector={"rlvr.dev/pool": "p5"},
    tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
    queue="research",
    env={"FI_EFA_USE_HUGE_PAGE": "0"},
    secrets=("rlvr-s3",),
    volumes=(Volume(claim="models", path="/models", read_only=True),),
    labels={"team": "research"},
    annotations={"example.com/cost-centre": "42"},
)
TRAIN = JobSpec(
    run_name="gsm8k",
    recipe_hash="0123456789ab",
    command=launch_command("s3://bucket/runs/gsm8k", SMALL),
    run_dir="s3://bucket/runs/gsm8k",
    env={"NCCL_DEBUG": "WARN"},
)
ON_TWO_NODES = replace(TRAIN, resources=Resources(num_nodes=2, gpus_per_node=8), attempt=2)
EVALUATE = replace(
    TRAIN,
    step="evaluate-base",
    command=launch_command(
        TRAIN.run_dir, SMALL, ("python", "-m", "rlvr_trainer", "evaluate", "--label", "before")
    ),
)
IN_KUBEFLOW = replace(
    TRAIN,
    run_id="6f1d2c3b-0a1b-4c2d-8e3f-1a2b3c4d5e6f",
    owner=Owner("argoproj.io/v1alpha1", "Workflow", "rlvr-gsm8k-x7k2p", "11111111-2222"),
)

PYTORCHJOBS = {
    "one-node": (TRAIN, SMALL),
    "two-nodes-of-gpus": (ON_TWO_NODES, LARGE),
    "evaluation": (EVALUATE, SMALL),
    "in-kubeflow": (IN_KUBEFLOW, SMALL),
}
TRAINJOBS = {f"trainjob-{field}": field for field in FIELDS}


def trainjob(field: OverridesField, **settings: Any) -> dict[str, Any]:
    if field == "podSpecOverrides":  # which has no field for them
        settings |= {"image_pull_secrets": (), "labels": {}, "annotations": {}}
    return render_trainjob(ON_TWO_NODES, LARGE.model_copy(update=settings), field)


def rendered(name: str) -> dict[str, Any]:
    if name in TRAINJOBS:
        return trainjob(TRAINJOBS[name])
    return render_pytorchjob(*PYTORCHJOBS[name])


@pytest.mark.parametrize("name", [*PYTORCHJOBS, *TRAINJOBS])
def test_a_job_is_rendered_as_its_golden_file_has_it(name: str) -> None:
    file, job = GOLDEN / f"{name}.yaml", rendered(name)
    if os.environ.get("RLVR_REWRITE_GOLDEN"):
        file.write_text(yaml.safe_dump(job, sort_keys=False, width=96), encoding="utf-8")

    assert job == yaml.safe_load(file.read_text("utf-8"))


def replicas(job: dict[str, Any]) -> dict[str, Any]:
    specs: dict[str, Any] = job["spec"]["pytorchReplicaSpecs"]
    return specs


def pods(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for replica in replicas(job).values():
        yield replica["template"]["spec"]


def container(job: dict[str, Any]) -> dict[str, Any]:
    [only] = next(pods(job))["containers"]
    return only  # type: ignore[no-any-return]


def test_one_node_has_no_worker() -> None:
    assert list(replicas(render_pytorchjob(TRAIN, SMALL))) == ["Master"]


def test_several_nodes_are_one_master_and_workers() -> None:
    job = render_pytorchjob(replace(TRAIN, resources=Resources(num_nodes=4)), SMALL)

    assert {name: spec["replicas"] for name, spec in replicas(job).items()} == {
        "Master": 1,
        "Worker": 3,
    }


def test_the_operator_finds_its_container_and_the_number_of_processes() -> None:
    job = render_pytorchjob(ON_TWO_NODES, LARGE)

    assert [c["name"] for pod in pods(job) for c in pod["containers"]] == ["pytorch", "pytorch"]
    assert job["spec"]["nprocPerNode"] == "8"
    assert render_pytorchjob(TRAIN, SMALL)["spec"]["nprocPerNode"] == "1"


def test_a_failed_job_frees_its_gpus_and_its_exit_code_decides_on_another_attempt() -> None:
    job = render_pytorchjob(ON_TWO_NODES, LARGE)

    assert job["spec"]["runPolicy"]["cleanPodPolicy"] == "Running"
    assert {spec["restartPolicy"] for spec in replicas(job).values()} == {"ExitCode"}


def test_the_operators_deadline_covers_the_queue_and_the_run() -> None:
    platform = SMALL.model_copy(update={"queue_timeout_s": 100, "run_timeout_s": 1000})

    job = render_pytorchjob(TRAIN, platform)

    assert job["spec"]["runPolicy"]["activeDeadlineSeconds"] == 1100


@pytest.mark.parametrize("name", PYTORCHJOBS)
def test_every_pod_passes_pod_security_restricted(name: str) -> None:
    assert [violations(pod) for pod in pods(rendered(name))] == [
        [] for _ in replicas(rendered(name))
    ]


def test_gpus_and_efa_devices_are_asked_for_and_memory_is_bounded() -> None:
    resources = container(render_pytorchjob(ON_TWO_NODES, LARGE))["resources"]

    assert resources["limits"] == {
        "memory": "1946112Mi",
        "nvidia.com/gpu": "8",
        "vpc.amazonaws.com/efa": "32",
    }
    assert resources["requests"] == resources["limits"] | {
        "cpu": "180",
        "ephemeral-storage": "20000Gi",
    }


def test_a_cpu_asks_for_no_device() -> None:
    assert container(render_pytorchjob(TRAIN, SMALL))["resources"] == {}


def test_shared_memory_is_a_memory_volume_of_its_own_size() -> None:
    pod = next(pods(render_pytorchjob(ON_TWO_NODES, LARGE)))

    assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Gi"}} in pod["volumes"]


def test_every_volume_is_mounted_and_every_mount_has_its_volume() -> None:
    for pod in pods(render_pytorchjob(ON_TWO_NODES, LARGE)):
        mounted = [mount["name"] for mount in pod["containers"][0]["volumeMounts"]]
        assert sorted(mounted) == sorted(volume["name"] for volume in pod["volumes"])


def test_secrets_come_by_name_only() -> None:
    assert container(render_pytorchjob(ON_TWO_NODES, LARGE))["envFrom"] == [
        {"secretRef": {"name": "rlvr-s3"}}
    ]


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "db_password", "MY_API_KEY"])
def test_a_credential_in_the_environment_is_refused(name: str) -> None:
    platform = SMALL.model_copy(update={"env": {name: "hunter2"}})

    with pytest.raises(ConfigError, match=rf"env\.{name} looks like a credential.*`secrets`") as e:
        render_pytorchjob(TRAIN, platform)

    assert "hunter2" not in str(e.value)


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "AWS_WEB_IDENTITY_TOKEN_FILE"])
def test_a_name_similar_to_a_credential_is_accepted(name: str) -> None:
    render_pytorchjob(TRAIN, SMALL.model_copy(update={"env": {name: "x"}}))


def test_a_job_says_which_run_step_and_attempt_it_is() -> None:
    job = render_pytorchjob(ON_TWO_NODES, LARGE)
    expected = {
        "app.kubernetes.io/part-of": "rlvr",
        "rlvr.dev/run": "gsm8k",
        "rlvr.dev/step": "train",
        "rlvr.dev/attempt": "2",
        "rlvr.dev/job": ON_TWO_NODES.name_of_all_attempts,
        "team": "research",
    }

    for labels in (
        job["metadata"]["labels"],
        *(spec["template"]["metadata"]["labels"] for spec in replicas(job).values()),
    ):
        assert expected.items() <= labels.items()


def test_kueue_reads_the_queue_off_the_job_and_not_off_its_pods() -> None:
    job = render_pytorchjob(ON_TWO_NODES, LARGE)

    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    for replica in replicas(job).values():
        assert "kueue.x-k8s.io/queue-name" not in replica["template"]["metadata"]["labels"]


def test_within_kubeflow_a_job_belongs_to_its_run_and_goes_with_its_workflow() -> None:
    metadata = render_pytorchjob(IN_KUBEFLOW, SMALL)["metadata"]

    assert metadata["labels"]["pipeline/runid"] == IN_KUBEFLOW.run_id
    [owner] = metadata["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Workflow", "rlvr-gsm8k-x7k2p")
    assert owner["blockOwnerDeletion"] is False


def test_another_run_step_or_recipe_is_another_job_and_a_retry_is_the_same() -> None:
    others = [
        replace(TRAIN, run_id="another"),
        replace(TRAIN, step="evaluate-base"),
        replace(TRAIN, recipe_hash="ba9876543210"),
        replace(TRAIN, run_dir="s3://bucket/runs/elsewhere"),
    ]

    assert len({TRAIN.name, *(other.name for other in others)}) == 5
    assert replace(TRAIN, env={"NCCL_DEBUG": "INFO"}).name == TRAIN.name
    assert replace(TRAIN, attempt=2).name_of_all_attempts == TRAIN.name_of_all_attempts


def test_the_longest_name_leaves_room_for_a_replicas_service() -> None:
    spec = replace(
        TRAIN,
        run_name="r" * 24,
        step="evaluate-trained",
        attempt=99,
        resources=Resources(num_nodes=100),
    )

    assert len(render_pytorchjob(spec, SMALL)["metadata"]["name"] + "-worker-98") <= 63


@pytest.mark.parametrize("run_name", ["r" * 48, "Capital"])
def test_a_name_that_kubernetes_would_refuse_is_an_error_at_once(run_name: str) -> None:
    with pytest.raises(ConfigError, match=r"is not valid in Kubernetes.*choose another `name`"):
        render_pytorchjob(replace(TRAIN, run_name=run_name), SMALL)


def test_rendering_takes_milliseconds() -> None:
    start = time.perf_counter()
    for _ in range(10):
        render_pytorchjob(ON_TWO_NODES, LARGE)

    assert (time.perf_counter() - start) / 10 < 0.05


def patched_pod(job: dict[str, Any], field: OverridesField) -> dict[str, Any]:
    [override] = job["spec"][field]
    if field == "podSpecOverrides":
        return override  # type: ignore[no-any-return]
    if field == "podTemplateOverrides":
        return override["spec"]  # type: ignore[no-any-return]
    [job_patch] = override["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return job_patch["template"]["spec"]["template"]["spec"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("field", FIELDS)
def test_a_trainjob_lays_the_platform_over_its_runtime(field: OverridesField) -> None:
    job = trainjob(field)
    pod = patched_pod(job, field)

    assert job["spec"]["runtimeRef"]["name"] == "rlvr"
    assert job["spec"]["trainer"]["numNodes"] == 2
    assert job["spec"]["trainer"]["numProcPerNode"] == 8
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "8"
    assert pod["serviceAccountName"] == "rlvr-trainer"
    assert pod["nodeSelector"] == {"rlvr.dev/pool": "p5"}
    assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]


def laid_over(base: Any, patch: Any) -> Any:
    """Merge as Trainer does: a strategic merge, which joins lists of named items by name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: laid_over(base.get(key), value) for key, value in patch.items()}
    if isinstance(base, list) and all(isinstance(item, dict) for item in base):
        key = "mountPath" if "mountPath" in base[0] else "name"
        merged = {item[key]: item for item in base}
        for item in patch:
            merged[item[key]] = laid_over(merged.get(item[key]), item)
        return [*merged.values()]
    return patch


def pod_of_a_trainjob(job: dict[str, Any], field: OverridesField) -> dict[str, Any]:
    [runtime] = yaml.safe_load_all((TRAINJOB_COMPONENT / "runtime.yaml").read_text("utf-8"))
    [node] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod: dict[str, Any] = laid_over(
        node["template"]["spec"]["template"]["spec"], patched_pod(job, field)
    )
    return pod


@pytest.mark.parametrize("field", FIELDS)
def test_the_pod_that_trainer_makes_passes_pod_security_restricted(field: OverridesField) -> None:
    pod = pod_of_a_trainjob(trainjob(field), field)

    assert violations(pod) == []
    [node] = pod["containers"]
    assert node["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize("field", FIELDS)
def test_the_pod_that_trainer_makes_mounts_what_a_pytorchjobs_pod_does(
    field: OverridesField,
) -> None:
    pod = pod_of_a_trainjob(trainjob(field), field)
    [expected, _] = pods(render_pytorchjob(ON_TWO_NODES, LARGE))

    assert by_path(pod) == by_path(expected)
    assert {volume["name"] for volume in pod["volumes"]} >= {"tmp", "work", "shm", "claim-0"}


def by_path(pod: dict[str, Any]) -> dict[str, Any]:
    [container] = pod["containers"]
    return {mount["mountPath"]: mount for mount in container["volumeMounts"]}


@pytest.mark.parametrize("field", FIELDS)
def test_a_trainjobs_pods_get_as_long_to_commit_as_a_pytorchjobs(field: OverridesField) -> None:
    pod = pod_of_a_trainjob(trainjob(field), field)

    assert pod["terminationGracePeriodSeconds"] == LARGE.stop_grace_s


def test_a_trainjob_says_another_grace_period_only_where_it_differs() -> None:
    """Trainer 2.2 would refuse every job with the field, which is new in 2.3."""
    field: OverridesField = "runtimePatches"

    assert "terminationGracePeriodSeconds" not in patched_pod(trainjob(field), field)
    job = trainjob(field, stop_grace_s=600)
    assert patched_pod(job, field)["terminationGracePeriodSeconds"] == 600


def test_a_trainjob_has_a_deadline_for_the_loss_of_its_launcher() -> None:
    job = trainjob("runtimePatches", queue_timeout_s=100, run_timeout_s=1000)

    assert job["spec"]["activeDeadlineSeconds"] == 1100


@pytest.mark.parametrize("field", ["podTemplateOverrides", "runtimePatches"])
def test_a_trainjobs_pods_say_whose_they_are(field: OverridesField) -> None:
    [override] = trainjob(field)["spec"][field]
    if field == "runtimePatches":
        [job_patch] = override["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        override = job_patch["template"]["spec"]["template"]

    assert override["metadata"]["labels"]["rlvr.dev/run"] == "gsm8k"
    assert override["metadata"]["annotations"]["rlvr.dev/run-dir"] == TRAIN.run_dir


def test_no_variable_of_a_trainjob_is_given_twice() -> None:
    """The API server refuses duplicate variables."""
    job = trainjob("runtimePatches", env={"AWS_REGION": "eu-central-1"})

    regions = [
        variable for variable in job["spec"]["trainer"]["env"] if variable["name"] == "AWS_REGION"
    ]
    assert regions == [{"name": "AWS_REGION", "value": "eu-central-1"}]


@pytest.mark.parametrize("field", FIELDS)
def test_a_trainjobs_secrets_come_by_name_and_key(field: OverridesField) -> None:
    env = {variable["name"]: variable for variable in trainjob(field)["spec"]["trainer"]["env"]}

    assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"] == {
        "name": "rlvr-s3",
        "key": "AWS_SECRET_ACCESS_KEY",
        "optional": True,
    }


@pytest.mark.parametrize(
    ("field", "setting"),
    [
        ("runtimePatches", {"priority_class": "high"}),
        ("runtimePatches", {"image_pull_policy": "Always"}),
        ("runtimePatches", {"secrets": ("one", "two")}),
        ("podSpecOverrides", {"image_pull_secrets": ("registry",)}),
        ("podSpecOverrides", {"labels": {"sidecar.istio.io/inject": "false"}}),
        ("podSpecOverrides", {"annotations": {"a": "b"}}),
        ("podSpecOverrides", {"stop_grace_s": 600}),
        ("podTemplateOverrides", {"stop_grace_s": 600}),
    ],
)
def test_settings_that_a_trainjob_cannot_have_are_refused_with_their_place(
    field: OverridesField, setting: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        render_trainjob(TRAIN, SMALL.model_copy(update=setting), field)


def openapi(*fields: str) -> dict[str, Any]:
    spec = {"properties": {name: {} for name in ("runtimeRef", "trainer", *fields)}}
    name = "org.kubeflow.trainer.v1alpha1.TrainJob"
    return {"components": {"schemas": {name: {"properties": {"spec": spec}}}}}


@pytest.mark.parametrize("field", FIELDS)
def test_the_field_is_the_one_that_the_api_server_knows(field: OverridesField) -> None:
    assert overrides_field(openapi(field)) == field


def test_a_trainer_that_knows_none_of_the_fields_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"install Kubeflow Trainer 2\.0 or later"):
        overrides_field(openapi())
