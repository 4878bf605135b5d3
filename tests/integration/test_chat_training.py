"""Train and evaluate on chats: as TRL does on messages, and a recipe from rows to an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOTrainer

from rlvr_trainer import api
from rlvr_trainer.evaluation.outcome import read_samples
from rlvr_trainer.models import load_tokenizer
from rlvr_trainer.models.chat_prompts import chat_template, prompt_ids
from rlvr_trainer.recipe.reader import load_recipe, parse_recipe
from rlvr_trainer.run_dir.events import read_events
from rlvr_trainer.shared_prefix import SharedPrefixGRPOTrainer
from rlvr_trainer.shared_prefix.packed_layout import common_prefix_length
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout

from .shared_prefix_training import (
    QUESTIONS,
    Case,
    Outcome,
    assert_same_training,
    character_model,
    completions_for,
    train,
    vowels,
)

SYSTEM = "Solve it."
TEMPLATE = """\
{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
EXEMPLARS = [Row(f"train-{n}", f"What is {n} + {n}?", str(2 * n), "Add.") for n in (1, 2)]


@pytest.fixture(autouse=True)
def _silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func warns, warnings are errors


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_it_trains_on_chats_as_trl_does_on_messages(weights: str, tmp_path: Path) -> None:
    """TRL gets messages and applies the template itself; ours, prompts as a recipe lays them out.

    System and examples are shared as a header.
    """
    model_dir = character_model(tmp_path / "model")
    (model_dir / "chat_template.jinja").write_text(TEMPLATE)
    case: Case = {
        "weights": weights, "checkpointing": None, "beta": 0.1, "num_iterations": 2,
        "loss": "grpo", "entropy_coef": 0.0, "header": "",
    }  # fmt: skip
    recipe = parse_recipe(
        {
            "name": "chat",
            "model": {"name": str(model_dir)},
            "prompt": {"style": "chat", "system": SYSTEM, "num_shots": 2},
        }
    )
    tokenizer = load_tokenizer(recipe.model)
    layout = PromptLayout(recipe.prompt, EXEMPLARS, chat_template(recipe, tokenizer))
    rows = [Row(f"train-{n}", question, "") for n, question in enumerate(QUESTIONS)]
    questions = {layout.prompt(row): row.question for row in rows}
    chats = [
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "What is 1 + 1?"},
            {"role": "assistant", "content": "Add.\n#### The final answer is 2"},
            {"role": "user", "content": "What is 2 + 2?"},
            {"role": "assistant", "content": "Add.\n#### The final answer is 4"},
            {"role": "user", "content": question},
        ]
        for question in QUESTIONS
    ]

    def trls(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        ids, _, _ = trainer._tokenize_prompts(prompts)
        asked = [prompt[-1]["content"] for prompt in prompts]
        return {"prompt_ids": ids, "completion_ids": completions_for(asked), "logprobs": None}

    def ours(prompts: list[str], trainer: Any) -> dict[str, Any]:
        ids = prompt_ids(trainer.processing_class, prompts, "chat")
        header = layout.header()
        assert common_prefix_length(ids) >= len(prompt_ids(tokenizer, [header], "chat")[0])
        asked = [questions[prompt] for prompt in prompts]
        return {"prompt_ids": ids, "completion_ids": completions_for(asked), "logprobs": None}

    def vowels_of_messages(completions: list[Any], **_: Any) -> list[float]:
        return vowels([completion[0]["content"] for completion in completions])

    expected = train(
        GRPOTrainer, case, model_dir, tmp_path, num_steps=3,
        prompts=chats, rollout=trls, reward=vowels_of_messages,
    )  # fmt: skip
    actual = train(
        SharedPrefixGRPOTrainer, case, model_dir, tmp_path, num_steps=3,
        prompts=list(questions), rollout=ours,
    )  # fmt: skip
    assert_same_training(Outcome.of(actual), Outcome.of(expected))


REWARD = """
def vowels(completion, row):
    assert completion.startswith("Well, "), completion
    assert "<|im_end|>" not in completion, completion
    return sum(c in "aeiou" for c in completion) / 40
"""


def test_the_demo_in_chat_form_trains_and_is_evaluated_at_several_shots(
    tiny_model_dir: Path, tmp_path: Path, events_file: Path
) -> None:
    """On a random model; the reward fails if it does not see what the recipe says."""
    reward = tmp_path / "reward.py"
    reward.write_text(REWARD)
    recipe = load_recipe(
        "arithmetic-chat",
        [
            f"model.name={tiny_model_dir}",
            f"rewards={{vowels: {{function: '{reward}:vowels'}}}}",
            "evaluation={correct_by: vowels, shots: [0, 2]}",
            "data={num_train_rows: 40, num_test_rows: 4, num_exemplars: 2}",
            "prompt.num_shots=2",
            "prompt.assistant_prefix='Well, '",
            "sampling={num_generations: 4, max_completion_tokens: 8}",
            "training={max_steps: 2, per_device_batch_size: 8, learning_rate: 1e-3, "
            "warmup_ratio: 0, gradient_checkpointing: false, num_validation_rows: 2}",
        ],
    )
    run_dir = tmp_path / "run"
    manifest = api.prepare(recipe, run_dir / "data")
    assert manifest["header_tokens"]["2"] > manifest["header_tokens"]["0"] > 10  # the system's

    api.evaluate(recipe, run_dir / "data", tmp_path / "before", label="before")
    assert api.train(recipe, run_dir, run_dir / "data")

    samples = read_samples(tmp_path / "before/samples.jsonl")
    assert [sample["shots"] for sample in samples] == [0] * 4 + [2] * 4
    assert all(sample["completion"].startswith("Well, ") for sample in samples)
    steps: list[Mapping[str, Any]] = [e for e in read_events(events_file) if e["event"] == "step"]
    assert len(steps) == 2
    assert (run_dir / "adapter/chat_template.jinja").is_file()


def test_a_template_of_ones_own_is_used_and_published(tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{% for m in messages %}({{ m.content }}){% endfor %}")
    options = [f"model.name={tiny_model_dir}", f"prompt.chat_template={tmp_path}/own.jinja"]
    recipe = load_recipe("arithmetic-chat", [*options, "prompt.system=''", "prompt.num_shots=0"])
    tokenizer = load_tokenizer(recipe.model, recipe.prompt.chat_template)
    layout = PromptLayout(recipe.prompt, (), chat_template(recipe, tokenizer))
    assert layout.prompt(Row("train-1", "1 + 1?", "2")) == "(1 + 1?)"
    tokenizer.save_pretrained(tmp_path / "published")
    published = tmp_path / "published/chat_template.jinja"
    assert published.read_text() == (tmp_path / "own.jinja").read_text()
