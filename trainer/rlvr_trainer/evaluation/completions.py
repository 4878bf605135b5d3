"""Generate completions of prompts, cut where the answer ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlvr_trainer import shared_prefix
from rlvr_trainer.rewards import cut_at_stop

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters; `temperature` 0 is greedy.

    `top_p` 1, `top_k` 0 and `min_p` 0 keep all tokens.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass(frozen=True)
class Completion:
    """One completion without its stop marker."""

    token_ids: list[int]
    text: str
    finished: bool
    """True if it ended with a stop marker or end-of-sequence token within the limit."""


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[list[int]],
    *,
    sampling: Sampling,
    stop: str,
    share_prefix: bool,
    end_of_turn: Iterable[int] = (),
) -> list[Completion]:
    """Return one completion for each prompt, generated in one batch.

    A line that starts with `stop` ends a completion and is left out; an empty `stop` ends none.
    `end_of_turn` are tokens that end one beside the model's and the tokenizer's. With
    `share_prefix` the prompts' common prefix is computed once (greedy tokens stay the same); for an
    architecture without support, `model.generate` is used and the reason logged once. Raises
    LogitsNotFinite.
    """
    reason = shared_prefix.unsupported_reason(model) if share_prefix else None
    if reason:
        _warn_once(reason)
    generate = _generate_shared if share_prefix and not reason else _generate_plain
    eos_token_ids = end_tokens(model, tokenizer) | set(end_of_turn)
    drawn = generate(model, tokenizer, prompt_ids, sampling, stop_texts(stop), eos_token_ids)
    return [cut(ids, tokenizer, stop, eos_token_ids) for ids in drawn]


@cache
def _warn_once(reason: str) -> None:
    logger.warning("Completions are generated without shared prefixes: %s", reason)


def cut(
    ids: list[int], tokenizer: PreTrainedTokenizerBase, stop: str, eos_token_ids: set[int]
) -> Completion:
    """Return the completion of the tokens `ids`, up to the line that starts with `stop`.

    The text is without the token that ends it, whether the tokenizer calls that special or not.
    """
    decode: Callable[[list[int]], str] = lambda tokens: tokenizer.decode(  # noqa: E731
        tokens, skip_special_tokens=True
    )
    ended = bool(ids) and ids[-1] in eos_token_ids
    text = decode(ids[:-1] if ended else ids)
    kept = cut_at_stop(text, stop=stop)
    if kept == text:
        return Completion(ids, text, finished=ended)
    length = len(ids)
    while length and len(decode(ids[:length])) > len(kept):
        length -= 1
    return Completion(ids[:length], kept, finished=True)


def stop_texts(stop: str) -> tuple[str, ...]:
    """Return the text that starts a line with `stop`, for use while generating; none for none."""
    return (f"\n{stop}",) if stop else ()


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that end a completion: the tokenizer's and the model's."""
    declared = model.generation_config.eos_token_id if model.generation_config else None
    ids = [declared] if isinstance(declared, int) else list(declared or [])
    return {*ids, tokenizer.eos_token_id}


def _generate_shared(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[list[int]],
    sampling: Sampling,
    stop_strings: tuple[str, ...],
    eos_token_ids: set[int],
) -> list[list[int]]:
    return shared_prefix.generate(
        model,
        list(prompt_ids),
        tokenizer=tokenizer,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        stop_strings=stop_strings,
        eos_token_ids=eos_token_ids,
    )


@torch.no_grad()
def _generate_plain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[list[int]],
    sampling: Sampling,
    stop_strings: tuple[str, ...],
    eos_token_ids: set[int],
) -> list[list[int]]:
    batch = tokenizer.pad({"input_ids": list(prompt_ids)}, padding_side="left", return_tensors="pt")
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    draw: dict[str, Any]
    if sampling.temperature:
        draw = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
        }
    else:
        draw = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    was_training, finite = model.training, _FiniteLogits()
    model.eval()
    try:
        sequences = model.generate(
            **batch,
            **draw,
            logits_processor=[finite],
            max_new_tokens=sampling.max_new_tokens,
            stop_strings=list(stop_strings) or None,
            tokenizer=tokenizer,
            eos_token_id=sorted(eos_token_ids),
            pad_token_id=tokenizer.pad_token_id,
        )
    finally:
        model.train(was_training)
    finite.check()
    return [
        _until_end(row, eos_token_ids)
        for row in sequences[:, batch["input_ids"].shape[1] :].tolist()
    ]


class _FiniteLogits:
    """A logits processor of transformers that keeps rows of NaN from being sampled.

    They would make CUDA abort the process. The result is read once, after the generation.
    """

    def __init__(self) -> None:
        self.all_finite: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        finite = scores.amax(-1, keepdim=True).isfinite()
        seen = finite.all()
        self.all_finite = seen if self.all_finite is None else self.all_finite & seen
        return torch.where(finite, scores, 0.0)

    def check(self) -> None:
        """Raise LogitsNotFinite if any logits were not finite."""
        if self.all_finite is not None and not self.all_finite:
            raise shared_prefix.LogitsNotFinite


def _until_end(ids: list[int], eos_token_ids: set[int]) -> list[int]:
    for position, token in enumerate(ids):
        if token in eos_token_ids:
            return ids[: position + 1]
    return ids
