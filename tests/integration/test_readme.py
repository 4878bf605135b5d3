"""Run the Python code of the README."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tests.integration.shared_prefix_training import character_model, vowels
from tests.integration.test_training import recipe_for
from trl import GRPOConfig, GRPOTrainer

from rlvr_trainer.shared_prefix import SharedPrefixGRPOTrainer

README = Path(__file__).parents[2] / "README.md"
STEPS, TRAINER = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def test_the_readmes_steps_evaluate_train_and_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = recipe_for(character_model(tmp_path / "model"), tmp_path, "training.warmup_ratio=0")
    (tmp_path / "mine.yaml").write_text(mine.model_dump_json())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(STEPS, names)
    evaluation = json.loads(Path("runs/mine/evaluation.json").read_text("utf-8"))
    assert names["evaluation"] == evaluation
    assert names["recipe"].seed == 7
    assert capsys.readouterr().out.endswith(f"{evaluation['verdict']}\n")
    assert Path("runs/mine/adapter/adapter_model.safetensors").is_file()
    assert Path("runs/mine/report.html").is_file()


def test_the_readmes_trainer_takes_the_place_of_trls(tmp_path: Path) -> None:
    names = {
        "model": str(character_model(tmp_path / "model")),
        "rewards": vowels,
        "dataset": Dataset.from_dict({"prompt": ["2 + 2 =", "3 + 3 ="] * 4}),
        "args": GRPOConfig(
            output_dir=str(tmp_path / "output"),
            max_steps=1,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=8,
            report_to=[],
            use_cpu=True,
            bf16=False,
        ),
    }
    exec(TRAINER, names)
    trainer = names["trainer"]
    assert isinstance(trainer, SharedPrefixGRPOTrainer)
    assert isinstance(trainer, GRPOTrainer)
    assert trainer.state.global_step == 1
