"""Test `rlvr evaluate` with fakes of the two steps that it calls."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rlvr_pipelines.cli import main
from rlvr_trainer import api
from rlvr_trainer.evaluation.outcome import write_samples

TINY = str(Path(__file__).parents[2] / "tiny.yaml")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def prepare(recipe: Any, data_dir: Path) -> dict[str, Any]:
        calls.append(("prepare", data_dir))
        return {}

    def evaluate(
        recipe: Any, data_dir: Path, output_dir: Path, *, label: str, adapter_dir: Path | None
    ) -> dict[str, float]:
        calls.append(("evaluate", data_dir, output_dir, label, adapter_dir))
        sample = {
            "model": label, "shots": 2, "id": "test-0", "question": "?", "answer": "1",
            "completion": "1", "extracted": None, "format": False, "correct": False,
            "flexible": True, "num_tokens": 1, "sample": 0, "greedy": True,
        }  # fmt: skip
        write_samples(output_dir / "samples.jsonl", [sample])
        return {}

    monkeypatch.setattr(api, "prepare", prepare)
    monkeypatch.setattr(api, "evaluate", evaluate)
    monkeypatch.setenv("RLVR_EVENTS", "")
    return calls


def test_the_base_model_is_evaluated_without_an_adapter(
    called: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    result = CliRunner().invoke(main, ["evaluate", TINY, "--run-dir", str(tmp_path)])

    assert result.exit_code == 0, result.stderr
    assert called == [
        ("prepare", tmp_path / "data"),
        ("evaluate", tmp_path / "data", tmp_path / "before", "before", None),
    ]
    assert "2 shots: accuracy 0.0 %" in result.stdout
    assert "flexible 100.0 %, 1 row" in result.stdout


def test_an_adapter_is_evaluated_as_after(called: list[tuple[Any, ...]], tmp_path: Path) -> None:
    adapter = tmp_path / "trained"
    adapter.mkdir()

    result = CliRunner().invoke(
        main,
        ["evaluate", TINY, "--run-dir", str(tmp_path), "--adapter", str(adapter),
         "--output", "json"],
    )  # fmt: skip

    assert result.exit_code == 0, result.stderr
    assert called[1] == ("evaluate", tmp_path / "data", tmp_path / "after", "after", adapter)
    facts = json.loads(result.stdout)
    assert facts["shots"]["2"]["flexible"] == 1.0
    assert Path(facts["samples"]).is_file()


def test_an_adapter_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["evaluate", TINY, "--adapter", str(tmp_path / "x")])

    assert result.exit_code == 2
