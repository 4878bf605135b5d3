"""The whole pipeline through kfp.local with job_place=sagemaker, on our fake of SageMaker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import tests.fakes.stand_in_trainer as stand_in
from tests.fakes.fake_sagemaker import FakeSageMaker
from tests.integration.test_kfp_local import RUN

SETTINGS = {
    "role_arn": "arn:aws:iam::123456789012:role/rlvr-trainer",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/rlvr/rlvr-trainer:1",
    "instance_type": "ml.m5.xlarge",
}


def test_the_model_steps_are_jobs_on_sagemaker(
    tmp_path: Path, sagemaker: FakeSageMaker, s3: str
) -> None:
    sagemaker.command = lambda command: [sys.executable, str(stand_in.__file__), *command]
    arguments = {
        "recipe": {"extends": "arithmetic"},
        "recipe_overrides": {
            "data": {"num_train_rows": 40, "num_test_rows": 8, "num_exemplars": 2},
            "prompt.num_shots": 2,
        },
        "evaluation_shots": [2],
        "job_place": "sagemaker",
        "job_sagemaker": json.dumps(SETTINGS),
        "storage_uri": s3,
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(arguments)],
        cwd=tmp_path,
        env={**os.environ, "RLVR_RUN_ID": "run-1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-12000:]

    steps = {job.request["HyperParameters"]["step"]: job for job in sagemaker.jobs.values()}
    assert set(steps) == {"evaluate-base", "train", "evaluate-trained"}
    assert {job.status for job in steps.values()} == {"Completed"}
    for job in steps.values():
        assert {"Key": "rlvr:run-id", "Value": "run-1"} in job.request["Tags"]
    assert "[algo-1] trained" in log
    (evaluation,) = (tmp_path / "root").glob("*/compare-and-report/evaluation")
    shots = json.loads(evaluation.read_text())["shots"]["2"]
    assert (shots["before"]["accuracy"], shots["after"]["accuracy"]) == (0.0, 1.0)
    (adapter,) = (tmp_path / "root").glob("*/train/adapter")
    assert (adapter / "adapter_config.json").is_file()
