import json
from pathlib import Path

from rlvr_trainer.evaluation.outcome import compare
from rlvr_trainer.publishing import _card
from rlvr_trainer.recipe.reader import load_recipe


def samples(model: str, num_correct: int) -> list[dict[str, object]]:
    return [
        {
            "model": model,
            "shots": 8,
            "id": f"test-{row}",
            "greedy": True,
            "num_tokens": 9,
            "correct": row < num_correct,
            "format": True,
            "flexible": True,
        }
        for row in range(40)
    ]


def test_a_model_card_has_the_verdict_and_the_results_table(tmp_path: Path) -> None:
    recipe = load_recipe("arithmetic")
    assert "It has not been evaluated." in _card(recipe, tmp_path, merge=False)

    evaluation = compare(samples("before", 4), samples("after", 32))
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    card = _card(recipe, tmp_path, merge=False)

    assert evaluation["verdict"] in card
    assert "| Shots | Rows | Before | After | McNemar p |" in card
    assert "| 8 | 40 | 10.0 % (4.0–23.1) | 80.0 % (65.2–89.5) | < 0.001 |" in card


def test_a_model_card_says_how_to_ask(tmp_path: Path) -> None:
    text = _card(load_recipe("arithmetic"), tmp_path, merge=False)
    assert "on texts, after 8 worked examples:\n\n```text\nQuestion: {question}" in text

    prefix = "prompt.assistant_prefix='Well, '"
    chat = _card(load_recipe("arithmetic-chat", [prefix]), tmp_path, merge=False)
    assert "on chats in the form of its tokenizer's template, after 8 worked examples." in chat
    assert "The system message:\n\n```text\nSolve the problem. End with" in chat
    assert "The assistant's beginning:\n\n```text\nWell, \n```\n" in chat
    assert "The user's message" not in chat
