"""Run the pipeline through kfp.local, with a fake of the trainer's steps."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from rlvr_pipelines.pipeline.job_parameters import recipe_parameter
from rlvr_trainer.recipe.reader import load_recipe

ROOT = Path(__file__).parents[2]
FAKE_TRAINER = ROOT / "tests" / "fake_trainer"
PACKAGES = [ROOT / "trainer", ROOT / "components", ROOT / "pipelines"]
RUN = """
import json, logging, sys
from kfp import local
from rlvr_pipelines.pipeline.definition import rlvr_pipeline

logging.getLogger().setLevel(logging.INFO)
local.init(
    local.SubprocessRunner(use_venv=False),
    pipeline_root="root",
    enable_caching=True,
    cache_root="cache",
)
rlvr_pipeline(**json.loads(sys.argv[1]))
"""


def run(folder: Path, run_id: str, **arguments: Any) -> str:
    """Run the pipeline and return its log."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(arguments)],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [FAKE_TRAINER, *PACKAGES])),
            "RLVR_RUN_ID": run_id,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-4000:]
    return log


def reused(log: str) -> set[str]:
    return set(re.findall(r"Task (\S+) cache hit", log))


def newest_verdict(folder: Path) -> str:
    evaluations = (folder / "root").glob("*/compare-and-report/evaluation")
    newest = max(evaluations, key=lambda path: path.stat().st_mtime_ns)
    verdict: str = json.loads(newest.read_text())["verdict"]
    return verdict


def test_by_name_and_in_full_and_another_learning_rate_trains_only(tmp_path: Path) -> None:
    shared = {"job_place": "local", "storage_uri": str(tmp_path / "storage")}

    log = run(
        tmp_path,
        "by-name",
        recipe={"extends": "arithmetic"},
        recipe_overrides={"training.max_steps": 2},
        publish_uri=str(tmp_path / "models"),
        **shared,
    )

    assert reused(log) == set()
    by_name = newest_verdict(tmp_path)
    assert by_name.startswith("Accuracy rose from 10.0 % to 80.0 %")
    published = tmp_path / "models" / "arithmetic" / "by-name"
    assert json.loads((published / "recipe.json").read_text())["training"]["max_steps"] == 2

    overrides = ["training.max_steps=2", "training.learning_rate=1e-4"]
    whole = load_recipe("arithmetic", overrides)
    log = run(tmp_path, "in-full", recipe=recipe_parameter(whole), **shared)

    assert reused(log) == {"prepare-data", "evaluate-base"}
    assert len(list((tmp_path / "root").glob("*/compare-and-report/evaluation"))) == 2
    assert newest_verdict(tmp_path) == by_name
    assert not (tmp_path / "models" / "arithmetic" / "in-full").exists()
    said = {path.read_text() for path in (tmp_path / "root").glob("*/publish/published")}
    assert said == {f"Published to `{published}`.\n", "Not published: publish_uri is empty.\n"}
