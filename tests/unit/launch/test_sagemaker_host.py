"""A SageMaker training job's files, as the service lays them out, and what launch makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.launch.exit_causes import End
from rlvr_trainer.launch.operator_environment import Nodes, read_nodes
from rlvr_trainer.launch.sagemaker_host import Host, failure_line, find_host, parse_host

HOSTS = [f"algo-{number}" for number in range(1, 12)]


def lay_out(root: Path, *, channels: tuple[str, ...] = (), **resources: Any) -> dict[str, str]:
    """Write the files of a host and return the environment that names them."""
    config = root / "input" / "config"
    config.mkdir(parents=True)
    described = {
        "current_host": "algo-2",
        "current_instance_type": "ml.g6e.48xlarge",
        "current_group_name": "homogeneousCluster",
        "hosts": ["algo-1", "algo-2"],
        "instance_groups": [
            {
                "instance_group_name": "homogeneousCluster",
                "instance_type": "ml.g6e.48xlarge",
                "hosts": ["algo-2", "algo-1"],
            }
        ],
        "network_interface_name": "eth0",
        **resources,
    }
    (config / "resourceconfig.json").write_text(json.dumps(described))
    (config / "inputdataconfig.json").write_text(
        json.dumps({channel: {"TrainingInputMode": "File"} for channel in channels})
    )
    return {"RLVR_SAGEMAKER_ROOT": str(root)}


def find(environ: dict[str, str]) -> Host:
    host = find_host(environ)
    assert host is not None
    return host


def test_outside_of_a_training_job_there_is_no_host(tmp_path: Path) -> None:
    assert find_host({"RLVR_SAGEMAKER_ROOT": str(tmp_path)}) is None


def test_the_hosts_become_the_nodes_of_launch(tmp_path: Path) -> None:
    host = find(lay_out(tmp_path))
    nodes = read_nodes({**host.variables(), "PET_NPROC_PER_NODE": "8"})
    assert nodes == Nodes(2, 1, 8, "algo-1", 29500)


def test_a_job_with_one_host_trains_alone(tmp_path: Path) -> None:
    host = find(lay_out(tmp_path, hosts=["algo-1"], current_host="algo-1"))
    assert read_nodes(host.variables()).master_addr == "127.0.0.1"


def test_ranks_follow_the_numbers_of_the_hosts() -> None:
    shuffled = [*HOSTS[5:], *HOSTS[:5]]
    for rank, name in enumerate(HOSTS):
        resources = {"current_host": name, "hosts": shuffled}
        assert parse_host(Path(), resources, {}).rank == rank


def test_nccl_and_gloo_use_the_interface_that_the_file_names(tmp_path: Path) -> None:
    variables = find(lay_out(tmp_path, network_interface_name="eth1")).variables()
    assert variables["NCCL_SOCKET_IFNAME"] == variables["GLOO_SOCKET_IFNAME"] == "eth1"


def test_efa_is_used_where_the_instance_has_it() -> None:
    resources = {"current_host": "algo-1", "hosts": ["algo-1"]}
    with_efa = parse_host(Path(), resources, {}, has_efa=True).variables()
    assert with_efa["FI_PROVIDER"] == "efa"
    assert not any(name.startswith("FI_") for name in parse_host(Path(), resources, {}).variables())


def test_the_channel_of_the_model_is_where_the_model_is_read(tmp_path: Path) -> None:
    assert "RLVR_MODEL_DIR" not in find(lay_out(tmp_path / "without")).variables()
    variables = find(lay_out(tmp_path / "with", channels=("model",))).variables()
    assert variables["RLVR_MODEL_DIR"] == str(tmp_path / "with" / "input" / "data" / "model")


def test_the_log_says_which_host_of_how_many_it_is(tmp_path: Path) -> None:
    assert find(lay_out(tmp_path, channels=("model",))).description == (
        "algo-2 (rank 1 of 2), ml.g6e.48xlarge, interface eth0, no EFA, channels model"
    )


@pytest.mark.parametrize(
    "resources", [{"hosts": []}, {"hosts": None}, {"current_host": "algo-3"}, {"hosts": "algo-2"}]
)
def test_a_host_that_is_not_one_of_the_hosts_is_an_error(
    tmp_path: Path, resources: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"resourceconfig\.json has current_host"):
        find_host(lay_out(tmp_path, **resources))


@pytest.mark.parametrize("content", ["{", "[]", b"\xff"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: str | bytes) -> None:
    environ = lay_out(tmp_path)
    file = tmp_path / "input" / "config" / "resourceconfig.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=str(file)):
        find_host(environ)


def test_the_failure_begins_with_code_and_step(tmp_path: Path) -> None:
    host = find(lay_out(tmp_path))
    host.report_failure(End(3, "data/train.jsonl:7 is damaged;\n  prepare it again"), 12)
    assert (tmp_path / "output" / "failure").read_text() == (
        "[3] step 12: data/train.jsonl:7 is damaged; prepare it again"
    )


def test_a_long_cause_leaves_room_for_the_words_of_the_service() -> None:
    line = failure_line(End(1, "é" * 5000), 3)
    assert len(f"AlgorithmError: {line}, exit code: 255") <= 1024
    assert line.startswith("[1] step 3: éé")
    assert line.endswith("…")


def test_a_failure_that_cannot_be_written_is_not_an_error(tmp_path: Path) -> None:
    host = find(lay_out(tmp_path))
    (tmp_path / "output").write_text("a file in place of the folder")
    host.report_failure(End(3, "the cause"), 0)


def adapter_of(tmp_path: Path) -> Path:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "adapter_config.json").write_text("{}")
    return adapter


def test_the_adapter_is_copied_to_where_the_service_reads_it(tmp_path: Path) -> None:
    host = find(lay_out(tmp_path))
    (tmp_path / "model").mkdir()  # the service makes it
    host.place_adapter(adapter_of(tmp_path))
    copied = {path.name for path in (tmp_path / "model").iterdir()}
    assert copied == {"adapter_model.safetensors", "adapter_config.json"}


def test_an_adapter_that_does_not_fit_leaves_no_part_of_it(tmp_path: Path, full_disk: Path) -> None:
    host = find(lay_out(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "adapter_model.safetensors").symlink_to(full_disk)
    host.place_adapter(adapter_of(tmp_path))
    assert list((tmp_path / "model").iterdir()) == []
