import errno
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlvr_components.steps.step_process import log_metrics, step
from rlvr_components.workflow import Failure, find_failure
from rlvr_trainer.errors import DataError, JobFailed
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.run_dir.events import read_events
from rlvr_trainer.variables import EVENTS_VARIABLE

RECIPE = parse_recipe(
    {"name": "tiny", "model": {"name": "embedded:smollm2-135m-instruct"}}
).model_dump_json()


def failure_in(events_file: Path) -> dict[str, object]:
    (failure,) = read_events(events_file)
    assert failure.pop("event") == "failure"
    assert failure.pop("time")
    return failure


def test_a_step_gets_the_parsed_recipe(events_file: Path) -> None:
    with step("train", RECIPE) as recipe:
        assert recipe.name == "tiny"

    assert not events_file.exists()


def test_a_training_that_was_stopped_has_not_failed(events_file: Path) -> None:
    with pytest.raises(SystemExit) as ended, step("train", RECIPE):
        raise JobFailed("stopped after a commit", exit_code=143)

    assert ended.value.code == 143
    assert not events_file.exists()


def test_an_error_ends_the_process_with_its_code_and_leaves_its_message(events_file: Path) -> None:
    with pytest.raises(SystemExit) as ended, step("prepare", RECIPE):
        raise DataError("row 5,000 is broken")

    assert ended.value.code == 3
    assert failure_in(events_file) == {
        "phase": "prepare",
        "message": "row 5,000 is broken",
        "exit_code": 3,
    }


def test_an_invalid_recipe_is_a_configuration_error(events_file: Path) -> None:
    with pytest.raises(SystemExit) as ended, step("train", '{"name": "tiny"}'):
        pytest.fail("the body must not run")

    assert ended.value.code == 2
    assert "model: missing" in str(failure_in(events_file)["message"])


def test_an_unexpected_error_has_its_traceback_in_the_log(
    events_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, step("train", RECIPE):
        raise KeyError("lost")

    assert ended.value.code == 1
    assert "unexpected KeyError: 'lost'" in str(failure_in(events_file)["message"])
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_retryable(events_file: Path) -> None:
    with pytest.raises(SystemExit) as ended, step("train", RECIPE):
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/x")

    assert ended.value.code == 138
    assert str(failure_in(events_file)["message"]).startswith("/runs/x cannot be written")


def test_a_failure_is_reported_even_if_it_cannot_be_recorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(EVENTS_VARIABLE, "/no/such/folder/metrics.jsonl")

    with pytest.raises(SystemExit), step("train", RECIPE):
        raise DataError("row 5,000 is broken")

    assert "error: row 5,000 is broken" in capsys.readouterr().err


def test_in_kubeflow_the_cause_has_its_exit_code_since_kfps_launcher_ends_with_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "step-1")

    with pytest.raises(SystemExit), step("train", RECIPE):
        raise DataError("row 5,000 is broken")

    written = capsys.readouterr()
    assert find_failure(written.err) == Failure("row 5,000 is broken", 3)


def test_a_step_logs_nothing_of_each_request_to_a_storage() -> None:
    with step("train", RECIPE):
        assert logging.getLogger("botocore.credentials").getEffectiveLevel() == logging.WARNING


def test_metrics_are_logged_and_exist_as_a_file(tmp_path: Path) -> None:
    logged: dict[str, float] = {}
    metrics = SimpleNamespace(path=str(tmp_path / "metrics"), log_metric=logged.__setitem__)

    log_metrics(metrics, {"accuracy": 0.5, "rows": 3, "name": "no number"})

    assert logged == {"accuracy": 0.5, "rows": 3.0}
    assert json.loads((tmp_path / "metrics").read_text()) == logged
