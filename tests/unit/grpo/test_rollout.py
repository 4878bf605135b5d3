from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlvr_trainer.evaluation.completions import Completion, cut
from rlvr_trainer.grpo import rollout
from rlvr_trainer.grpo.reward_functions import BatchScorer
from rlvr_trainer.grpo.rollout import Rollout, to_trl
from rlvr_trainer.recipe.reader import load_recipe

EOS = 2


@pytest.fixture(scope="module")
def tokenizer(smollm2_dir: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(smollm2_dir)


def test_a_run_on_is_cut_before_the_next_question(tokenizer: PreTrainedTokenizerBase) -> None:
    answer = " 2 + 2 = 4.\n#### The final answer is 4"
    ids = tokenizer(text=answer + "\n\nQuestion: What")["input_ids"]
    completion = cut(ids, tokenizer, "Question:", {EOS})
    assert completion.finished
    assert completion.text.rstrip() == answer
    assert tokenizer.decode(completion.token_ids).rstrip() == answer
    assert ids[: len(completion.token_ids)] == completion.token_ids


def test_a_question_within_a_line_does_not_end_a_completion(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    ids = tokenizer(text=" The Question: is open")["input_ids"]
    assert cut(ids, tokenizer, "Question:", {EOS}).token_ids == ids
    assert not cut(ids, tokenizer, "Question:", {EOS}).finished


def test_the_models_own_end_token_is_kept(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = [*tokenizer(text=" 4")["input_ids"], EOS]
    completion = cut(ids, tokenizer, "Question:", {EOS})
    assert completion == Completion(ids, " 4", finished=True)


def test_an_end_token_that_the_policy_did_not_sample_is_masked_out_of_the_loss() -> None:
    completions = [
        Completion([5, 6], "cut at the stop marker", finished=True),
        Completion([5, EOS], "ended by the model", finished=True),
        Completion([5, 6, 7], "ran into the limit", finished=False),
        Completion([], "nothing before the stop marker", finished=True),
    ]
    rollout = to_trl([[1]] * 4, completions, EOS)
    assert rollout["completion_ids"] == [[5, 6, EOS], [5, EOS], [5, 6, 7], [EOS]]
    assert rollout["env_mask"] == [[1, 1, 0], [1, 1], [1, 1, 1], [0]]
    assert rollout["prompt_ids"] == [[1]] * 4
    assert rollout["logprobs"] is None


def test_log_probs_of_cut_tokens_are_left_out_and_an_added_end_has_none() -> None:
    completions = [Completion([5, 6], "cut", finished=True), Completion([5, 6], "limit", False)]
    rollout = to_trl([[1]] * 2, completions, EOS, [[-1.0, -2.0, -3.0], [-4.0, -5.0]])
    assert rollout["logprobs"] == [[-1.0, -2.0, None], [-4.0, -5.0]]


def test_verifiers_see_a_chat_from_the_assistants_beginning_to_the_end_of_its_turn(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL's own text has no prefix, and the end token wherever the tokenizer decodes it."""
    drawn = [Completion([5, EOS], "It is 4.", finished=True)]
    monkeypatch.setattr(rollout, "unwrap_model_for_generation", lambda *_, **__: nullcontext())
    monkeypatch.setattr(rollout, "complete", lambda *_, **__: drawn)
    arguments = SimpleNamespace(ds3_gather_for_generation=True, gradient_checkpointing_kwargs=None)
    trainer: Any = SimpleNamespace(
        processing_class=tokenizer, use_vllm=False, model_wrapped=None, accelerator=None,
        args=arguments,
    )  # fmt: skip
    prefix = ["prompt.style=chat", "prompt.assistant_prefix='Well. '"]
    chat = Rollout(load_recipe("arithmetic", prefix))(["<|im_start|>user\n"], trainer)
    assert chat["seen"] == ["Well. It is 4."]
    assert "seen" not in Rollout(load_recipe("arithmetic"))(["Question:"], trainer)

    seen = []
    scorer = BatchScorer({"reward": lambda text, row: seen.append(text) or 1.0}, 0.0)
    scorer.reward_functions()[0](completions=["It is 4.<end>"], row=["{}"], seen=chat["seen"])
    assert seen == ["Well. It is 4."]
