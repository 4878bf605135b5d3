"""Measure greedy evaluation with shared prefixes against plain `generate` in batches.

    python tests/benchmarks/evaluation.py                       # 64 prompts of 8 shots, 64 tokens
    python tests/benchmarks/evaluation.py --shots 0 --json evaluation.json

Both run as in `rlvr evaluate`, with `shared_prefix` on and off, on the same GSM8K prompts;
completions end at the stop marker, an EOS token or the limit. On a GPU vLLM is measured too if it
is installed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import workload

from rlvr_trainer.evaluation.completions import Completion, Sampling, complete, stop_texts
from rlvr_trainer.recipe.schema import PromptSection


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=workload.default_model())
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch-sizes", default="8,16,64", help="batch sizes of plain generate")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args(argv)

    model, tokenizer = workload.load(args.model, args.dtype)
    model.eval()
    prompt_ids = tokenizer(text=workload.prompts(args.prompts, args.shots))["input_ids"]
    clock = workload.Clock()

    def draw(ids: list[list[int]], tokens: int, *, share_prefix: bool) -> list[Completion]:
        return complete(
            model,
            tokenizer,
            ids,
            sampling=Sampling(tokens),
            stop=PromptSection().stop,
            share_prefix=share_prefix,
        )

    def run(name: str, batch_size: int, *, share_prefix: bool) -> list[Completion]:
        with clock(name):
            return [
                completion
                for start in range(0, len(prompt_ids), batch_size)
                for completion in draw(
                    prompt_ids[start : start + batch_size], args.tokens, share_prefix=share_prefix
                )
            ]

    batch_sizes = [int(size) for size in args.batch_sizes.split(",")]
    for share_prefix in (True, False):
        draw(prompt_ids[:2], 2, share_prefix=share_prefix)  # warm up
    ours = run("ours", args.prompts, share_prefix=True)
    print(f"ours{'':>12}{clock.seconds['ours']:8.1f} s", flush=True)
    plain: dict[int, float] = {}
    same: dict[int, int] = {}
    for size in batch_sizes:
        theirs = run(f"plain {size}", size, share_prefix=False)
        plain[size] = clock.seconds[f"plain {size}"]
        same[size] = sum(a.token_ids == b.token_ids for a, b in zip(ours, theirs, strict=True))
        ratio = plain[size] / clock.seconds["ours"]
        print(
            f"plain, batch {size:<3}{plain[size]:8.1f} s{ratio:8.2f}×   "
            f"{same[size]} of {len(ours)} completions the same",
            flush=True,
        )
    vllm_s = vllm_seconds(args, model, tokenizer, prompt_ids) if workload.has_vllm() else None
    if vllm_s:
        print(f"vLLM{'':>12}{vllm_s:8.1f} s{vllm_s / clock.seconds['ours']:8.2f}×", flush=True)
    if args.json:
        result = {
            "machine": workload.machine(),
            "settings": {k: v for k, v in vars(args).items() if k != "json"},
            "ours_s": clock.seconds["ours"],
            "plain_s": plain,
            "vllm_s": vllm_s,
            "ratio_to_the_fastest": min(plain.values()) / clock.seconds["ours"],
            "same_completions": same,
        }
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def vllm_seconds(
    args: argparse.Namespace, model: Any, tokenizer: Any, prompt_ids: list[list[int]]
) -> float:
    """Measure vLLM on the same prompts, after a warm-up and with its prefix cache."""
    from vllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        workload.save(model, tokenizer, Path(folder))
        engine = LLM(model=folder, dtype=str(model.dtype).removeprefix("torch."), seed=0)
    clock = workload.Clock()
    prompts = [{"prompt_token_ids": ids} for ids in prompt_ids]
    for name, tokens in (("warm-up", 2), ("vllm", args.tokens)):
        engine.reset_prefix_cache()
        stops = list(stop_texts(PromptSection().stop))
        sampling = SamplingParams(temperature=0, max_tokens=tokens, stop=stops)
        with clock(name):
            engine.generate(prompts, sampling, use_tqdm=False)
    return clock.seconds["vllm"]


if __name__ == "__main__":
    raise SystemExit(main())
