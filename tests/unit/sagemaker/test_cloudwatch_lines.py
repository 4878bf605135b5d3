"""Read log streams from scripted answers of CloudWatch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlvr_components.sagemaker.aws_errors import JobMissing
from rlvr_components.sagemaker.cloudwatch_lines import CloudWatchLines, host_of


class Scripted:
    """A fake of AwsApi: streams in pages, and for each token of a stream its page."""

    def __init__(self, streams: list[list[str]], pages: dict[str, tuple[list[str], str]]) -> None:
        self.streams = streams
        self.pages_of = pages

    def pages(self, service: str, operation: str, subject: str, **_: Any) -> Iterator[Any]:
        if not self.streams:
            raise JobMissing("no group")
        for names in self.streams:
            yield {"logStreams": [{"logStreamName": name} for name in names]}

    def call(self, service: str, operation: str, subject: str, **request: Any) -> dict[str, Any]:
        messages, following = self.pages_of[request.get("nextToken", request["logStreamName"])]
        return {
            "events": [{"message": message} for message in messages],
            "nextForwardToken": following,
        }


def lines(api: Scripted) -> CloudWatchLines:
    return CloudWatchLines(api, "job")  # type: ignore[arg-type]


def test_an_empty_page_is_not_the_end_and_no_line_comes_twice() -> None:
    api = Scripted(
        [["job/algo-1-1"]],
        {"job/algo-1-1": (["a"], "t1"), "t1": ([], "t2"), "t2": (["b\nc"], "t3"), "t3": ([], "t3")},
    )
    reader = lines(api)
    assert list(reader.new_lines()) == ["[algo-1] a", "[algo-1] b", "[algo-1] c"]
    assert list(reader.new_lines()) == []
    api.pages_of["t3"] = (["d"], "t4")
    api.pages_of["t4"] = ([], "t4")
    assert list(reader.new_lines()) == ["[algo-1] d"]


def test_streams_of_all_pages_are_read_and_late_ones_from_their_start() -> None:
    api = Scripted([], {})
    reader = lines(api)
    assert list(reader.new_lines()) == []  # no group yet
    api.streams = [["job/algo-1-1"], ["job/algo-2-1"]]
    api.pages_of = {
        "job/algo-1-1": (["one"], "a"),
        "a": ([], "a"),
        "job/algo-2-1": (["two"], "b"),
        "b": ([], "b"),
    }
    assert list(reader.new_lines()) == ["[algo-1] one", "[algo-2] two"]
    api.streams.append(["job/algo-3-1"])
    api.pages_of |= {"job/algo-3-1": (["three"], "c"), "c": ([], "c")}
    assert list(reader.new_lines()) == ["[algo-3] three"]


def test_a_line_that_was_not_taken_is_read_again() -> None:
    api = Scripted([["job/algo-1-1"]], {"job/algo-1-1": (["a", "b"], "t1"), "t1": ([], "t1")})
    reader = lines(api)
    assert next(reader.new_lines()) == "[algo-1] a"
    assert list(reader.new_lines()) == ["[algo-1] a", "[algo-1] b"]


def test_a_host_is_named_by_its_stream() -> None:
    assert host_of("rlvr-sums-train-1/algo-12-1795880841") == "algo-12"
