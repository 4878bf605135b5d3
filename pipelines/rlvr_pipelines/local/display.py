"""Show the progress of a run: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TextIO

from rlvr_pipelines.local.run_progress import Event, RunProgress, clock, describe_numbers
from rlvr_trainer.phases import TITLES

if TYPE_CHECKING:
    from rich.console import RenderableType

SYMBOLS = {
    "pending": "○", "running": "●", "done": "✓", "reused": "✓", "stopped": "■", "failed": "✗",
}  # fmt: skip
STYLES = {
    "pending": "dim", "running": "bold cyan", "done": "green", "reused": "green",
    "stopped": "yellow", "failed": "red",
}  # fmt: skip
REFRESHES_PER_SECOND = 4
LINES_PER_EVALUATION = 5


class LineDisplay:
    """One line for each event that is of interest."""

    def __init__(self, stream: TextIO, progress: RunProgress, heading: str) -> None:
        self._stream = stream
        self._progress = progress
        self._heading = heading
        self._shown: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.say(self._heading)
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def show(self, event: Event) -> None:
        """Write the event's line, if it has one."""
        text = event_line(event, self._progress)
        if text and not self._too_often(event):
            stamp = time.strftime("%H:%M:%S", time.localtime(float(event["time"])))
            self.say(f"{stamp}  {text}")

    def say(self, message: str) -> None:
        """Write the message."""
        print(message, file=self._stream, flush=True)

    def _too_often(self, event: Event) -> bool:
        """Return True for all but a few of the events that an evaluation emits, one a batch."""
        total = event.get("total")
        if event["event"] != "evaluation" or event["phase"] == "train" or not total:
            return False
        part = LINES_PER_EVALUATION * int(event.get("done") or 0) // int(total)
        if self._shown.get(event["phase"]) == part:
            return True
        self._shown[event["phase"]] = part
        return False


def event_line(event: Event, progress: RunProgress) -> str:
    """Return an event as one line of text; empty for an event that is not shown."""
    match event.get("event"):
        case "phase":
            return _phase_line(event, progress)
        case "step":
            step = progress.steps.get("train")
            left = step.seconds_left(float(event["time"])) if step else None
            text = f"step {event['step']}/{event.get('max_steps')}  {describe_numbers(event)}"
            return _line("train", text + (f"  {clock(left)} left" if left else ""))
        case "evaluation":
            numbers = {key: value for key, value in event.items() if key != "step"}
            at = f"validation at step {event['step']}: " if "step" in event else ""
            return _line(event["phase"], f"{at}{event.get('done')}/{event.get('total')} rows  "
                         f"{describe_numbers(numbers)}")  # fmt: skip
        case "checkpoint":
            return _line("train", f"checkpoint of step {event.get('step')} committed")
        case "remark":
            return f"note: {event.get('message')}"
        case _:
            return ""


def _phase_line(event: Event, progress: RunProgress) -> str:
    step = progress.steps.get(event["phase"])
    if step is None:
        return ""
    match event["state"]:
        case "finished" | "failed":
            facts = describe_numbers(event)
            state = "stopped" if step.state == "stopped" else event["state"]
            text = f"{state} after {clock(step.seconds(step.ended))}"
            return _line(event["phase"], text + (f"  {facts}" if facts else ""))
        case "reused":
            return _line(event["phase"], "reused from the earlier attempt")
        case state:
            return _line(event["phase"], str(state))


def _line(phase: str, text: str) -> str:
    width = max(map(len, TITLES.values()))
    return f"{TITLES.get(phase, phase):<{width}}  {text}".rstrip()


class LiveDisplay:
    """A table of all steps, drawn several times a second."""

    def __init__(
        self,
        stream: TextIO,
        progress: RunProgress,
        heading: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream, highlight=False)
        self._progress = progress
        self._heading = heading
        self._now = now
        self._live = Live(
            get_renderable=self.render,
            console=self._console,
            refresh_per_second=REFRESHES_PER_SECOND,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        """Print a remark above the table, which is drawn from the progress."""
        if event.get("event") == "remark":
            self.say(event_line(event, self._progress))

    def say(self, message: str) -> None:
        """Print above the table."""
        self._live.console.print(message, markup=False)

    def render(self) -> RenderableType:
        """Return the table for the current progress."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(min_width=max(map(len, TITLES.values())), no_wrap=True)
        table.add_column(min_width=11, justify="right", no_wrap=True)
        table.add_column(ratio=1)
        now = self._now()
        for step in self._progress.steps.values():
            style = STYLES[step.state]
            match step.state:
                case "pending":
                    took = ""
                case "reused":
                    took = "reused"
                case _:
                    took = clock(step.seconds(now))
            facts: list[RenderableType] = []
            if step.state == "running" and step.total:
                facts.append(_bar(step.done, step.total, step.seconds_left(now)))
            numbers = describe_numbers(step.numbers)
            if step.state in ("stopped", "failed") and step.total:
                numbers = f"{step.done:,}/{step.total:,}  {numbers}"
            if numbers:
                facts.append(Text(numbers, style="" if step.state == "running" else "dim"))
            table.add_row(
                Text(SYMBOLS[step.state], style=style),
                Text(step.title, style=style),
                Text(took),
                Group(*facts),
            )
        return Group(Text(self._heading, style="bold"), table)


Display = LineDisplay | LiveDisplay
"""Shows a run's progress within its context."""


def open_display(stream: TextIO, progress: RunProgress, heading: str) -> Display:
    """Return the display for a stream: live if it is a terminal."""
    if stream.isatty():
        return LiveDisplay(stream, progress, heading)
    return LineDisplay(stream, progress, heading)


def _bar(done: int, total: int, seconds_left: float | None) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 1))
    left = f", {clock(seconds_left)} left" if seconds_left else ""
    bar = ProgressBar(total=total, completed=done, width=24)
    row.add_row(bar, Text(f"{done:,}/{total:,}{left}"))
    return row
