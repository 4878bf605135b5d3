"""The report of one run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from rlvr_trainer.evaluation import count, interval, p_value, percent, signed
from rlvr_trainer.report.charts import Category, comparison, interval_bars
from rlvr_trainer.report.data import render_manifest
from rlvr_trainer.report.markup import Child, Markup, element
from rlvr_trainer.report.page import fold, legend, numbers, page, section, table, unbroken
from rlvr_trainer.report.samples import render_samples
from rlvr_trainer.report.training import duration, render_timings, render_training, total_seconds

Json = Mapping[str, Any]


def render_report(
    *,
    recipe: Json,
    manifest: Json,
    events: Sequence[Json],
    evaluation: Json,
    samples: Iterable[Json],
) -> str:
    """One self-contained HTML document; what is missing from the inputs is left out of it."""
    shots = headline_shots(evaluation, recipe)
    entry = evaluation["shots"][shots]
    name = str(recipe.get("name", "run"))
    main: list[Child] = [
        _accuracy(recipe, evaluation, shots),
        _by_shots(evaluation, shots) if len(evaluation["shots"]) > 1 else None,
        render_training(events),
        render_samples([sample for sample in samples if str(sample["shots"]) == shots], int(shots)),
        render_timings(events),
        _recipe(recipe) if recipe else None,
        render_manifest(manifest) if manifest else None,
    ]
    header = [
        element("p", element("b", name), _described(recipe), class_="eyebrow"),
        element("h1", evaluation["verdict"]),
        _two_numbers(entry),
        _facts(recipe, events, entry, shots),
    ]
    footer = (
        "One run with one seed. The intervals say how far the choice of test rows can move a "
        "number; another seed can move it further."
    )
    return page(f"{name}: {evaluation['verdict']}", header, main, footer)


def headline_shots(evaluation: Json, recipe: Json) -> str:
    """The number of shots that the verdict is about."""
    trained = recipe.get("prompt", {}).get("num_shots")
    for candidate in (evaluation.get("headline_shots"), trained):
        if str(candidate) in evaluation["shots"]:
            return str(candidate)
    shots: list[str] = list(evaluation["shots"])
    return max(shots, key=int)


def _described(recipe: Json) -> str:
    description = str(recipe.get("description") or "")
    return f" · {description}" if description else ""


def _two_numbers(entry: Json) -> Markup:
    before, after = entry["before"], entry["after"]
    points = 100 * (after["accuracy"] - before["accuracy"])
    return numbers(
        [
            (
                "before",
                "before training",
                percent(before["accuracy"]),
                f"95 % interval {interval(before)} %",
            ),
            (
                "after",
                "after training",
                percent(after["accuracy"]),
                f"95 % interval {interval(after)} %, {signed(points)} points",
            ),
        ]
    )


def _facts(recipe: Json, events: Sequence[Json], entry: Json, shots: str) -> Markup:
    steps = max((event["step"] for event in events if event["event"] == "step"), default=None)
    seconds = total_seconds(events)
    ended = max((event["time"] for event in events if "time" in event), default=None)
    facts = [
        ("Model", recipe.get("model", {}).get("name")),
        ("Task", recipe.get("task")),
        ("Test rows", f"{entry['num_samples']:,}"),
        ("Shots", shots),
        ("Steps", f"{steps:,}" if steps else None),
        ("Seed", recipe.get("seed")),
        ("Took", duration(seconds) if seconds else None),
        ("Ended", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ended)) if ended else None),
    ]
    return element(
        "dl",
        [
            element("div", element("dt", term), element("dd", str(value)))
            for term, value in facts
            if value is not None
        ],
        class_="facts",
    )


def _accuracy(recipe: Json, evaluation: Json, shots: str) -> Markup:
    entry = evaluation["shots"][shots]
    judge = recipe.get("evaluation", {}).get("correct_by", "correctness")
    judged_by = "by the answer marker" if judge == "correctness" else f"by the reward {judge}"
    before, after = entry["before"], entry["after"]
    rows: list[Sequence[Child]] = [
        _row(f"Correct ({judged_by})", before, after, "accuracy"),
        _row("Correct (by the last number)", before, after, "flexible"),
        _row("Right format", before, after, "format"),
        _row("Mean length, tokens", before, after, "mean_length"),
    ]
    drawn = before.get("pass_at_k", {}), after.get("pass_at_k", {})
    rows += [
        _row(f"pass@{k} (sampled)", *drawn, k)
        for k in sorted(drawn[0].keys() & drawn[1].keys(), key=int)
    ]
    p = unbroken(f"p {p_value(entry['mcnemar_p'])}")
    change = (
        f"{count(entry['gained'], 'row')} went from wrong to right and {entry['lost']:,} from "
        f"right to wrong: McNemar's exact test gives {p}."
    )
    where = f" at {count(int(shots), 'shot')}" if len(evaluation["shots"]) > 1 else ""
    return section(
        "Accuracy",
        element("figure", interval_bars(before, after), class_="wide"),
        table(
            f"Results before and after training{where}",
            ["Measure", "Before", "After", "Change"],
            rows,
            classes={2: "after"},
        ),
        element("p", change, class_="note after-note"),
        note=f"Greedy answers to the same {count(entry['num_samples'], 'test row')}{where}, scored "
        "by the verifier that training used. Lines are 95 % intervals.",
    )


def _row(name: str, before: Json, after: Json, key: str) -> Sequence[Child]:
    one, two = before[key], after[key]
    if key == "mean_length":
        return name, f"{one:,.1f}", f"{two:,.1f}", signed(two - one)
    return name, percent(one), percent(two), signed(100 * (two - one))


def _by_shots(evaluation: Json, headline: str) -> Markup:
    entries = sorted(evaluation["shots"].items(), key=lambda item: int(item[0]))
    chart = comparison(
        "shots",
        "Accuracy by number of shots",
        "Shots in the prompt",
        [Category(shots, entry["before"], entry["after"]) for shots, entry in entries],
        connect=True,
    )
    rows = [
        (
            shots,
            _with_interval(entry["before"]),
            _with_interval(entry["after"]),
            f"{entry['gained']:,}",
            f"{entry['lost']:,}",
            p_value(entry["mcnemar_p"]).removeprefix("= "),
        )
        for shots, entry in entries
    ]
    trained = frozenset(i for i, (shots, _) in enumerate(entries) if shots == headline)
    return section(
        "By number of shots",
        legend(),
        element("figure", element("div", chart, class_="gutter"), class_="wide"),
        table(
            "Results by number of shots",
            ["Shots", "Before", "After", "Gained", "Lost", "p"],
            rows,
            headlines=trained,
            classes={2: "after"},
        ),
        note="Lines are 95 % intervals. Gained rows went from wrong to right, lost ones "
        "the other way. The verdict is about the shaded row.",
    )


def _with_interval(summary: Json) -> Child:
    return [percent(summary["accuracy"]), element("span", interval(summary), class_="sub")]


def _recipe(recipe: Json) -> Markup:
    text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, width=80)
    weights = {
        name: reward.get("weight", 1.0)
        for name, reward in recipe.get("rewards", {}).items()
        if isinstance(reward, Mapping)
    }
    summary = ", ".join(f"{name} × {weight:g}" for name, weight in weights.items())
    return section(
        "Recipe",
        element(
            "div",
            fold("Every field, as it ran", element("pre", element("code", text.rstrip("\n")))),
            class_="folds",
        ),
        note=f"Rewards: {summary}." if summary else "",
    )
