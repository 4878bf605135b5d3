import io
from typing import Any

from rlvr_pipelines.local.display import LineDisplay, LiveDisplay, open_display
from rlvr_pipelines.local.run_progress import RunProgress

NUMBERS = {"reward": 0.61, "rewards/format/mean": 0.35, "tokens_per_second": 212.0}
EVENTS: list[dict[str, Any]] = [
    {"event": "phase", "phase": "prepare", "state": "reused", "time": 100},
    {"event": "phase", "phase": "evaluate-base", "state": "started", "time": 100},
    {"event": "phase", "phase": "evaluate-base", "state": "finished", "time": 131,
     "accuracy": 0.045, "format": 0.1},
    {"event": "phase", "phase": "train", "state": "started", "time": 131},
    {"event": "step", "step": 6, "max_steps": 20, "time": 150, **NUMBERS},
    {"event": "step", "step": 7, "max_steps": 20, "time": 160, **NUMBERS},
    {"event": "checkpoint", "step": 7, "time": 160, "path": "/run/checkpoints/step-7"},
    {"event": "evaluation", "phase": "train", "step": 7, "time": 161, "done": 8, "total": 8,
     "accuracy": 0.5, "format": 1.0},
]  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(events: list[dict[str, Any]]) -> str:
    stream, progress = io.StringIO(), RunProgress()
    with open_display(stream, progress, "the run") as display:
        for event in events:
            progress.update(event)
            display.show(event)
    return stream.getvalue()


def test_lines_where_there_is_no_terminal() -> None:
    lines = [line[10:] if line[2:3] == ":" else line for line in written(EVENTS).splitlines()]

    assert lines == [
        "the run",
        "Prepare data            reused from the earlier attempt",
        "Evaluate base model     started",
        "Evaluate base model     finished after 31 s  accuracy 4.5 %  format 10.0 %",
        "Train                   started",
        "Train                   step 6/20  reward 0.61  format 0.35  212 tok/s",
        "Train                   step 7/20  reward 0.61  format 0.35  212 tok/s  2 min 10 s left",
        "Train                   checkpoint of step 7 committed",
        "Train                   validation at step 7: 8/8 rows  accuracy 50.0 %  format 100.0 %",
    ]


def test_a_remark_is_written_as_a_note_above_a_table_too() -> None:
    remark = {"event": "remark", "time": 100, "message": "a reward is earned by nothing"}
    assert written([remark]).endswith("note: a reward is earned by nothing\n")
    stream, progress = Terminal(), RunProgress()
    with LiveDisplay(stream, progress, "the run") as display:
        display.show(remark)
    assert "note: a reward is earned by nothing" in stream.getvalue()


def test_a_long_evaluation_takes_a_few_lines() -> None:
    batches = [
        {"event": "evaluation", "phase": "evaluate-base", "time": i, "done": i, "total": 1000}
        for i in range(0, 1001, 10)
    ]

    assert 5 <= written(batches).count("rows") <= 7


def test_a_terminal_gets_a_live_table() -> None:
    assert isinstance(open_display(Terminal(), RunProgress(), ""), LiveDisplay)
    assert isinstance(open_display(io.StringIO(), RunProgress(), ""), LineDisplay)


def test_the_live_table_shows_every_step_and_where_training_is() -> None:
    from rich.console import Console

    progress = RunProgress()
    for event in EVENTS:
        progress.update(event)
    display = LiveDisplay(Terminal(), progress, "the run", now=lambda: 165.0)
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(display.render())

    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    bar = lines[3]
    assert lines == [
        "the run",
        "✓ Prepare data reused",
        "✓ Evaluate base model 31 s accuracy 4.5 % format 10.0 %",
        bar,
        "reward 0.61 format 0.35 212 tok/s",
        "○ Evaluate trained model",
        "○ Compare and report",
    ]
    assert bar.startswith("● Train 34 s ━━━")
    assert bar.endswith("7/20, 2 min 05 s left")


def test_the_live_table_fits_a_narrow_terminal() -> None:
    from rich.console import Console

    progress = RunProgress()
    for event in EVENTS:
        progress.update(event)
    display = LiveDisplay(Terminal(), progress, "the run", now=lambda: 165.0)
    console = Console(file=io.StringIO(), width=60, record=True)
    console.print(display.render())

    assert max(map(len, console.export_text().splitlines())) <= 60


def test_messages_appear_on_a_terminal() -> None:
    stream = Terminal()
    with open_display(stream, RunProgress(), "the run") as display:
        display.say("Stopping: [1/2]")

    assert "Stopping: [1/2]" in stream.getvalue()
