"""Runs to report on: a demo, a minimal one, and one with hostile text."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from rlvr_trainer.evaluation.outcome import compare

Report = dict[str, Any]
"""Arguments of `render_report`."""

START = 1_790_000_000.0


def sample(model: str, shots: int, index: int, correct: bool, rng: random.Random) -> dict[str, Any]:
    price, number = 3 + index % 9, 2 + index % 7
    answer = str(price * number)
    marked = correct or rng.random() < (0.3 if model == "before" else 0.97)
    value = answer if correct else str(price + number)
    work = f" Each costs {price} dollars, so {number} cost {price} * {number} = {value} dollars."
    last = f"\n#### The final answer is {value}" if marked else f" The answer is {value}."
    return {
        "model": model,
        "shots": shots,
        "id": f"test-{index}",
        "question": f"A pencil costs {price} dollars. Mia buys {number}. What does she pay?",
        "answer": answer,
        "completion": work + last,
        "extracted": value if marked else None,
        "format": marked,
        "correct": correct,
        "flexible": correct,
        "num_tokens": 24 + rng.randrange(12),
        "sample": 0,
        "greedy": True,
    }


def demo(*, shots: tuple[int, ...] = (0, 2, 8), num_rows: int = 200, num_steps: int = 40) -> Report:
    """Return a successful run: 8.5 % → about 60 % at the most shots."""
    rng = random.Random(0)
    before, after = [], []
    for place, k in enumerate(shots):
        right = 0.085 - 0.02 * (len(shots) - 1 - place), 0.61 - 0.12 * (len(shots) - 1 - place)
        for index in range(num_rows):
            before.append(sample("before", k, index, rng.random() < right[0], rng))
            after.append(sample("after", k, index, rng.random() < right[1], rng))
    evaluation = compare(before, after)
    return {
        "recipe": {
            "name": "arithmetic",
            "description": "One-step word problems, learnt on two cores",
            "seed": 42,
            "task": "arithmetic",
            "prompt": {"num_shots": shots[-1], "answer_marker": "#### The final answer is"},
            "rewards": {"format": {"weight": 1.0}, "correctness": {"weight": 1.0}},
            "model": {"name": "embedded:smollm2-135m-instruct", "dtype": "fp32"},
            "sampling": {"num_generations": 8, "max_completion_tokens": 64},
            "training": {"learning_rate": 3e-4, "max_steps": num_steps},
        },
        "manifest": {
            "version": 1,
            "task": "arithmetic",
            "seed": 42,
            "source": {"train": "task arithmetic", "test": "task arithmetic"},
            "read": {"train": 2000, "test": 200},
            "counts": {"train": 1788, "validation": 199, "test": 200, "quarantined": 5},
            "quarantined": {"duplicate": 4, "answer not a number": 1},
            "exemplar_ids": [f"train-{i}" for i in range(8)],
            "header_tokens": {"8": 512},
            "max_prompt_tokens": 561,
            "files": {"train.jsonl": {"sha256": "9f86d081884c7d65" * 4, "bytes": 51210}},
        },
        "events": events(num_steps),
        "evaluation": evaluation,
        "samples": [*before, *after],
    }


def events(num_steps: int) -> list[dict[str, Any]]:
    """Return the events of a run of `num_steps` steps, with a sigmoid reward."""
    rng, clock, logged = random.Random(1), START, []

    def add(event: str, seconds: float, **fields: Any) -> None:
        nonlocal clock
        clock += seconds
        logged.append({"time": clock, "event": event, **fields})

    for phase, seconds in (("prepare", 3.2), ("evaluate-base", 148.0)):
        add("phase", 1, phase=phase, state="started")
        add("phase", seconds, phase=phase, state="finished")
    add("phase", 1, phase="train", state="started")
    for step in range(1, num_steps + 1):
        learnt = 1 / (1 + math.exp(-(step - num_steps / 3) / (num_steps / 10)))
        correct = min(1.0, max(0.0, 0.08 + 0.55 * learnt + rng.gauss(0, 0.06)))
        form = min(0.5, max(0.0, 0.12 + 0.37 * learnt + rng.gauss(0, 0.03)))
        numbers = {
            "reward": correct + form,
            "reward_std": 0.5,
            "rewards/format/mean": form,
            "rewards/correctness/mean": correct,
            "completions/mean_length": 38 - 12 * learnt + rng.gauss(0, 1.5),
            "frac_reward_zero_std": round(8 * max(0, 0.3 * learnt + rng.gauss(0.05, 0.06))) / 8,
            "grad_norm": 0.4,
            "learning_rate": 3e-4,
            "loss": 0.001,
            "step_time": 14.2 + rng.random(),
        }
        add("step", numbers["step_time"], step=step, max_steps=num_steps, **numbers)
        if step % max(1, num_steps // 4) == 0:
            accuracy = 0.08 + 0.52 * learnt
            add("evaluation", 9, phase="train", step=step, done=64, total=64, accuracy=accuracy)
    add("phase", 2, phase="train", state="finished")
    add("phase", 1, phase="evaluate-trained", state="started")
    add("phase", 96.0, phase="evaluate-trained", state="finished")
    add("phase", 0.1, phase="report", state="started")
    return logged


def minimal() -> Report:
    """Return a run of one shot setting, four rows, no training, empty recipe and manifest."""
    rng = random.Random(2)
    right = ((False, False), (True, True), (False, True), (True, False))
    before = [sample("before", 0, i, one, rng) for i, (one, _) in enumerate(right)]
    after = [sample("after", 0, i, two, rng) for i, (_, two) in enumerate(right)]
    return {
        "recipe": {},
        "manifest": {},
        "events": [],
        "evaluation": compare(before, after),
        "samples": [*before, *after],
    }


def nasty() -> Report:
    """Return a run with hostile text of a model, a data set or a user in every text field."""
    report = demo(shots=(8,), num_rows=30, num_steps=6)
    texts = [
        "<script>alert('x')</script><img src=https://example.org/a.png onerror=alert(1)>",
        "</pre></style></title></svg><h1>Owned</h1><!-- ",
        "x" * 9000,
        "שלום עולם ‮gnirts desrever‬ مرحبا 12 + 30 = 42",
        "👩‍🚀🚀 é ﷽ " * 40,
        "lone \ud83d surrogate, \x00 null, \x1b[31m escape, tab\there",
        "",
        "\n" * 80 + "the end",
        "&lt;b&gt; & \"quotes\" 'single'",
    ]
    for number, sample_row in enumerate(report["samples"]):
        sample_row["completion"] = texts[number % len(texts)]
        sample_row["question"] = texts[(number + 1) % len(texts)]
        sample_row["extracted"] = texts[(number + 2) % len(texts)][:200] or None
        sample_row["answer"] = texts[(number + 3) % len(texts)][:300]
    report["recipe"]["description"] = texts[0]
    report["recipe"]["prompt"]["stop"] = texts[1]
    report["manifest"]["quarantined"] = {texts[0]: 2, "y" * 300: 1}
    report["manifest"]["source"]["train"] = "s3://" + "bucket" * 60
    for event in report["events"]:
        if event["event"] == "step":
            event["rewards/<b>my_own</b>/mean"] = 0.25
            event["reward"] = None if event["step"] == 2 else event["reward"]
            event["loss"] = math.nan
    return report


@pytest.fixture(scope="session")
def demo_report() -> Report:
    return demo()


@pytest.fixture(scope="session")
def minimal_report() -> Report:
    return minimal()


@pytest.fixture(scope="session")
def nasty_report() -> Report:
    return nasty()
