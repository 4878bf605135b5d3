from pathlib import Path

import pytest

from rlvr_pipelines.local.sweep import Sweep, parse_sweep
from rlvr_trainer.errors import ConfigError


def test_a_sweep_is_a_field_and_its_values() -> None:
    sweep = parse_sweep("prompt.num_shots=0, 2,4")

    assert sweep == Sweep("prompt.num_shots", ("0", "2", "4"))
    assert sweep.override("2") == "prompt.num_shots=2"
    assert sweep.run_dir(Path("runs/x"), "2") == Path("runs/x/prompt.num_shots=2")


def test_a_value_with_a_slash_stays_one_directory() -> None:
    sweep = parse_sweep("model.name=/models/a,/models/b")

    assert sweep.run_dir(Path("runs"), "/models/a").parent == Path("runs")


def test_no_two_values_share_a_directory() -> None:
    sweep = Sweep("model.name", ())
    values = [
        "a/b",
        "a_b",
        "a%2Fb",
        "a:b",
        "a b",
        "[a]",
        "/a",
        "..",
        *("x" * 300 + y for y in "yz"),
    ]

    folders = [sweep.run_dir(Path("runs"), value) for value in values]

    assert len(set(folders)) == len(values)
    assert all(folder.parent == Path("runs") for folder in folders)
    assert all(len(folder.name) < 200 for folder in folders)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[q_proj,v_proj], [q_proj]", ("[q_proj,v_proj]", "[q_proj]")),
        ("{a: 1, b: 2},{a: 2}", ("{a: 1, b: 2}", "{a: 2}")),
        ("\"Q: {question}, A:\",'x,y'", ('"Q: {question}, A:"', "'x,y'")),
        ("1e-5,2e-5", ("1e-5", "2e-5")),
        ("/models/a,s3://bucket/b", ("/models/a", "s3://bucket/b")),
        ("@a,@b", ("@a", "@b")),
    ],
)
def test_a_comma_within_brackets_or_quotes_belongs_to_its_value(
    text: str, values: tuple[str, ...]
) -> None:
    assert parse_sweep(f"field={text}").values == values


@pytest.mark.parametrize("text", ["seed", "seed=", "=1,2", "seed=1,,2"])
def test_a_sweep_without_values_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.field=V1,V2"):
        parse_sweep(text)


def test_a_value_is_swept_once() -> None:
    with pytest.raises(ConfigError, match="a value twice"):
        parse_sweep("seed=1,2,1")
