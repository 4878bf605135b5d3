"""Turn prompts into tokens, with special tokens exactly once, and find a model's chat template.

Everything that needs a prompt's tokens takes them from here: counting, evaluation and training.
What prompts share is found in these tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from rlvr_trainer.models.fit import local_facts
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.tasks.chat_template import ChatTemplate, build_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_ids(
    tokenizer: Any, prompts: Sequence[str], style: Literal["text", "chat"]
) -> list[list[int]]:
    """Return the tokens of whole prompts.

    A chat template writes the special tokens itself: those of its prompts equal
    `apply_chat_template(tokenize=True)`. A text gets the tokens that the tokenizer puts before a
    text (BOS) unless it begins with them, and none at its end, where the completion follows.
    """
    ids: list[list[int]] = tokenizer(text=list(prompts), add_special_tokens=False)["input_ids"]
    if style == "chat":
        return ids
    opening = _opening(tokenizer)
    return [row if row[: len(opening)] == opening else opening + row for row in ids]


def chat_template(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate | None:
    """Return the template of the recipe's prompts; None for text prompts. Raises ConfigError."""
    if recipe.prompt.style == "text":
        return None
    own = tokenizer.chat_template
    if isinstance(own, dict):  # several by name
        own = own.get("default")
    return build_template(recipe, own, tokenizer.special_tokens_map)


def local_chat_template(recipe: Recipe) -> ChatTemplate | None:
    """Return the template by the model's files on this machine, without loading a tokenizer.

    None for text prompts, and if the files or transformers are not here. Raises ConfigError.
    """
    facts = local_facts(recipe.model)
    unknown = facts is None or facts.chat_template is None
    if recipe.prompt.style == "text" or unknown or find_spec("transformers") is None:
        return None
    assert facts is not None
    return build_template(recipe, facts.chat_template, facts.special_tokens)


def end_of_turn(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate | None) -> set[int]:
    """Return the token with which the template ends the assistant's turn; empty if it has none."""
    if template is None:
        return set()
    ids = tokenizer(text=template.turn_end(), add_special_tokens=False)["input_ids"]
    return set(ids[:1]) & set(tokenizer.added_tokens_decoder)


def _opening(tokenizer: Any) -> list[int]:
    """Return the tokens that the tokenizer puts before a text."""
    bare: list[int] = tokenizer(text="a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer(text="a")["input_ids"]
    starts = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[: next(starts, 0)]
