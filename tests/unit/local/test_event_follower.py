from pathlib import Path

from rlvr_pipelines.local.event_follower import EventFollower, following


def test_appended_content_is_yielded_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "step", "step": 1}\n')
    follower = EventFollower(tmp_path)
    assert follower.new_events() == []

    with path.open("a") as file:
        file.write('{"event": "step", "step": 2}\n')

    assert follower.new_events() == [{"event": "step", "step": 2}]
    assert follower.new_events() == []


def test_a_line_is_returned_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = EventFollower(tmp_path)
    assert follower.new_events() == []
    path.write_text('{"event": "st')
    assert follower.new_events() == []

    with path.open("a") as file:
        file.write('ep", "step": 1}\n')

    assert follower.new_events() == [{"event": "step", "step": 1}]


def test_lines_that_are_not_events_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = EventFollower(tmp_path)
    path.write_text('oops\n[1]\n{"time": 1}\n{"event": "step"}\n')

    assert follower.new_events() == [{"event": "step"}]


def test_events_are_followed_while_the_body_runs_and_none_is_lost_at_its_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    taken: list[object] = []
    with following(tmp_path, lambda event: taken.append(event["step"])):
        for step in range(3):
            with path.open("a") as file:
                file.write(f'{{"event": "step", "step": {step}}}\n')

    assert taken == [0, 1, 2]
