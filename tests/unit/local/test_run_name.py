from pathlib import Path

import pytest

from rlvr_pipelines.run_name import parse_run

RUN_ID = "0b1f6d3e-6c7a-4b0e-9f57-0d5f2a9a7c11"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("runs/arithmetic", "local"),
        ("./arithmetic", "local"),
        ("arithmetic", "cluster"),
        ("rlvr-arithmetic-train-0a1b2c3d-1", "cluster"),
        (RUN_ID, "kubeflow"),
        (RUN_ID.upper(), "kubeflow"),
    ],
)
def test_a_run_name_determines_where_the_run_is(
    text: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert parse_run(text).where == where


def test_a_directory_that_is_there_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("arithmetic").mkdir()

    assert parse_run("arithmetic").where == "local"
