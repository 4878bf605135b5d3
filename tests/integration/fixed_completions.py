"""`python -m rlvr_trainer` with completions determined by the prompt and the index in the group.

Sampling depends on the number of ranks. With this program, one rank and two score the same
completions, and what they learn can be compared.
"""

import random
from collections import Counter
from typing import Any

from rlvr_trainer.__main__ import main
from rlvr_trainer.evaluation.completions import Completion
from rlvr_trainer.grpo import rollout

NUM_TOKENS = 8


def complete(model: Any, tokenizer: Any, prompt_ids: list[list[int]], **_: Any) -> list[Completion]:
    places: Counter[tuple[int, ...]] = Counter()
    completions = []
    for prompt in map(tuple, prompt_ids):
        draw = random.Random(f"{prompt} {places[prompt]}")
        places[prompt] += 1
        ids = [draw.randrange(100, 40_000) for _ in range(NUM_TOKENS)]
        completions.append(Completion(ids, tokenizer.decode(ids), finished=False))
    return completions


def main_with_fixed_completions(arguments: list[str]) -> int:
    rollout.complete = complete
    return main(arguments)
