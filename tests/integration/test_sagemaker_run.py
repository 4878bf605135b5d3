"""`rlvr run --on sagemaker` on our fake of SageMaker, which runs the trainer's own processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tests.fakes.stand_in_trainer as stand_in
import yaml
from tests.fakes.fake_sagemaker import FakeSageMaker, as_it_is
from tests.unit.sagemaker.launches import UNTIL_TERMINATED, program

from rlvr_trainer.storage import open_storage

RLVR = [sys.executable, "-P", "-c", "from rlvr_pipelines.cli import main; main()"]
SETTINGS = {
    "role_arn": "arn:aws:iam::123456789012:role/rlvr-trainer",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/rlvr/rlvr-trainer:1",
    "instance_type": "ml.m5.xlarge",
    "keep_alive_s": 600,
}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "extends": "arithmetic",
    "data": {"num_train_rows": 40, "num_test_rows": 2, "num_exemplars": 2},
    "prompt": {"num_shots": 2},
    "evaluation": {"shots": [2]},
    "sampling": {"num_generations": 4, "max_completion_tokens": 8},
    "training": {
        "max_steps": 2,
        "per_device_batch_size": 8,
        "learning_rate": 1e-3,
        "gradient_checkpointing": False,
        "num_validation_rows": 0,
    },
}
REWARD = "def vowels(completion, row):\n    return sum(c in 'aeiou' for c in completion) / 40\n"


def rlvr(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RLVR, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """Return a folder with a recipe of a random two-layer model, and settings of SageMaker."""
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    (tmp_path / "reward.py").write_text(REWARD)
    recipe = {
        **RECIPE,
        "model": {"name": str(tiny_model_dir), "dtype": "fp32"},
        "rewards": {"vowels": {"function": f"{tmp_path}/reward.py:vowels"}},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def evaluated_by_a_stand_in(command: list[str]) -> list[str]:
    """Return the trainer's own command for the training; loading models twice more takes long."""
    own = as_it_is(command)
    return [sys.executable, str(stand_in.__file__), *command] if "--label" in command else own


def test_from_data_to_report_and_back_to_nothing(
    folder: Path, sagemaker: FakeSageMaker, s3: str
) -> None:
    sagemaker.command = evaluated_by_a_stand_in
    run = ("run", "tiny.yaml", "--on", "sagemaker", "--storage", s3)
    options = ("--sagemaker", "settings.yaml", "--output", "json")
    done = rlvr(folder, *run, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)
    assert Path(folder, results["report"]).is_file()
    assert Path(folder, results["adapter"], "adapter_model.safetensors").is_file()
    assert results["evaluation"]["num_samples"] == 2

    # three jobs, each the request that its settings say, and no instance is kept
    assert [job.status for job in sagemaker.jobs.values()] == ["Completed"] * 3
    steps = [job.request["HyperParameters"]["step"] for job in sagemaker.jobs.values()]
    assert steps == ["evaluate-base", "train", "evaluate-trained"]
    assert {job.warm_pool for job in sagemaker.jobs.values()} == {"Reused", "Terminated"}
    train = next(name for name in sagemaker.jobs if "-train-" in name)
    plan = json.loads(rlvr(folder, "plan", *run[1:], *options).stdout)
    sent = sagemaker.jobs[train].request
    assert plan["job"]["manifest"] == json.loads(json.dumps(sent))

    log = (folder / "runs" / "tiny" / "logs" / "pipeline.log").read_text()
    assert "[algo-1] step 2/2  reward" in log
    assert "billed" in log

    where = ("--on", "sagemaker")
    status = rlvr(folder, "status", "tiny", *where)
    assert f"SageMaker us-east-1/{train}" in status.stdout
    assert "evaluate-trained  succeeded" in status.stdout
    assert "[algo-1] step 2/2" in rlvr(folder, "logs", "tiny", "--step", "train", *where).stdout
    assert "nothing of tiny is running" in rlvr(folder, "stop", "tiny", *where).stderr

    listed = rlvr(folder, "clean", "tiny", *where, "--dry-run").stdout
    assert f"{train}  succeeded  would be deleted" in listed
    assert f"{train}/algo-1-" in listed
    assert "--with-run-dir deletes it" in listed
    assert len(sagemaker.jobs) == 3
    cleaned = rlvr(folder, "clean", "tiny", *where, "--with-run-dir")
    assert cleaned.returncode == 0, cleaned.stderr
    assert not sagemaker.jobs
    assert open_storage(s3).list("") == []
    assert "no run or job 'tiny'" in rlvr(folder, "status", "tiny", *where).stderr


def test_ctrl_c_stops_the_job_and_leaves_nothing_billable(
    folder: Path, sagemaker: FakeSageMaker, s3: str
) -> None:
    sagemaker.command = program(UNTIL_TERMINATED)
    command = [
        *(*RLVR, "run", "tiny.yaml", "--on", "sagemaker"),
        *("--storage", s3, "--sagemaker", "settings.yaml"),
    ]
    running = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    while not sagemaker.jobs:
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    (name,) = sagemaker.jobs
    sagemaker.wait(name, "Training", 60)
    started = time.monotonic()
    os.kill(running.pid, signal.SIGINT)
    job = sagemaker.wait(name, "Stopped", 30)
    assert time.monotonic() - started < 15
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert job.warm_pool == "Terminated"
