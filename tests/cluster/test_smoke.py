"""Test the cluster itself: an operator's job of two replicas, and a pod that reaches S3."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import RESTRICTED, S3, Kubectl

pytestmark = pytest.mark.timeout(180)


# The job counts as succeeded as soon as its master does: the master waits for the worker.
MEET = """
import os, socket, time
address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if os.environ["RANK"] == "0":
    connection, _ = socket.create_server(("", address[1])).accept()
    print("master heard", connection.recv(100).decode())
    connection.sendall(b"welcome")
else:
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = socket.create_connection(address, 5)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    connection.sendall(b"rank 1 of " + os.environ["WORLD_SIZE"].encode())
    print("worker heard", connection.recv(100).decode())
"""


def container(name: str, image: str, code: str) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", code],
        "envFrom": [{"secretRef": {"name": "rlvr-s3"}}],
        "resources": {"limits": {"cpu": "1", "memory": "256Mi"}, "requests": {"cpu": "50m"}},
        "securityContext": RESTRICTED,
    }


def phases(kubectl: Kubectl) -> dict[str, str]:
    pods = kubectl.get("pods")["items"]
    return {pod["metadata"]["name"]: pod["status"]["phase"] for pod in pods}


def conditions(kubectl: Kubectl, job: str) -> list[str]:
    status = kubectl.get("pytorchjob", job).get("status", {})
    return [one["type"] for one in status.get("conditions", []) if one["status"] == "True"]


def test_a_job_of_two_replicas_succeeds(kubectl: Kubectl, payload_image: str) -> None:
    replica = {
        "replicas": 1,
        "restartPolicy": "Never",
        "template": {"spec": {"containers": [container("pytorch", payload_image, MEET)]}},
    }
    kubectl.apply(
        {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": "smoke", "namespace": kubectl.namespace},
            "spec": {
                "runPolicy": {"cleanPodPolicy": "None"},
                "pytorchReplicaSpecs": {"Master": replica, "Worker": replica},
            },
        }
    )
    kubectl.wait("the job succeeds", lambda: "Succeeded" in conditions(kubectl, "smoke"))
    assert kubectl("logs", "smoke-master-0", "-c", "pytorch") == "master heard rank 1 of 2\n"
    assert kubectl("logs", "smoke-worker-0", "-c", "pytorch") == "worker heard welcome\n"


def test_a_pod_writes_to_s3(kubectl: Kubectl, s3: S3, payload_image: str) -> None:
    key = f"{kubectl.namespace}/greeting"
    code = (
        "import boto3; boto3.client('s3').put_object("
        f"Bucket={s3.bucket!r}, Key={key!r}, Body=b'hello', IfNoneMatch='*')"
    )
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "writer", "namespace": kubectl.namespace},
        "spec": {"restartPolicy": "Never", "containers": [container("c", payload_image, code)]},
    }
    kubectl.apply(pod)
    kubectl.wait("the pod succeeds", lambda: phases(kubectl)["writer"] == "Succeeded")
    assert s3.client().get_object(Bucket=s3.bucket, Key=key)["Body"].read() == b"hello"


def test_pod_security_refuses_a_root_pod(kubectl: Kubectl, payload_image: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": kubectl.namespace},
        "spec": {"containers": [{"name": "c", "image": payload_image}]},
    }
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        kubectl.apply(pod)


def test_the_trainer_image_holds_the_embedded_model(kubectl: Kubectl, trainer_image: str) -> None:
    code = (
        "import time; from rlvr_trainer.models import locate_model;"
        "from rlvr_trainer.recipe.schema import ModelSection;"
        "model = ModelSection(name='embedded:smollm2-135m-instruct');"
        "start = time.monotonic(); locate_model(model); print(time.monotonic() - start < 10)"
    )
    trainer = container("c", trainer_image, code)
    trainer["resources"] = {"limits": {"memory": "2Gi"}, "requests": {"cpu": "100m"}}
    trainer["securityContext"] = RESTRICTED | {"readOnlyRootFilesystem": True}
    trainer["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "trainer", "namespace": kubectl.namespace},
        "spec": {
            "restartPolicy": "Never",
            "containers": [trainer],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }
    kubectl.apply(pod)
    ended = {"Succeeded", "Failed"}
    kubectl.wait("the pod ends", lambda: phases(kubectl)["trainer"] in ended, timeout_s=120)
    assert kubectl("logs", "trainer").splitlines()[-1] == "True"
