"""Sample completions of many prompts, with their common header computed once."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftType
from torch import Tensor

from rlvr_trainer.shared_prefix import cpu
from rlvr_trainer.shared_prefix.cpu.fused_forward import CannotFuse, FusedForward
from rlvr_trainer.shared_prefix.decode_attention import DecodeAttention, HeaderAttention
from rlvr_trainer.shared_prefix.gpu.decode_graph import FixedShapeAttention, Forward, GraphedForward
from rlvr_trainer.shared_prefix.packed_layout import common_prefix_length
from rlvr_trainer.shared_prefix.registration import (
    SharedAttention,
    base_model,
    enable,
    packed_mask,
)
from rlvr_trainer.shared_prefix.sampling import NOT_FINITE, LogitsNotFinite, Sampler
from rlvr_trainer.shared_prefix.stopping import StopStrings

logger = logging.getLogger(__name__)

_DEFAULT_MAX_BATCH_SIZE = {"cpu": 128}
_GPU_MAX_BATCH_SIZE = 512


def generate(
    model: Any,
    prompt_ids: Sequence[list[int]],
    *,
    tokenizer: Any,
    max_new_tokens: int,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    stop_strings: tuple[str, ...] = (),
    eos_token_ids: set[int],
    generator: torch.Generator | None = None,
    max_batch_size: int | None = None,
    cuda_graphs: bool = False,
) -> list[list[int]]:
    """Return one completion for each prompt, in order.

    A completion ends with an EOS token, which is kept, with the token that completes a stop string
    in its decoded text, or after `max_new_tokens`. `temperature` 0 is greedy, and in float32 gives
    the same tokens as `model.generate`.

    Args:
        model: a causal language model that `unsupported_reason` accepts, bare or wrapped; its
            training mode is restored.
        prompt_ids: prompts without padding; a prompt that occurs G times is computed once.
        max_batch_size: sequences decoded at a time.
        cuda_graphs: replay decode steps as CUDA graphs, one for each of a few shapes; on a CPU the
            steps have these shapes without graphs.

    Raises ValueError for an empty prompt, LogitsNotFinite.
    """
    if not prompt_ids:
        return []
    if any(not p for p in prompt_ids):
        raise ValueError(
            f"prompt {next(i for i, p in enumerate(prompt_ids) if not p)} is empty; give it a token"
        )
    sampler = Sampler(temperature, top_k, top_p, min_p, generator)
    stops = StopStrings(tokenizer, stop_strings)
    bare = base_model(model)
    enable(bare)
    device = bare.get_input_embeddings().weight.device
    size = max_batch_size or _DEFAULT_MAX_BATCH_SIZE.get(device.type, _GPU_MAX_BATCH_SIZE)
    with _inference(model):
        decoder = _Decoder(_forward_of(model, device), device, prompt_ids, cuda_graphs)
        return [
            completion
            for start in range(0, len(prompt_ids), size)
            for completion in decoder.complete(
                prompt_ids[start : start + size], sampler, stops, eos_token_ids, max_new_tokens
            )
        ]


class _Decoder:
    def __init__(
        self,
        forward: Forward,
        device: torch.device,
        prompts: Sequence[list[int]],
        cuda_graphs: bool,
    ) -> None:
        self.forward, self.device, self.cuda_graphs = forward, device, cuda_graphs
        self.header = HeaderAttention()
        self.header_length = common_prefix_length(prompts)
        if self.header_length:
            self._forward(
                prompts[0][: self.header_length], range(self.header_length), self.header, [0]
            )

    def complete(
        self,
        prompts: Sequence[list[int]],
        sampler: Sampler,
        stops: StopStrings,
        eos_token_ids: set[int],
        max_new_tokens: int,
    ) -> list[list[int]]:
        header = self.header_length
        distinct = {tuple(p): i for i, p in enumerate(dict.fromkeys(map(tuple, prompts)))}
        questions = [list(p[header:]) for p in distinct]
        copies = [distinct[tuple(p)] for p in prompts]
        lengths = list(map(len, questions))
        shape = (self.header, lengths, copies, max_new_tokens, self.device)
        attention: DecodeAttention
        if self.cuda_graphs:
            attention = FixedShapeAttention(*shape)
            decode: Forward = GraphedForward(self.forward, attention)
        else:
            attention, decode = DecodeAttention(*shape), self.forward

        positions = [header + i for n in lengths for i in range(n)]
        last = torch.tensor(lengths).cumsum(0) - 1
        logits = self._forward(
            [t for q in questions for t in q], positions, attention, last.tolist()
        )[copies]

        places = torch.tensor([len(p) for p in prompts], device=self.device)  # of the next tokens
        every = torch.arange(len(prompts), device=self.device)
        completions: list[list[int]] = [[] for _ in prompts]
        rows = list(range(len(prompts)))  # the sequences in the batch; `done` of them have ended
        done = set[int]()
        for step in range(max_new_tokens):
            tokens = sampler(logits)
            drawn = tokens.tolist()  # the only synchronisation with the device in a step
            if NOT_FINITE in drawn:
                raise LogitsNotFinite
            for row, token in zip(rows, drawn, strict=True):
                if row not in done:
                    completions[row].append(token)
                    if token in eos_token_ids:
                        done.add(row)
            running = [row for row in rows if row not in done]
            done.update(
                row
                for row, ended in zip(
                    running, stops([completions[r] for r in running]), strict=True
                )
                if ended
            )
            if done.issuperset(rows) or step + 1 == max_new_tokens:
                break
            kept = attention.rows_to_keep([row not in done for row in rows])
            if len(kept) < len(rows):
                rows = [rows[i] for i in kept]
                live = torch.tensor(kept, device=self.device)
                attention.keep(live)
                tokens, places = tokens[live], places[live]
            attention.start_step(attention.width + step)
            logits = decode(tokens, places, attention, every[: len(rows)])
            places = places + 1
        return completions

    def _forward(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        attention: SharedAttention,
        keep: Sequence[int],
    ) -> Tensor:
        """Return logits (len(keep), V) of a packed row of tokens at the indices `keep`."""
        row, places, kept = (
            torch.tensor(values, device=self.device) for values in (ids, positions, keep)
        )
        return self.forward(row, places, attention, kept)


def _forward_of(model: Any, device: torch.device) -> Forward:
    """Return the fastest forward for the model on this device."""
    bare = base_model(model)
    is_lora = getattr(model, "peft_type", PeftType.LORA) == PeftType.LORA
    if cpu.is_used(device) and is_lora and bare.dtype in (torch.float32, torch.bfloat16):
        try:
            return FusedForward(bare)
        except CannotFuse as error:
            logger.info("Generating module by module: %s", error)

    def by_modules(
        ids: Tensor, positions: Tensor, attention: SharedAttention, keep: Tensor
    ) -> Tensor:
        logits: Tensor = model(
            input_ids=ids[None],
            attention_mask=packed_mask(device),
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=keep,
            shared_prefix=attention,
        ).logits
        return logits[0]

    return by_modules


@contextmanager
def _inference(model: Any) -> Iterator[None]:
    """Run in evaluation mode without gradients, and restore the mode of each module."""
    training = [m for m in model.modules() if m.training]
    for module in model.modules():
        # In an evaluation forward on a CPU, bitsandbytes repacks 4-bit weights permanently, after
        # which they have no gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
