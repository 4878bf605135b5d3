"""Score completions by a recipe's rewards, as a Lambda that SageMaker's RLVR calls.

`rlvr export lambda` copies this file as handler.py, beside recipe.json and the modules that it
imports; the Lambda's handler is `handler.lambda_handler`. Two contracts are in use, and
contract.json names the one that this export is for:

- `nova`: a list of samples, answered with a list of scores. Documented in SageMaker's Developer
  Guide, "Implementing reward functions" (nova-implementing-reward-functions).
- `open-weights`: the same list, also within `input`, `batch` or a JSON `body`, answered with
  `{"statusCode": 200, "body": "[…]"}`. As in AWS's templates of reward functions for training and
  evaluating open-weight models; not documented.

A sample has `messages` or `prompt` that end with the completion, or `model_response`. The gold
answer is `reference_answer` (also within `metadata`) or `reward_model.ground_truth`: text, or an
object with `answer`, `text` or `ground_truth`, whose other keys are columns of the row.

A score is the weighted sum of the rewards. A completion that cannot be verified is 0, since the
contract has no way to leave it out of its group; its metric `unverified` is then 1, and the log
says why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.rewards import build_rewards, first_failure, score

HERE = Path(__file__).parent
RECIPE_FILE, CONTRACT_FILE = "recipe.json", "contract.json"
ASSISTANTS = ("assistant", "nova_assistant")
ANSWER_KEYS = ("answer", "text", "ground_truth")
BATCH_KEYS = ("input", "batch")

Sample = Mapping[str, Any]


def lambda_handler(event: Any, context: Any) -> Any:
    """Answer an invocation with the scores of its samples, in their order.

    Raises ValueError for samples of another form, so that the invocation fails and says so.
    """
    scores = [score_sample(sample, index) for index, sample in enumerate(samples_of(event))]
    if _contract() == "nova":
        return scores
    headers = {"Content-Type": "application/json"}
    return {"statusCode": 200, "headers": headers, "body": json.dumps(scores)}


def samples_of(event: Any) -> list[Sample]:
    """Return the samples of an event. Raises ValueError for one without any."""
    content = event
    if isinstance(content, dict) and isinstance(content.get("body"), str):
        content = json.loads(content["body"])
    for key in BATCH_KEYS:
        if isinstance(content, dict) and key in content:
            content = content[key]
    samples = content if isinstance(content, list) else [content]
    if not samples or not all(isinstance(sample, dict) for sample in samples):
        raise ValueError(f"the event has no list of samples: {json.dumps(event)[:200]}")
    return samples


def score_sample(sample: Sample, index: int) -> dict[str, Any]:
    """Return id, score and metrics of one sample. Raises ValueError for one of another form."""
    rewards, weights = _rewards()
    name = str(sample.get("id", f"sample-{index:03d}"))
    row = row_of(sample, name)
    scores = score(rewards, completion_of(sample), row)
    if scores is None:
        print(f"{name} is not verified: {first_failure(rewards)}", flush=True)
    metrics = [
        {"name": reward, "value": value, "type": "Reward"}
        for reward, value in (scores or dict.fromkeys(rewards, 0.0)).items()
    ]
    return {
        "id": name,
        "aggregate_reward_score": sum(
            weights[reward] * value for reward, value in (scores or {}).items()
        ),
        "metrics_list": [
            *metrics,
            {"name": "unverified", "value": float(scores is None), "type": "Metric"},
        ],
    }


def completion_of(sample: Sample) -> str:
    """Return the text that the model generated. Raises ValueError without any."""
    if isinstance(sample.get("model_response"), str):
        return str(sample["model_response"])
    messages = sample.get("messages") or sample.get("prompt") or []
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        last = messages[-1]
        if last.get("role") in ASSISTANTS:
            return _text(last.get("content"))
    raise ValueError(
        f"sample {sample.get('id', '')!r} has no completion: neither model_response nor messages "
        f"that end with the assistant's (its keys: {', '.join(sample)})"
    )


def row_of(sample: Sample, name: str) -> dict[str, Any]:
    """Return the row's columns as the rewards see them. Raises ValueError without a gold answer."""
    metadata = sample.get("metadata") or {}
    nested = (sample.get("extra_info"), metadata)
    columns = {
        key: value for part in nested if isinstance(part, dict) for key, value in part.items()
    }
    gold = sample.get("reference_answer")
    gold = metadata.get("reference_answer") if gold is None else gold
    gold = (sample.get("reward_model") or {}).get("ground_truth") if gold is None else gold
    gold = sample.get("response") if gold is None else gold  # of an evaluation
    if isinstance(gold, dict):
        columns |= gold
        gold = next((gold[key] for key in ANSWER_KEYS if gold.get(key) is not None), None)
    if gold is None:
        raise ValueError(
            f"sample {name!r} has no gold answer: neither reference_answer nor "
            f"reward_model.ground_truth (its keys: {', '.join(sample)})"
        )
    return {
        "solution": "",
        **columns,
        "id": name,
        "question": _question(sample),
        "answer": str(gold),
    }


def _question(sample: Sample) -> str:
    if isinstance(sample.get("query"), str):
        return str(sample["query"])
    messages = sample.get("messages") or sample.get("prompt") or []
    asked = [message for message in messages if isinstance(message, dict)]
    asked = [message for message in asked if message.get("role") == "user"]
    return _text(asked[-1].get("content")) if asked else ""


def _text(content: Any) -> str:
    """Return a message's text, also of one in parts (`[{"text": …}]`)."""
    if isinstance(content, list):
        return "".join(_text(part) for part in content)
    if isinstance(content, dict):
        return str(content.get("text", ""))
    return "" if content is None else str(content)


@cache
def _rewards() -> tuple[Mapping[str, Any], Mapping[str, float]]:
    tree = json.loads((HERE / RECIPE_FILE).read_text("utf-8"))
    for reward in tree["rewards"].values():
        if reward.get("function", "").partition(":")[0].endswith(".py"):
            reward["function"] = str(HERE / reward["function"])
    recipe = Recipe.model_validate(tree)
    weights = {name: reward.weight for name, reward in recipe.rewards.items()}
    return build_rewards(recipe), weights


@cache
def _contract() -> str:
    contract: str = json.loads((HERE / CONTRACT_FILE).read_text("utf-8"))["contract"]
    return contract
