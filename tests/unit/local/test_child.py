"""Run the steps in this process, with a fake of the trainer's."""

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from rlvr_components.steps import model_steps
from rlvr_components.steps.check_step import Checked
from rlvr_pipelines.local import child
from rlvr_pipelines.local.child import LocalSteps, main
from rlvr_pipelines.local.claim import claim
from rlvr_trainer.errors import JobFailed
from rlvr_trainer.recipe.parts import recipe_part
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.events import read_events
from rlvr_trainer.run_dir.layout import RunDir

FAKE = Path(__file__).parents[2] / "fake_trainer" / "fake_steps.py"
ALL = ("prepare", "evaluate-base", "train", "evaluate-trained", "report")


@pytest.fixture
def steps(
    tmp_path: Path, events_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalSteps]:
    spec = spec_from_file_location("fake_steps", FAKE)
    assert spec is not None
    assert spec.loader is not None
    fake = module_from_spec(spec)
    spec.loader.exec_module(fake)
    for module in (child, model_steps):
        monkeypatch.setattr(module, "api", fake)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    handler = signal.getsignal(signal.SIGTERM)
    with claim(tmp_path, recipe()) as claimed:
        claimed.run_dir.pipeline.mkdir()
        yield LocalSteps(claimed.run_dir, "local", checked(recipe()))
    signal.signal(signal.SIGTERM, handler)


def recipe(*overrides: str) -> Recipe:
    return load_recipe(str(FAKE.parents[1] / "tiny.yaml"), overrides)


def checked(recipe: Recipe) -> Checked:
    return Checked(
        recipe=recipe,
        data_recipe=recipe_part(recipe, "prepare"),
        base_recipe=recipe_part(recipe, "evaluate-base"),
        data_identity="rows",
        storage="",
        job_image="",
        reuse_key="",
        plan="",
    )


def states(steps: LocalSteps, of: LocalSteps | None = None) -> list[str]:
    """Run the steps; return `PHASE STATE` of all phase events but the last of each."""
    events = steps.run_dir.events
    events.unlink(missing_ok=True)
    (of or steps).run()
    return [
        f"{event['phase']} {event['state']}"
        for event in read_events(events)
        if event["event"] == "phase" and event["state"] != "finished"
    ]


def reused(*phases: str) -> list[str]:
    return [f"{phase} {'reused' if phase in phases else 'started'}" for phase in ALL]


def test_a_step_is_skipped_when_its_output_carries_the_same_key(steps: LocalSteps) -> None:
    assert states(steps) == reused()
    assert steps.run_dir.evaluation.is_file()

    assert states(steps) == reused("prepare", "evaluate-base", "train", "evaluate-trained")


def test_a_longer_training_keeps_the_data_and_the_base_evaluation(steps: LocalSteps) -> None:
    states(steps)
    longer = replace(steps, checked=checked(recipe("training.max_steps=5")))

    assert states(steps, longer) == reused("prepare", "evaluate-base")


def test_outputs_that_depend_on_a_new_output_are_made_again(steps: LocalSteps) -> None:
    states(steps)
    shutil.rmtree(steps.run_dir.data)

    assert states(steps) == reused()


def test_rows_or_an_image_that_changed_are_another_key(steps: LocalSteps) -> None:
    states(steps)
    other_rows = replace(steps, checked=replace(steps.checked, data_identity="other"))
    assert states(steps, other_rows) == reused()

    other_image = replace(other_rows, checked=replace(other_rows.checked, job_image="r/t@sha256:1"))
    assert states(steps, other_image) == reused()


def test_a_step_that_was_cut_short_leaves_no_output(
    steps: LocalSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "prepare:config")
    (steps.run_dir.pipeline / "prepare.tmp").mkdir()  # left by a killed attempt

    with pytest.raises(SystemExit) as ended:
        steps.run()

    assert ended.value.code == 2
    assert not steps.run_dir.data.exists()
    monkeypatch.delenv("FAKE_FAULT")
    assert states(steps) == reused()


def test_a_training_that_a_signal_stopped_has_no_key_and_is_resumed(
    steps: LocalSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit, emitted = child.api.emit, []  # type: ignore[attr-defined]

    def stop_after_a_step(event: str, **fields: Any) -> None:
        emit(event, **fields)
        if event == "step" and not emitted:
            emitted.append(event)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(child.api, "emit", stop_after_a_step)
    with pytest.raises(SystemExit) as ended:
        steps.run()

    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert "failure" not in {event["event"] for event in read_events(steps.run_dir.events)}
    assert states(steps) == reused("prepare", "evaluate-base")


def test_several_gpus_train_in_processes_of_their_own(
    steps: LocalSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = []

    def launch(backend: Any, job: Any) -> None:
        launched.append(job)
        raise JobFailed("enough seen")

    monkeypatch.setattr(child, "launch", launch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")

    with pytest.raises(SystemExit):
        steps.run()

    assert launched[0].command[:4] == ("python", "-m", "rlvr_trainer", "launch")


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch, steps: LocalSteps) -> list[tuple[str, ...]]:
    """Record the calls of `finish` in a run whose model steps run in a cluster."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(child, "_watch_lifeline", lambda: None)
    monkeypatch.setattr(child, "finish", lambda *given: calls.append(given))
    monkeypatch.setattr(child, "check", lambda form, **_: steps.checked)
    return calls


ARGUMENTS = {"job_place": "pytorchjob", "storage_uri": "s3://bucket/runs"}


def test_jobs_are_finished_and_the_outcome_has_the_cause(
    finished: list[tuple[str, ...]], steps: LocalSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise JobFailed("pod 0 ran out of memory", exit_code=138)

    monkeypatch.setattr(model_steps, "evaluate", fail)
    with pytest.raises(SystemExit) as ended:
        main(steps.run_dir, ARGUMENTS)

    assert ended.value.code == 138
    assert finished == [("s3://bucket/runs", "", "FAILED", "pod 0 ran out of memory")]


def test_jobs_are_finished_when_a_signal_ends_the_run(
    finished: list[tuple[str, ...]], steps: LocalSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalSteps, "run", lambda _: os.kill(os.getpid(), signal.SIGTERM))

    with pytest.raises(SystemExit) as ended:
        main(steps.run_dir, ARGUMENTS)
    os.kill(
        os.getpid(), signal.SIGTERM
    )  # a second signal does not interrupt the deletion of the jobs

    assert ended.value.code == 143
    assert finished == [("s3://bucket/runs", "", "FAILED", "")]


def test_the_artifacts_of_jobs_come_into_the_run_directory(
    finished: list[tuple[str, ...]], steps: LocalSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_evaluate = child.api.evaluate

    def evaluate(step: str, recipe: Recipe, data: Path, folder: Path, **given: Any) -> None:
        assert (given["place"], given["adapter"] is None) == ("pytorchjob", step == "evaluate-base")
        adapter = Path(given["adapter"].path) if given["adapter"] else None
        fake_evaluate(
            recipe, data, folder, label="after" if adapter else "before", adapter_dir=adapter
        )

    def train(recipe: Recipe, data: Path, adapter: Any, history: Path, **_: Any) -> None:
        Path(adapter.path).mkdir()
        Path(adapter.path, "weights").write_text("of the cluster")
        history.write_text('{"event": "step", "step": 1}\n')

    monkeypatch.setattr(model_steps, "evaluate", evaluate)
    monkeypatch.setattr(model_steps, "train", train)
    main(steps.run_dir, ARGUMENTS)

    assert finished == [("s3://bucket/runs", "", "SUCCEEDED", "")]
    assert (steps.run_dir.adapter / "weights").read_text() == "of the cluster"
    assert RunDir(steps.run_dir.path).evaluation.is_file()
    assert not steps.run_dir.pipeline.exists()
