"""Run a recipe from data to report, model steps as jobs: the real model, two nodes, ZeRO-3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlvr_components.jobs.cluster import CUSTOM_COLUMNS

from .conftest import S3, Kubectl

pytestmark = pytest.mark.timeout(900)

SMALL = [
    "data={num_train_rows: 60, num_test_rows: 8, num_exemplars: 2}",
    "prompt.num_shots=2",
    "sampling={num_generations: 8, max_completion_tokens: 16}",
    "training={max_steps: 2, save_steps: 1, zero_stage: 3, per_device_batch_size: 8, "
    "learning_rate: 1e-3, gradient_checkpointing: false, num_validation_rows: 0}",
]
NUM_STEPS, NUM_TEST_ROWS = 2, 8


@pytest.fixture
def platform_file(tmp_path: Path, trainer_image: str) -> Path:
    settings = {
        "image": trainer_image,
        "num_nodes": 2,
        "cpu_per_node": 0.5,
        "memory_gib_per_node": 5,
        "shm_gib": 0.5,
        "env": {"OMP_NUM_THREADS": "1"},
        "secrets": ["rlvr-s3"],
    }
    path = tmp_path / "platform.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_two_nodes_train_and_everything_is_collected(
    kubectl: Kubectl, base_manifests: None, s3: S3, platform_file: Path, tmp_path: Path
) -> None:
    kubectl("create", "serviceaccount", "rlvr-trainer")
    run_dir, storage = tmp_path / "run", f"s3://{s3.bucket}/{kubectl.namespace}"
    command = [
        *("rlvr", "run", "arithmetic", "--run-dir", str(run_dir)),
        *("--on", "pytorchjob", "--storage", storage, "--platform", str(platform_file)),
        *("--namespace", kubectl.namespace),
        *(word for override in SMALL for word in ("--set", override)),
    ]
    done = subprocess.run(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]],
        env={**os.environ, **s3.environment, "KUBECONFIG": str(kubectl.kubeconfig)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((run_dir / "evaluation.json").read_text())["num_samples"] == NUM_TEST_ROWS
    assert (run_dir / "adapter" / "adapter_model.safetensors").stat().st_size > 0
    assert (run_dir / "report.html").stat().st_size > 0
    events = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2]

    jobs = {
        job["metadata"]["labels"]["rlvr.dev/step"]: job
        for job in kubectl.get("pytorchjobs")["items"]
    }
    assert sorted(jobs) == ["evaluate-base", "evaluate-trained", "train"]
    for job in jobs.values():
        assert job["status"]["conditions"][-1]["type"] == "Succeeded"
        assert [*job["spec"]["pytorchReplicaSpecs"]] == ["Master", "Worker"]
    assert all(pod["status"]["phase"] != "Running" for pod in kubectl.get("pods")["items"])

    listed = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=f"{kubectl.namespace}/")
    keys = [item["Key"] for item in listed["Contents"]]
    [marker] = [
        key for key in keys if f"/checkpoints/step-{NUM_STEPS}." in key and "COMMITTED" in key
    ]
    committed = json.loads(s3.client().get_object(Bucket=s3.bucket, Key=marker)["Body"].read())
    assert committed["world_size"] == 2
    assert any(key.endswith("/adapter/adapter_model.safetensors") for key in keys)

    shown = subprocess.run(
        [*CUSTOM_COLUMNS.replace("'", "").split(), "--namespace", kubectl.namespace],
        env={**os.environ, "KUBECONFIG": str(kubectl.kubeconfig)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"{NUM_STEPS}/{NUM_STEPS}" in shown
