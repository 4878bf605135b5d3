"""Test a model step as a job; a fake replaces the cluster and its pods."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr_components.jobs import JobSpec, Owner, cluster, launching
from rlvr_components.pipeline_run import LaunchSettings, write_settings
from rlvr_components.platform.settings import Platform
from rlvr_components.steps import remote_step
from rlvr_components.steps.model_steps import evaluate, train
from rlvr_components.steps.remote_step import EventCopy, evaluation_key
from rlvr_trainer import data
from rlvr_trainer.errors import ConfigError, DataError, JobFailed
from rlvr_trainer.evaluation.outcome import sample_lines
from rlvr_trainer.evaluation.shards import Shard, batches
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.trajectory import training_hash
from rlvr_trainer.storage import open_storage
from rlvr_trainer.variables import ADAPTER_URI_VARIABLE

RECIPE = load_recipe(
    "arithmetic", ["data.num_train_rows=40", "data.num_test_rows=6", "evaluation.batch_size=2"]
)
PLATFORM = Platform(image="r.example/t@sha256:0", num_nodes=2, max_attempts=3)


class Artifact:
    """A fake of KFP's artifact, as far as a step uses it."""

    def __init__(self, path: Path, uri: str = "") -> None:
        self.path = str(path)
        self.uri = uri or str(path)
        self.metadata: dict[str, Any] = {}


class Pods:
    """A fake of `launch` that records the jobs and writes what their pods would."""

    def __init__(self) -> None:
        self.specs: list[JobSpec] = []
        self.act: Callable[[JobSpec], None] = lambda spec: None

    def launch(
        self, backend: Any, spec: JobSpec, prepare: Callable[[JobSpec], JobSpec], **_: Any
    ) -> None:
        spec = prepare(spec)
        self.specs.append(spec)
        self.act(spec)


@pytest.fixture
def pods(monkeypatch: pytest.MonkeyPatch) -> Pods:
    pods = Pods()
    monkeypatch.setattr(launching, "launch", pods.launch)
    monkeypatch.setattr(cluster, "open_backend", lambda place, platform, **_: (place, platform))
    monkeypatch.setenv("RLVR_RUN_ID", "run-1")
    monkeypatch.delenv("RLVR_EVENTS", raising=False)
    return pods


@pytest.fixture
def storage(tmp_path: Path) -> str:
    folder = open_storage(tmp_path / "storage" / "run-1")
    write_settings(folder, LaunchSettings("pytorchjob", "arithmetic", PLATFORM))
    return str(tmp_path / "storage")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    data.prepare(RECIPE, tmp_path / "data", count_tokens=len)
    return tmp_path / "data"


def samples_of(shard: Shard, data_dir: Path) -> list[dict[str, Any]]:
    rows = data.load_rows(data_dir, "test")
    return [
        {
            "model": "before",
            "shots": shots,
            "id": row,
            "sample": sample,
            "greedy": greedy,
            "question": "",
            "answer": "1",
            "completion": "1",
            "extracted": "1",
            "format": True,
            "correct": row == "test-0",
            "flexible": True,
            "num_tokens": 1,
        }
        for batch in shard.of(batches(RECIPE, rows))
        for shots, greedy, row, sample in batch.keys
    ]


def write_parts(data_dir: Path, *parts: Shard) -> Callable[[JobSpec], None]:
    def act(spec: JobSpec) -> None:
        run_dir = open_storage(spec.run_dir)
        for part in parts:
            run_dir.write_bytes(part.key, sample_lines(samples_of(part, data_dir)).encode())

    return act


def evaluate_base(storage: str, data_dir: Path, tmp_path: Path) -> dict[str, float]:
    return evaluate(
        "evaluate-base",
        RECIPE,
        data_dir,
        tmp_path / "samples",
        place="pytorchjob",
        storage=storage,
    )


def test_an_evaluation_is_launched_on_all_nodes_and_its_parts_are_joined(
    pods: Pods, storage: str, data_dir: Path, tmp_path: Path
) -> None:
    pods.act = write_parts(data_dir, Shard(1, 2), Shard(0, 2))

    shares = evaluate_base(storage, data_dir, tmp_path)

    assert shares["accuracy"] == pytest.approx(1 / 6)
    lines = (tmp_path / "samples" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"test-{i}" for i in range(6)]
    (spec,) = pods.specs
    run_dir = f"{storage}/run-1/evaluate-base/{evaluation_key(RECIPE, data_dir)}"
    assert spec.command[:8] == (
        *("python", "-m", "rlvr_trainer", "launch", "--run", run_dir),
        *("--max-attempts", "3"),
    )
    command = spec.command[spec.command.index("--") + 1 :]
    assert command == (
        *("python", "-m", "rlvr_trainer", "evaluate", "--label", "before"),
        *("--shards-per-node", "1"),
    )
    assert (spec.step, spec.run_id, spec.resources.num_nodes) == ("evaluate-base", "run-1", 2)
    assert open_storage(run_dir).exists("data/manifest.json")


def test_a_job_that_left_a_part_out_is_not_a_result(
    pods: Pods, storage: str, data_dir: Path, tmp_path: Path
) -> None:
    pods.act = write_parts(data_dir, Shard(0, 2))

    with pytest.raises(ConfigError, match=r"shard-1-of-2\.jsonl does not exist"):
        evaluate_base(storage, data_dir, tmp_path)

    assert not (tmp_path / "samples").exists()


def test_parts_of_other_rows_are_not_a_result(
    pods: Pods, storage: str, data_dir: Path, tmp_path: Path
) -> None:
    def act(spec: JobSpec) -> None:
        write_parts(data_dir, Shard(0, 2))(spec)
        twice = sample_lines(samples_of(Shard(0, 2), data_dir))
        open_storage(spec.run_dir).write_bytes(Shard(1, 2).key, twice.encode())

    pods.act = act

    with pytest.raises(DataError, match="samples are missing"):
        evaluate_base(storage, data_dir, tmp_path)


def test_pods_read_the_adapter_where_it_is_or_else_a_copy(
    pods: Pods, storage: str, data_dir: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "weights").write_text("learnt")

    def adapter_of(artifact: Artifact) -> str:
        pods.act = write_parts(data_dir, *Shard(0, 2).all)
        evaluate(
            "evaluate-trained",
            RECIPE,
            data_dir,
            tmp_path / "samples",
            place="pytorchjob",
            storage=storage,
            adapter=artifact,
        )
        command = pods.specs[-1].command
        return command[command.index("--adapter") + 1]

    copy = adapter_of(Artifact(adapter, "minio://mlpipeline/adapter"))
    assert open_storage(copy).read_bytes("weights") == b"learnt"

    folder = open_storage(f"{storage}/run-1")
    folder.write_bytes("adapter/weights", b"learnt")
    trained = f"{storage}/run-1/adapter"
    assert adapter_of(Artifact(adapter, "minio://mlpipeline/adapter")) == trained

    write_settings(
        folder, LaunchSettings("pytorchjob", "arithmetic", PLATFORM, writes_artifacts=True)
    )
    assert adapter_of(Artifact(adapter, "s3://bucket/adapter")) == "s3://bucket/adapter"
    assert adapter_of(Artifact(adapter, "gs://bucket/adapter")) == trained


def write_training(spec: JobSpec) -> None:
    run_dir = open_storage(spec.run_dir)
    uri = spec.env.get(ADAPTER_URI_VARIABLE)
    if uri:
        open_storage(uri).write_bytes("weights", b"learnt")
    else:
        run_dir.write_bytes("adapter/weights", b"learnt")
    event = {"time": 1.0, "event": "step", "step": 5, "reward": 0.5}
    run_dir.write_bytes("metrics.jsonl", json.dumps(event).encode() + b"\n")


def train_to(artifact: Artifact, storage: str, data_dir: Path, tmp_path: Path) -> dict[str, float]:
    return train(
        RECIPE, data_dir, artifact, tmp_path / "history", place="pytorchjob", storage=storage
    )


def test_a_training_gives_its_adapter_its_history_and_its_numbers(
    pods: Pods, storage: str, data_dir: Path, tmp_path: Path
) -> None:
    pods.act = write_training
    artifact = Artifact(tmp_path / "adapter")

    assert train_to(artifact, storage, data_dir, tmp_path) == {"steps": 5.0, "reward": 0.5}

    assert (tmp_path / "adapter" / "weights").read_text() == "learnt"
    assert json.loads((tmp_path / "history").read_text())["step"] == 5
    assert artifact.metadata["recipe_hash"] == RECIPE.hash
    (spec,) = pods.specs
    assert (spec.run_dir, spec.recipe_hash) == (f"{storage}/run-1", training_hash(RECIPE))
    assert "--" not in spec.command


def test_pods_write_the_adapter_to_its_artifact(
    pods: Pods,
    storage: str,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        remote_step.Site, "adapter_uri", lambda self, uri: str(tmp_path / "artifact")
    )
    pods.act = write_training

    train_to(Artifact(tmp_path / "adapter"), storage, data_dir, tmp_path)

    assert (tmp_path / "artifact" / "weights").is_file()
    assert not (tmp_path / "adapter").exists()  # nothing for KFP's launcher to send again


@pytest.mark.parametrize(("is_kubeflow", "named"), [(True, "run-1"), (False, "arithmetic")])
def test_a_succeeded_job_without_results_says_how_to_run_it_again(
    pods: Pods,
    storage: str,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_kubeflow: bool,
    named: str,
) -> None:
    monkeypatch.setattr(remote_step, "in_kubeflow", lambda: is_kubeflow)
    monkeypatch.setattr(remote_step, "_owner", lambda namespace: None)

    # not a PlatformError, which is retried: every retry would adopt the same job
    with pytest.raises(ConfigError, match=f"has no adapter.*`rlvr clean {named}`"):
        train_to(Artifact(tmp_path / "adapter"), storage, data_dir, tmp_path)


def test_the_jobs_own_cause_is_the_steps(
    pods: Pods,
    storage: str,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    events_file: Path,
) -> None:
    def fail(spec: JobSpec) -> None:
        raise JobFailed("OOMKilled at 16 GiB", exit_code=9)

    pods.act = fail

    with pytest.raises(JobFailed, match="OOMKilled"):
        train_to(Artifact(tmp_path / "adapter"), storage, data_dir, tmp_path)

    states = [json.loads(line)["state"] for line in events_file.read_text().splitlines()]
    assert states == ["started", "failed"]


def test_without_the_settings_of_the_check_step_nothing_is_launched(
    pods: Pods, data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="has no launch settings"):
        evaluate_base(str(tmp_path / "elsewhere"), data_dir, tmp_path)

    assert pods.specs == []


def test_in_kubeflow_the_workflow_takes_the_job_with_it(
    pods: Pods,
    storage: str,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = Owner("argoproj.io/v1alpha1", "Workflow", "rlvr-x", "uid")
    monkeypatch.setattr(remote_step, "_owner", lambda namespace: owner)
    pods.act = write_training

    train_to(Artifact(tmp_path / "adapter"), storage, data_dir, tmp_path)

    assert pods.specs[0].owner == owner


@pytest.mark.parametrize("is_kubeflow", [True, False])
def test_kubeflows_retries_do_not_count_as_starting_again_by_hand(
    pods: Pods,
    storage: str,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_kubeflow: bool,
) -> None:
    monkeypatch.setattr(remote_step, "in_kubeflow", lambda: is_kubeflow)
    monkeypatch.setattr(remote_step, "_owner", lambda namespace: None)
    pods.act = write_training

    train_to(Artifact(tmp_path / "adapter"), storage, data_dir, tmp_path)

    assert pods.specs[0].is_automatic == is_kubeflow


def test_a_local_copy_of_the_events_has_each_of_them_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    step = {"time": 1.0, "event": "step", "step": 1}
    path.write_text(json.dumps(step) + "\n")

    copy = EventCopy(path)
    for event in (step, {"time": 2.0, "event": "step", "step": 2}, {"event": "phase"}):
        copy.add(event)
        copy.add(event)

    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
