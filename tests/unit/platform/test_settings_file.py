from pathlib import Path

import pytest

from rlvr_components.platform.settings import Platform
from rlvr_components.platform.settings_file import override_settings, parse_platform
from rlvr_pipelines.cluster.platform_settings import read_platform_settings
from rlvr_trainer.errors import ConfigError

MANIFESTS = Path(__file__).parents[3] / "manifests"


@pytest.mark.parametrize(
    "path",
    sorted(MANIFESTS.rglob("platform.yaml")),
    ids=lambda path: path.relative_to(MANIFESTS).as_posix(),
)
def test_every_overlays_settings_are_valid(path: Path) -> None:
    settings = read_platform_settings(path, ())
    assert parse_platform(settings, origin=str(path)).service_account == "rlvr-trainer"


def test_the_manifests_name_every_setting() -> None:
    lines = (MANIFESTS / "base" / "platform.yaml").read_text().splitlines()
    comment = " ".join(line for line in lines if line.startswith("#"))
    words = set(comment.replace(",", " ").replace(":", " ").split())

    assert set(Platform.model_fields) <= words


def test_overrides_go_before_the_file_and_leave_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "platform.yaml"
    path.write_text("image: trainer:1\nnum_nodes: 2\nenv: {A: '1'}\n")

    platform = parse_platform(
        read_platform_settings(path, ["num_nodes=3", "env.B=2", "secrets=[one]"]), origin="here"
    )

    assert platform == Platform(
        image="trainer:1", num_nodes=3, env={"A": "1", "B": "2"}, secrets=("one",)
    )


def test_an_override_keeps_the_dots_of_a_label_and_leaves_its_source_as_it_was() -> None:
    source = {"image": "trainer:1", "node_selector": {"pool": "p5"}}
    label = "node.kubernetes.io/instance-type"

    platform = parse_platform(
        override_settings(source, [f"node_selector.{label}=p5.48xlarge"]), origin="here"
    )

    assert platform.node_selector == {"pool": "p5", label: "p5.48xlarge"}
    assert source == {"image": "trainer:1", "node_selector": {"pool": "p5"}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_node=2", r"num_node: unknown field.*num_nodes"),
        ("num_nodes=two", r"num_nodes: got 'two'"),
        ("num_nodes", r"--platform-set 'num_nodes' has no value; write it as key=value"),
        ("image.tag=2", r"image is not a section; set image="),
    ],
)
def test_an_invalid_override_is_an_error(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_platform(override_settings({"image": "trainer:1"}, [override]), origin="here")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("image: trainer:1\nnum_node: 2\n", r"num_node: unknown field.*num_nodes"),
        ("num_nodes: 2\n", r"image: missing"),
        ("image: trainer:1\nnum_nodes: two\n", r"num_nodes: got 'two'"),
        ("image: trainer:1\nvolumes: [{claim: a, pth: /b}]\n", r"volumes\.0\.pth: unknown field"),
        ("", r"image: missing"),
        ("- image\n", r"platform\.yaml holds list"),
        ("image: [", r"platform\.yaml is not YAML"),
    ],
)
def test_an_error_names_the_field(source: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "platform.yaml"
    path.write_text(source)
    with pytest.raises(ConfigError, match=message):
        parse_platform(read_platform_settings(path, ()), origin="here")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read.*check the path"):
        read_platform_settings(tmp_path / "none.yaml", ())
