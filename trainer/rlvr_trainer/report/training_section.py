"""The charts of the training, and the table of the run's phases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rlvr_trainer.evaluation.outcome import percent
from rlvr_trainer.phases import TITLES
from rlvr_trainer.report.charts import Series, drawn, has_mean, mean_width, number, over_steps
from rlvr_trainer.report.markup import Markup
from rlvr_trainer.tables import Table

Event = Mapping[str, Any]


@dataclass(frozen=True)
class TrainingChart:
    """A series with its chart and the value above it."""

    series: Series
    last: str
    when: str
    svg: Markup


def training_charts(events: Sequence[Event]) -> list[TrainingChart]:
    """Draw a small chart for each series that training logged."""
    return [
        TrainingChart(series, _last(series), _when(series), over_steps(series))
        for series in training_series(events)
    ]


def longest_mean(charts: Sequence[TrainingChart]) -> int:
    """Return the steps that the bold lines are means over; 0 without a bold line."""
    widths = [mean_width(len(chart.series.points)) for chart in charts if has_mean(chart.series)]
    return max(widths, default=0)


def training_series(events: Sequence[Event]) -> Iterator[Series]:
    """Yield the series that have at least one finite value, in the order of the page."""
    steps = [event for event in events if event["event"] == "step"]
    names = dict.fromkeys(key for event in steps for key in event)
    rewards = [
        key.removeprefix("rewards/").removesuffix("/mean")
        for key in names
        if key.startswith("rewards/") and key.endswith("/mean")
    ]
    order = {"format": 0, "correctness": 1}
    candidates = [
        ("reward", "Reward", "weighted sum, mean", False),
        *(
            (f"rewards/{name}/mean", f"{_titled(name)} reward", "mean per completion", False)
            for name in sorted(rewards, key=lambda name: order.get(name, 2))
        ),
        ("completions/mean_length", "Completion length", "mean, tokens", False),
        ("frac_reward_zero_std", "Zero-variance groups", "share, no gradient", True),
    ]
    for index, (key, title, unit, share) in enumerate(candidates):
        points = _points(steps, key)
        if points:
            yield Series(f"series-{index}", title, unit, points, share)
    validations = [
        event
        for event in events
        if event["event"] == "evaluation" and event.get("phase") == "train" and "step" in event
    ]
    points = _points(validations, "accuracy")
    if points:
        yield Series(
            "validation", "Validation accuracy", "greedy, held-out rows", points, True, True
        )


def time_table(events: Sequence[Event]) -> Table:
    """Tabulate the seconds of each phase and its share of the whole."""
    phases = phase_seconds(events)
    total = total_seconds(events) or 1.0
    rows = [
        (
            TITLES.get(name, name) + (f" ({attempts} attempts)" if attempts > 1 else ""),
            duration(seconds),
            seconds / total,
        )
        for name, (seconds, attempts) in phases.items()
    ]
    return Table(("Phase", "Time", "Share"), rows)


def median_step_time(events: Sequence[Event]) -> str:
    """Return the median seconds of a step as text; empty when no step has a time."""
    times = [
        event["step_time"]
        for event in events
        if event["event"] == "step" and _is_finite(event.get("step_time"))
    ]
    return number(median(times)) if times else ""


def phase_seconds(events: Sequence[Event]) -> dict[str, tuple[float, int]]:
    """Return (seconds, attempts) by phase; an interrupted one ends with its last event."""
    phases: dict[str, tuple[float, int]] = {}
    running: tuple[str, float] | None = None
    last = 0.0

    def end(at: float) -> None:
        if running:
            name, start = running
            seconds, attempts = phases.get(name, (0.0, 0))
            phases[name] = (seconds + max(0.0, at - start), attempts + 1)

    for event in events:
        now = event.get("time", last)
        if event["event"] == "phase" and event.get("state") == "started":
            end(last)
            running = (str(event["phase"]), now)
        elif event["event"] == "phase" and running and event.get("phase") == running[0]:
            end(now)
            running = None
        last = now
    if running and running[0] != "report":  # the report is written while its own phase runs
        end(last)
    return phases


def total_seconds(events: Sequence[Event]) -> float:
    """Return the sum of all phases, without the time between them."""
    return sum(seconds for seconds, _ in phase_seconds(events).values())


def duration(seconds: float) -> str:
    """Format as `8.4 s`, `12 min 30 s` or `3 h 05 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _points(events: Sequence[Event], key: str) -> list[tuple[int, float]]:
    return sorted(
        (int(event["step"]), float(event[key])) for event in events if _is_finite(event.get(key))
    )


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _last(series: Series) -> str:
    """Format the last value of the bold line; single steps are noisy."""
    value = drawn(series)[-1][1]
    return percent(value) if series.share else number(value)


def _when(series: Series) -> str:
    if has_mean(series):
        return f"last {mean_width(len(series.points))} steps"
    return f"at step {series.points[-1][0]:,}"


def _titled(name: str) -> str:
    words = name.replace("_", " ").replace("-", " ")
    return words[:1].upper() + words[1:]
