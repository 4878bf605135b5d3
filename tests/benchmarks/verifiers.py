"""Measure how many completions each verifier judges in a second of one core.

    python tests/benchmarks/verifiers.py

A completion has five lines of working before its answer, at each place in turn. `math` is measured
where its rules decide, and where Math-Verify compares in one worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rlvr_trainer.tables import Table, markdown
from rlvr_trainer.verifiers import (
    AnswerPlace,
    Case,
    Choice,
    Format,
    Json,
    Length,
    Math,
    Number,
    Regex,
    Tags,
    Text,
    Verifier,
)
from rlvr_trainer.verifiers.answer_place import solution_template

NUM_CASES = 5000
NUM_COMPARED = 200
WORKING = "Tom has 12 apples and buys 30 more, 12 + 30 = 42 in all.\n" * 5
CITIES = ["Rome", "Paris", "Oslo", "New York"]
SAMPLES: list[tuple[str, Verifier, dict[str, Any]]] = [
    ("number", Number(), {"answer": "42"}),
    ("text", Text(), {"answer": "Paris"}),
    ("choice", Choice(), {"answer": "B", "choices": CITIES}),
    ("math, decided by its rules", Math(), {"answer": "\\frac{1}{2}"}),
    ("regex", Regex(pattern=r"\d{4}-\d{2}"), {"answer": "2026-11"}),
    ("json, equal", Json(), {"answer": '{"name": "Ann", "age": 7}'}),
    ("json, by a schema", Json(json_schema={"type": "object", "required": ["name"]}),
     {"answer": '{"name": "Ann", "age": 7}'}),
    ("format", Format(), {"answer": "42"}),
    ("tags", Tags(tags=("answer",)), {"answer": "42"}),
    ("length", Length(free_tokens=1000, max_tokens=2000), {"answer": "42"}),
]  # fmt: skip


def main() -> None:
    """Print the table."""
    places = [AnswerPlace(kind) for kind in ("marker", "boxed", "tag", "text")]  # type: ignore[arg-type]
    rows = []
    for name, verifier, row in SAMPLES:
        rates = []
        for place in places:
            template = solution_template(place.kind, place.marker, place.tag, "")
            text = template.format(solution=WORKING, answer=row["answer"])
            cases = [Case(text, row) for _ in range(NUM_CASES)]
            seconds = fastest(lambda v=verifier, c=cases, p=place: v.rewards(c, p))
            rates.append(f"{NUM_CASES / seconds:,.0f}")
        rows.append((name, *rates))
    print(markdown(Table(("Verifier", *(place.kind for place in places)), rows)))
    print(f"\nMath-Verify, one worker: {compared_a_second():,.0f} a second")


def fastest(call: Callable[[], Any], repetitions: int = 5) -> float:
    """Return the shortest CPU time of a call, in seconds."""
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def compared_a_second() -> float:
    """Return the comparisons of Math-Verify in a second of one worker."""
    from rlvr_trainer.verifiers.math import comparison

    compare = comparison()
    pairs = [(f"x + {number}", f"{number} + x") for number in range(NUM_COMPARED)]
    start = time.process_time()
    assert all(compare(*pair) for pair in pairs)
    return NUM_COMPARED / (time.process_time() - start)


if __name__ == "__main__":
    main()
