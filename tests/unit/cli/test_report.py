"""Test `rlvr report` on a run directory with real samples and the real report."""

import json
from pathlib import Path

from click.testing import CliRunner

from rlvr_pipelines.cli import main
from rlvr_trainer.evaluation.outcome import write_samples
from rlvr_trainer.recipe.reader import parse_recipe


def sample(model: str, row: int, correct: bool) -> dict[str, object]:
    return {
        "model": model,
        "shots": 2,
        "id": f"test-{row}",
        "question": "How many?",
        "answer": "1",
        "completion": "#### The final answer is 1",
        "extracted": "1",
        "format": True,
        "correct": correct,
        "flexible": correct,
        "num_tokens": 7,
        "sample": 0,
        "greedy": True,
    }


def test_report_is_rebuilt_from_samples_and_events(tmp_path: Path) -> None:
    recipe = parse_recipe({"name": "tiny", "model": {"name": "embedded:smollm2-135m-instruct"}})
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    (tmp_path / "data").mkdir()
    manifest = {
        "version": 1, "task": "gsm8k", "seed": 42, "source": {}, "read": {}, "counts": {},
        "quarantined": {}, "exemplar_ids": [], "header_tokens": {}, "max_prompt_tokens": 0,
        "files": {},
    }  # fmt: skip
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    sides = [("before", 2), ("after", 8)]
    samples = [sample(model, row, row < good) for model, good in sides for row in range(10)]
    write_samples(tmp_path / "samples.jsonl", samples)

    result = CliRunner().invoke(main, ["report", str(tmp_path), "--output", "json"])

    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["evaluation"]["shots"]["2"]["after"]["accuracy"] == 0.8
    assert json.loads((tmp_path / "evaluation.json").read_text()) == facts["evaluation"]
    assert "<!doctype html>" in (tmp_path / "report.html").read_text().lower()
