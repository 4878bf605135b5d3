from collections.abc import Iterator

import pytest

from rlvr_pipelines.cluster.merge_lines import merge_lines


def test_each_line_stands_after_its_streams_name() -> None:
    merged = sorted(merge_lines({"train": iter(["a", "b"]), "evaluate": iter(["c"])}))

    assert merged == ["evaluate  c", "train     a", "train     b"]


def test_a_streams_own_order_is_kept() -> None:
    lines = [str(number) for number in range(5000)]

    assert [line.split()[1] for line in merge_lines({"x": iter(lines)})] == lines


def test_no_streams_have_no_lines() -> None:
    assert list(merge_lines({})) == []


def test_an_error_of_a_stream_reaches_the_reader() -> None:
    def broken() -> Iterator[str]:
        yield "one"
        raise ValueError("gone")

    with pytest.raises(ValueError, match="gone"):
        list(merge_lines({"x": broken(), "y": iter(["two"])}))
