from pathlib import Path

import pytest

from rlvr_pipelines.sweep import Sweep, parse_sweep
from rlvr_trainer.errors import ConfigError


def test_a_sweep_is_a_field_and_its_values() -> None:
    sweep = parse_sweep("prompt.num_shots=0, 2,4")

    assert sweep == Sweep("prompt.num_shots", ("0", "2", "4"))
    assert sweep.override("2") == "prompt.num_shots=2"
    assert sweep.run_dir(Path("runs/x"), "2") == Path("runs/x/prompt.num_shots=2")


def test_a_value_with_a_slash_stays_one_directory() -> None:
    sweep = parse_sweep("model.name=/models/a,/models/b")

    assert sweep.run_dir(Path("runs"), "/models/a").parent == Path("runs")


@pytest.mark.parametrize("text", ["seed", "seed=", "=1,2", "seed=1,,2"])
def test_a_sweep_without_values_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.field=V1,V2"):
        parse_sweep(text)


def test_a_value_is_swept_once() -> None:
    with pytest.raises(ConfigError, match="a value twice"):
        parse_sweep("seed=1,2,1")
