"""Follow a recipe's parts from the check to the evaluation, on a random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr_components.preflight.form import Form
from rlvr_components.steps.check_step import check
from rlvr_trainer import api
from rlvr_trainer.data import load_rows
from rlvr_trainer.evaluation.outcome import read_samples
from rlvr_trainer.recipe.parts import recipe_part
from rlvr_trainer.recipe.reader import load_recipe

LOOSE = "[gold, empty, no-answer, do-not-know, prompt, long-text, open-tags, other-answer]"
MINE = "def even(completion, row):\n    return float(len(completion) % 2 == 0)\n"


@pytest.mark.parametrize(
    ("rewards", "correct_by", "answer"),
    [
        ("{brevity: {function: ./mine.py:even}}", "brevity", "in words"),
        ("{format: {}, correctness: {function: ./mine.py:even}}", "correctness", "7"),
    ],
)
def test_the_base_model_is_judged_as_the_trained_one_will_be(
    rewards: str,
    correct_by: str,
    answer: str,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    rows: list[dict[str, Any]] = [{"question": f"{i}?", "answer": answer} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(
        "extends: arithmetic\nname: mine\ntask: question-answer\n"
        "data: {train: ./rows.jsonl, test_fraction: 0.4, num_exemplars: 2}\n"
        f"prompt: {{num_shots: 2}}\nrewards: {rewards}\n"
        f"model: {{name: {tiny_model_dir}, dtype: fp32}}\n"
        "sampling: {max_completion_tokens: 8}\n"
        f"evaluation: {{correct_by: {correct_by}, accept_attacks: {LOOSE}}}\n"
    )
    recipe = load_recipe(tmp_path / "mine.yaml")
    monkeypatch.setenv("RLVR_RUN_ID", "run-1")

    checked = check(Form(recipe.model_dump(mode="json"), job_place="local"))
    data = tmp_path / "data"
    api.prepare(checked.data_recipe, data)
    for name, part in (("part", checked.base_recipe), ("whole", checked.recipe)):
        api.evaluate(part, data, tmp_path / name, label="before")

    assert len(load_rows(data, "test")) == 24
    samples = read_samples(tmp_path / "part" / "samples.jsonl")
    assert samples == read_samples(tmp_path / "whole" / "samples.jsonl")
    assert [sample["correct"] for sample in samples] == [
        len(sample["completion"]) % 2 == 0 for sample in samples
    ]


def test_answers_in_words_are_judged_without_code(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [
        {"question": f"Which city is the capital of {i}?", "answer": "Paris"} for i in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(
        "extends: arithmetic\nname: mine\ntask: question-answer\n"
        "data: {train: ./rows.jsonl, test_fraction: 0.4, num_exemplars: 2}\n"
        "prompt: {num_shots: 2, answer_place: text}\n"
        "rewards: {format: {}, correctness: {verifier: text}}\n"
        f"model: {{name: {tiny_model_dir}, dtype: fp32}}\n"
        "sampling: {max_completion_tokens: 8}\n"
    )
    recipe = load_recipe(tmp_path / "mine.yaml")
    part = recipe_part(recipe, "evaluate-base")
    api.prepare(recipe_part(recipe, "prepare"), tmp_path / "data")
    api.evaluate(part, tmp_path / "data", tmp_path / "before", label="before")
    samples = read_samples(tmp_path / "before" / "samples.jsonl")
    assert len(samples) == 16
    for sample in samples:
        assert sample["format"] == bool(sample["completion"].strip())
        assert sample["extracted"] == (sample["completion"].strip() or None)
        assert sample["flexible"] == sample["correct"]
