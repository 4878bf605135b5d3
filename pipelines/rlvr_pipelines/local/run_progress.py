"""The progress of a run: its events, folded into the state of each step. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rlvr_trainer.phases import TITLES

Event = Mapping[str, Any]
State = Literal["pending", "running", "done", "reused", "stopped", "failed"]

STATES: Mapping[str, State] = {
    "started": "running",
    "finished": "done",
    "failed": "failed",
    "reused": "reused",
}
NUM_TIMED_STEPS = 8
SPLITS = ("train", "validation", "test")


@dataclass
class StepProgress:
    """The progress of a step of the pipeline."""

    title: str
    state: State = "pending"
    started: float = 0.0
    ended: float = 0.0
    done: int = 0
    """The number of optimizer steps or rows that are done."""
    total: int = 0
    numbers: dict[str, Any] = field(default_factory=dict)
    """The numbers of the newest event."""
    _times: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=NUM_TIMED_STEPS))

    def seconds(self, now: float) -> float:
        """Return how long the step ran, or has been running."""
        match self.state:
            case "pending" | "reused":
                return 0.0
            case "running":
                return max(0.0, now - self.started)
            case _:
                return self.ended - self.started

    def seconds_left(self, now: float) -> float | None:
        """Return an estimate from the last few optimizer steps or batches; None before two."""
        if self.state != "running" or len(self._times) < 2:
            return None
        (first, since), (last, until) = self._times[0], self._times[-1]
        if last <= first:
            return None
        pace_s = (until - since) / (last - first)
        return max(0.0, pace_s * (self.total - last) - (now - until))

    def start(self, time: float) -> None:
        """Begin, or begin again."""
        self.state, self.started, self.done, self.numbers = "running", time, 0, {}
        self._times.clear()
        self._times.append((0, time))

    def advance(self, time: float, done: int, total: int) -> None:
        """Record that `done` of `total` are done."""
        if not self.done and len(self._times) == 1:
            # Until now the model was loaded, or an earlier attempt's steps were skipped.
            self._times.clear()
        self.done, self.total = done, total
        self._times.append((done, time))


class RunProgress:
    """The progress of each step of a run."""

    def __init__(self, phases: Iterable[str] = TITLES) -> None:
        self.steps = {phase: StepProgress(TITLES[phase]) for phase in phases}
        self.failure: Event | None = None
        """The newest failure since a step began; a failure of `finish` replaces no other."""

    def update(self, event: Event) -> bool:
        """Apply one event; return False for an event that is ignored.

        A step that has not started cannot advance or finish: a process of an earlier attempt wrote
        such an event.
        """
        kind, time, state = event.get("event"), float(event.get("time") or 0), event.get("state")
        if kind == "remark":
            return True
        if kind == "failure":
            if not self.failure or event.get("phase") != "finish":
                self.failure = event
            return True
        of_training = kind in ("step", "checkpoint")
        step = self.steps.get("train" if of_training else str(event.get("phase")))
        if step is None or (kind == "phase" and state not in STATES):
            return False
        if kind == "phase" and state in ("started", "reused"):
            self.failure = None
        elif step.state != "running":
            return False
        if kind == "phase":
            if state == "started":
                step.start(time)
            else:
                step.state, step.ended = STATES[str(state)], time
                if event.get("preempted"):
                    step.state = "stopped"
                step.numbers |= event
        elif kind == "step":
            step.advance(time, int(event["step"]), int(event.get("max_steps") or 0))
            step.numbers = dict(event)
        elif kind == "evaluation" and event["phase"] != "train":
            step.advance(time, int(event.get("done") or 0), int(event.get("total") or 0))
            step.numbers = dict(event)
        return True

    @property
    def running(self) -> StepProgress | None:
        """The step that is running."""
        return next((step for step in self.steps.values() if step.state == "running"), None)

    def end(self, time: float, state: State = "failed") -> None:
        """End the steps that are running, since the run has ended."""
        for step in self.steps.values():
            if step.state == "running":
                step.state, step.ended = state, time

    @property
    def step_seconds(self) -> float:
        """The duration of the last optimizer step; 0 before the first."""
        return float(self.steps["train"].numbers.get("step_time") or 0)


def describe_numbers(numbers: Event) -> str:
    """Return the numbers of an event that are shown: `reward 0.61  format 0.35  …`."""
    parts = []
    if "step" in numbers:
        parts += [
            f"{label} {numbers[key]:.2f}"
            for key, label in _rewards(numbers)
            if isinstance(numbers.get(key), int | float)
        ]
        for key, text in (
            ("completions/mean_length", "length {:.0f}"),
            ("tokens_per_second", "{:.0f} tok/s"),
        ):
            if isinstance(numbers.get(key), int | float):
                parts.append(text.format(numbers[key]))
    elif "accuracy" in numbers:
        parts += [
            f"{name} {100 * numbers[name]:.1f} %"
            for name in ("accuracy", "format")
            if isinstance(numbers.get(name), int | float)
        ]
    elif isinstance(numbers.get("counts"), Mapping):
        counts = numbers["counts"]
        rows = [f"{counts[name]:,} {name}" for name in SPLITS if name in counts]
        parts += [", ".join(rows) + " rows"] if rows else []
        if counts.get("quarantined"):
            reasons = _counted(numbers.get("quarantined"))
            parts.append(f"{counts['quarantined']:,} quarantined" + (reasons and f" ({reasons})"))
        for split, oddities in (numbers.get("oddities") or {}).items():
            parts.append(f"{split}: {_counted(oddities)}")
    return "  ".join(parts)


def _counted(numbers: Any) -> str:
    """Return `duplicate 2, malformed 1`; empty if there is nothing."""
    return ", ".join(f"{name} {number:,}" for name, number in (numbers or {}).items())


def _rewards(numbers: Event) -> list[tuple[str, str]]:
    named = [
        (key, key.removeprefix("rewards/").removesuffix("/mean").replace("correctness", "correct"))
        for key in numbers
        if key.startswith("rewards/") and key.endswith("/mean")
    ]
    return [("reward", "reward"), *named]


def clock(seconds: float) -> str:
    """Format a duration: `4.1 s`, `2 min 05 s`, `1 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
