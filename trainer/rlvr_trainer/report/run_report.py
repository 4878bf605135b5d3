"""The report of one run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlvr_trainer.evaluation.comparison_tables import shots_table
from rlvr_trainer.evaluation.outcome import headline_entry, percent, signed
from rlvr_trainer.report.charts import Category, comparison, interval_bars
from rlvr_trainer.report.page import render
from rlvr_trainer.report.samples_section import choose_samples
from rlvr_trainer.report.training_section import (
    duration,
    longest_mean,
    median_step_time,
    time_table,
    total_seconds,
    training_charts,
)
from rlvr_trainer.tables import Table

Json = Mapping[str, Any]


def render_report(
    *,
    recipe: Json,
    manifest: Json,
    events: Sequence[Json],
    evaluation: Json,
    samples: Iterable[Json],
) -> str:
    """Render one self-contained HTML document, without the parts whose inputs are missing."""
    shots, entry = str(evaluation["headline_shots"]), headline_entry(evaluation)
    by_shots = sorted(evaluation["shots"].items(), key=lambda item: int(item[0]))
    training = training_charts(events)
    return render(
        "run.html",
        name=str(recipe.get("name", "run")),
        recipe=dict(recipe),
        weights=_weights(recipe),
        verdict=evaluation["verdict"],
        entry=entry,
        points=100 * (entry["after"]["accuracy"] - entry["before"]["accuracy"]),
        facts=_facts(recipe, events, entry, shots),
        shots=int(shots),
        bars=interval_bars(entry["before"], entry["after"]),
        measures=_measures(recipe, entry),
        shots_table=shots_table(evaluation, ("Before", "After", "Gained", "Lost", "McNemar p")),
        shots_chart=comparison(
            "shots",
            "Accuracy by number of shots",
            "Shots in the prompt",
            [Category(name, one["before"], one["after"]) for name, one in by_shots],
            connect=True,
        ),
        headline=[name for name, _ in by_shots].index(shots),
        training=training,
        mean=longest_mean(training),
        samples=choose_samples(sample for sample in samples if str(sample["shots"]) == shots),
        times=time_table(events),
        step_time=median_step_time(events),
        manifest=manifest,
        counts=_rows("Split", manifest.get("counts", {})),
        quarantined=_rows("Quarantined because", manifest.get("quarantined", {})),
    )


def _weights(recipe: Json) -> str:
    return ", ".join(
        f"{name} × {reward.get('weight', 1.0):g}"
        for name, reward in recipe.get("rewards", {}).items()
    )


def _facts(recipe: Json, events: Sequence[Json], entry: Json, shots: str) -> dict[str, str]:
    steps = max((event["step"] for event in events if event["event"] == "step"), default=None)
    seconds = total_seconds(events)
    ended = max((event["time"] for event in events if "time" in event), default=None)
    facts = {
        "Model": recipe.get("model", {}).get("name"),
        "Task": recipe.get("task"),
        "Test rows": f"{entry['num_samples']:,}",
        "Prompt": "chat" if recipe.get("prompt", {}).get("style") == "chat" else None,
        "Shots": shots,
        "Steps": f"{steps:,}" if steps else None,
        "Seed": recipe.get("seed"),
        "Took": duration(seconds) if seconds else None,
        "Ended": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ended)) if ended else None,
    }
    return {term: str(value) for term, value in facts.items() if value is not None}


def _rows(name: str, numbers: Mapping[str, int]) -> Table:
    return Table((name, "Rows"), [(key, f"{number:,}") for key, number in numbers.items()])


def _measures(recipe: Json, entry: Json) -> Table:
    judge = recipe.get("evaluation", {}).get("correct_by", "correctness")
    judged_by = "by the answer marker" if judge == "correctness" else f"by the reward {judge}"
    before, after = entry["before"], entry["after"]
    drawn = before.get("pass_at_k", {}), after.get("pass_at_k", {})

    def shares(name: str, one: float, two: float) -> tuple[str, ...]:
        return name, percent(one), percent(two), signed(100 * (two - one))

    length = before["mean_length"], after["mean_length"]
    rows = [
        shares(f"Correct ({judged_by})", before["accuracy"], after["accuracy"]),
        shares("Correct (by the last number)", before["flexible"], after["flexible"]),
        shares("Right format", before["format"], after["format"]),
        (
            "Mean length, tokens",
            *(f"{tokens:,.1f}" for tokens in length),
            signed(length[1] - length[0]),
        ),
    ]
    rows += [
        shares(f"pass@{k} (sampled)", drawn[0][k], drawn[1][k])
        for k in sorted(drawn[0].keys() & drawn[1].keys(), key=int)
    ]
    return Table(("Measure", "Before", "After", "Change"), rows)
