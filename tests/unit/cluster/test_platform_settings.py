from pathlib import Path

import pytest

from rlvr_pipelines.cluster.platform_settings import read_platform_settings
from rlvr_trainer.errors import ConfigError


def test_overrides_go_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text("image: a\nnum_nodes: 1\nenv: {A: '1'}\n")

    assert read_platform_settings(file, ["num_nodes=2", "env.B=2", "image_pull_secrets=[x]"]) == {
        "image": "a",
        "num_nodes": 2,
        "env": {"A": "1", "B": "2"},
        "image_pull_secrets": ["x"],
    }


def test_a_label_keeps_its_dots() -> None:
    settings = read_platform_settings(
        None, ["node_selector.node.kubernetes.io/instance-type=p5.48xlarge"]
    )

    assert settings == {"node_selector": {"node.kubernetes.io/instance-type": "p5.48xlarge"}}


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "platform.yaml").write_text("# nothing\n")

    assert read_platform_settings(tmp_path / "platform.yaml", []) == {}


@pytest.mark.parametrize("override", ["num_nodes", "=2", "queue={", ""])
def test_an_invalid_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="--platform-set"):
        read_platform_settings(None, [override])


def test_a_key_within_a_value_that_is_not_a_section_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_nodes is not a section"):
        read_platform_settings(None, ["num_nodes=2", "num_nodes.x=3"])


@pytest.mark.parametrize("content", ["[1]", "a: [", "text"])
def test_a_file_that_holds_no_settings_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "platform.yaml").write_text(content)

    with pytest.raises(ConfigError, match=r"platform\.yaml"):
        read_platform_settings(tmp_path / "platform.yaml", [])
