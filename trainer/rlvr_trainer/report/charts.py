"""Draw the charts as inline SVG.

Positions along x are percentages, so that a chart takes any width and its text keeps its size.
Colours come from the page's stylesheet; shape or text carries the same information.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from rlvr_trainer.evaluation.outcome import interval, percent
from rlvr_trainer.report.markup import Markup, element

AccuracySummary = Mapping[str, Any]
"""`accuracy`, `low` and `high` of one model."""

MAX_POINTS = 400
MIN_POINTS_FOR_MEAN = 20
MAX_VALUE_LABELS = 6


@dataclass(frozen=True)
class Series:
    """A number over the steps of a run."""

    name: str
    """Unique in a page; part of the element ids."""
    title: str
    unit: str
    points: Sequence[tuple[int, float]]
    """(step, value), steps rising."""
    share: bool = False
    """Values are shares: the axis goes from 0 to 100 %."""
    markers: bool = False
    """Few points, each drawn, and no running mean."""


@dataclass(frozen=True)
class Category:
    """One place on the x axis of a comparison."""

    label: str
    before: AccuracySummary
    after: AccuracySummary


def interval_bars(before: AccuracySummary, after: AccuracySummary) -> Markup:
    """Draw accuracy before and after as two bars on a scale of 0 to 100 %, with their intervals."""
    height, row, bar = 164, 66, 22
    parts = [_line(f"{tick}%", 0, f"{tick}%", height - 24, "grid") for tick in (0, 25, 50, 75, 100)]
    for index, (label, summary, name) in enumerate(
        (("Before training", before, "before"), ("After training", after, "after"))
    ):
        top = index * row
        text = f"{percent(summary['accuracy'])} ({interval(summary)})"
        parts += [
            element("text", label, x=0, y=top + 16, class_="label halo"),
            element("text", text, x="100%", y=top + 16, class_="value halo end"),
            _rect(0, top + 26, _x(summary["accuracy"]), bar, f"bar {name}"),
            *_whisker_across(summary, top + 26 + bar / 2),
        ]
    for tick in (0, 25, 50, 75, 100):
        anchor = "start" if tick == 0 else "end" if tick == 100 else "middle"
        parts.append(
            element("text", f"{tick} %", x=f"{tick}%", y=height - 6, class_=f"tick {anchor}")
        )
    description = ". ".join(
        f"{label}: {percent(summary['accuracy'])}, 95 % interval {interval(summary)} %"
        for label, summary in (("Before", before), ("After", after))
    )
    return _svg("accuracy", "Accuracy before and after training", description, height, parts)


def comparison(
    name: str, title: str, x_label: str, categories: Sequence[Category], *, connect: bool
) -> Markup:
    """Draw accuracy before and after by category; `connect` joins ordered categories."""
    height, top, bottom = 300, 22, 52
    highest: float = max(max(c.before["high"], c.after["high"]) for c in categories)
    ticks = nice_ticks(0, min(1.0, highest))
    scale = _scale(ticks, top, height - bottom)
    parts = _y_axis(ticks, scale, percent_tick)
    places = [f"{100 * (i + 0.5) / len(categories):.2f}%" for i in range(len(categories))]
    for kind, shift in (("before", -7), ("after", 7)):
        summaries: list[AccuracySummary] = [getattr(category, kind) for category in categories]
        marks: list[Markup] = []
        if connect:
            marks += [
                _line(x1, scale(one["accuracy"]), x2, scale(two["accuracy"]), f"join {kind}")
                for (x1, one), (x2, two) in pairwise(zip(places, summaries, strict=True))
            ]
        for x, summary in zip(places, summaries, strict=True):
            y = scale(summary["accuracy"])
            marks.append(_line(x, scale(summary["low"]), x, scale(summary["high"]), "whisker"))
            marks.append(element("circle", cx=x, cy=round(y, 1), r=5, class_=f"dot {kind}"))
            if kind == "after" and len(categories) <= MAX_VALUE_LABELS:
                above = scale(summary["high"]) - 8
                text = percent(summary["accuracy"])
                marks.append(
                    element("text", text, x=x, y=round(above, 1), class_="value halo middle")
                )
        parts.append(element("g", marks, transform=f"translate({shift} 0)"))
    for x, category in zip(places, categories, strict=True):
        label = _shorten(category.label, max(6, 48 // len(categories)))
        parts.append(element("text", label, x=x, y=height - bottom + 22, class_="tick middle"))
    parts.append(element("text", x_label, x="50%", y=height - 6, class_="axis middle"))
    description = ". ".join(
        f"{x_label} {c.label}: before {percent(c.before['accuracy'])}, "
        f"after {percent(c.after['accuracy'])}"
        for c in categories
    )
    return _svg(name, title, description, height, parts)


def over_steps(series: Series) -> Markup:
    """Draw a number over the steps: steps thin, running mean bold, last value marked."""
    height, top, bottom = 156, 10, 26
    steps, values = zip(*series.points, strict=True)
    first, last = (0 if series.markers else steps[0]), steps[-1]
    ticks = [0.0, 0.5, 1.0] if series.share else nice_ticks(min(0.0, *values), max(values))
    scale = _scale(ticks, top, height - bottom)
    form = percent_tick if series.share else tick_format(ticks)
    span: int = max(1, last - first)

    def place(step: int) -> float:
        return 100.0 * (step - first) / span

    parts = _y_axis(ticks, scale, form)
    lines = [_curve(_thinned(drawn(series)), place, scale, "bold")]
    if has_mean(series):
        lines.insert(0, _curve(_thinned(series.points), place, scale, "thin"))
    parts.append(
        element(
            "svg",
            lines,
            width="100%",
            height=height,
            viewBox=f"0 0 100 {height}",
            preserveAspectRatio="none",
            class_="stretch",
        )
    )
    marked = series.points if series.markers else drawn(series)[-1:]
    parts += [
        element(
            "circle", cx=f"{place(step):.2f}%", cy=round(scale(value), 1), r=4, class_="dot after"
        )
        for step, value in marked
    ]
    floor = height - bottom + 18
    if last > first:
        parts.append(element("text", str(first), x=0, y=floor, class_="tick"))
    parts.append(element("text", f"{last:,}", x="100%", y=floor, class_="tick end"))
    parts.append(element("text", "optimizer step", x="50%", y=floor, class_="axis middle"))
    precise = percent if series.share else number
    description = (
        f"{precise(values[0])} at step {steps[0]}, {precise(values[-1])} at step {last}; "
        f"lowest {precise(min(values))}, highest {precise(max(values))}."
    )
    title = f"{series.title} by optimizer step"
    return _svg(series.name, title, description, height, parts)


def drawn(series: Series) -> Sequence[tuple[int, float]]:
    """Return the points of the bold line."""
    return running_mean(series.points) if has_mean(series) else series.points


def has_mean(series: Series) -> bool:
    """Return True if there are enough steps for a running mean."""
    return len(series.points) >= MIN_POINTS_FOR_MEAN and not series.markers


def running_mean(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Replace each value by the mean of it and those before it, over a tenth of the run."""
    width = mean_width(len(points))
    sums = [0.0, *accumulate(value for _, value in points)]
    starts = [max(0, end - width) for end in range(1, len(sums))]
    return [
        (step, (sums[end] - sums[start]) / (end - start))
        for end, (start, (step, _)) in enumerate(zip(starts, points, strict=True), 1)
    ]


def mean_width(num_points: int) -> int:
    """Return the number of steps that a running mean is taken over."""
    return max(2, num_points // 10)


def nice_ticks(low: float, high: float, intervals: int = 4) -> list[float]:
    """Return evenly spaced round numbers around `low` and `high`, about `intervals` + 1."""
    if high <= low:
        high = low + 1.0
    raw = (high - low) / intervals
    size = 10.0 ** math.floor(math.log10(raw))
    factors = (1.0, 2.0, 2.5, 5.0, 10.0)
    step = next(size * factor for factor in factors if size * factor >= raw * 0.999)
    start = math.floor(low / step + 1e-9)
    end = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(start, end + 1)]


def number(value: float) -> str:
    """Format a number with three significant digits; only extremes get an exponent."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        if 0 < abs(value) < 0.095:
            return f"{value:.2g}"
        return f"{value:,.{digits}f}"
    return f"{value:.2e}"


def tick_format(ticks: Sequence[float]) -> Callable[[float], str]:
    """Return the format of all ticks of an axis, with the decimals that its step needs."""
    step = ticks[1] - ticks[0]
    digits = next((d for d in range(8) if math.isclose(round(step, d), step)), 8)
    return lambda tick: f"{tick:,.{digits}f}"


def percent_tick(share: float) -> str:
    """Format a share as `25 %`."""
    return f"{100 * share:g} %"


def _curve(
    points: Sequence[tuple[int, float]],
    place: Callable[[int], float],
    scale: Callable[[float], float],
    class_: str,
) -> Markup:
    path = " ".join(f"{place(step):.2f},{scale(value):.1f}" for step, value in points)
    return element("polyline", points=path, class_=f"curve {class_}")


def _thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """Keep about MAX_POINTS of the points, including the last."""
    stride = -(-len(points) // MAX_POINTS)
    return points[::-1][::stride][::-1]


def _y_axis(
    ticks: Sequence[float], scale: Callable[[float], float], form: Callable[[float], str]
) -> list[Markup]:
    parts = []
    for tick in ticks:
        y = round(scale(tick), 1)
        parts.append(_line("0%", y, "100%", y, "grid"))
        parts.append(element("text", form(tick), x=-8, y=y + 4, class_="tick end"))
    return parts


def _scale(ticks: Sequence[float], top: float, bottom: float) -> Callable[[float], float]:
    low, high = ticks[0], ticks[-1]
    return lambda value: bottom - (min(max(value, low), high) - low) / (high - low) * (bottom - top)


def _whisker_across(summary: AccuracySummary, y: float) -> list[Markup]:
    low, high = _x(summary["low"]), _x(summary["high"])
    return [
        _line(*ends, class_)
        for class_ in ("whisker under", "whisker")
        for ends in ((low, y, high, y), (low, y - 5, low, y + 5), (high, y - 5, high, y + 5))
    ]


def _svg(name: str, title: str, description: str, height: int, parts: list[Markup]) -> Markup:
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        parts,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        width="100%",
        height=height,
        class_="chart",
    )


def _line(x1: str, y1: float, x2: str, y2: float, class_: str) -> Markup:
    return element("line", x1=x1, y1=round(y1, 1), x2=x2, y2=round(y2, 1), class_=class_)


def _rect(x: float, y: float, width: str, height: float, class_: str) -> Markup:
    return element("rect", x=x, y=y, width=width, height=height, class_=class_)


def _x(share: float) -> str:
    return f"{100 * share:.2f}%"


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
