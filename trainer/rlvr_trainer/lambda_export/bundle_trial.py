"""Try an exported folder: alone, it must score as the recipe does here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.rewards import build_rewards, score
from rlvr_trainer.tasks.base import Row
from rlvr_trainer.tasks.prompt import PromptLayout

NUM_TRIED = 8
TIMEOUT_S = 60
SCRIPT = (
    "import json, sys; sys.path.insert(0, sys.argv[1]); import handler;"
    "scores = [handler.score_sample(sample, 0) for sample in json.load(sys.stdin)];"
    "sys.stdout.write('\\n' + json.dumps([score['aggregate_reward_score'] for score in scores]))"
)


def try_bundle(recipe: Recipe, folder: Path, rows: Sequence[Row]) -> int:
    """Score gold, wrong and empty completions in the folder and here; return how many.

    Raises ConfigError if the folder lacks something, or gives another score.
    """
    layout = PromptLayout(recipe.prompt, ())
    tried = rows[:NUM_TRIED]
    gold = [layout.completion(row) for row in tried]
    cases = [
        (row, completion)
        for row, own, other in zip(tried, gold, [*gold[1:], *gold[:1]], strict=True)
        for completion in (own, other, "")
    ]
    rewards = build_rewards(recipe)
    scores = [score(rewards, completion, row.columns) or {} for row, completion in cases]
    weights = {name: reward.weight for name, reward in recipe.rewards.items()}
    expected = [sum(weights[name] * value for name, value in own.items()) for own in scores]
    given = run_alone(folder, [sample_of(row, completion) for row, completion in cases])
    for (row, completion), here, there in zip(cases, expected, given, strict=True):
        if here != there:
            raise ConfigError(
                f"in {folder} the completion {completion[:80]!r} of row {row.id} gets {there}, and "
                f"{here} here; a package that a reward imports may be missing: add --with PACKAGE"
            )
    return len(cases)


def sample_of(row: Row, completion: str) -> dict[str, Any]:
    """Return a row and a completion as SageMaker sends them."""
    messages = [
        {"role": "user", "content": row.question},
        {"role": "assistant", "content": completion},
    ]
    columns = {name: value for name, value in row.columns.items() if name not in ("id", "question")}
    return {"id": row.id, "messages": messages, "reference_answer": columns}


def run_alone(folder: Path, samples: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the folder's scores, from a Python that has only the standard library beside it.

    Raises ConfigError.
    """
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", SCRIPT, str(folder)],
        input=json.dumps(samples),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if ran.returncode:
        reason = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(
            f"{folder} does not run alone ({reason}); for a package that your reward imports, add "
            "--with PACKAGE"
        )
    scores: list[float] = json.loads(ran.stdout.splitlines()[-1])
    return scores
