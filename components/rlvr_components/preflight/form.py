"""Resolve the form that a user filled in to a recipe and a platform, and check the storage."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, get_args
from uuid import uuid4

import yaml

from rlvr_components.pipeline_run import Place
from rlvr_components.platform.settings import Platform
from rlvr_components.platform.settings_file import parse_platform
from rlvr_components.sagemaker.sagemaker_settings import SageMaker, parse_sagemaker
from rlvr_trainer.errors import ConfigError, RLVRError
from rlvr_trainer.recipe.reader import load_form, shipped_recipes
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.recipe.suggest import did_you_mean
from rlvr_trainer.storage import S3_SCHEME, Storage, open_storage

logger = logging.getLogger(__name__)

PLATFORM_MAP = "rlvr-platform"
"""Name of the ConfigMap with a namespace's platform settings."""
PLATFORM_KEY = "platform.yaml"

PLACES: tuple[str, ...] = get_args(Place)


@dataclass(frozen=True)
class Form:
    """The fields that a user filled in, as KFP passes them."""

    recipe: Mapping[str, Any]
    recipe_overrides: Mapping[str, Any] = field(default_factory=dict)
    model_name: str = ""
    model_revision: str = ""
    evaluation_shots: Sequence[float] = ()
    job_place: str = "pytorchjob"
    job_namespace: str = ""
    job_num_nodes: int = 0
    job_gpus_per_node: int = -1
    job_queue: str = ""
    job_node_selector: Mapping[str, str] | None = None
    job_tolerations: Sequence[Mapping[str, Any]] = ()
    job_platform: str = ""
    job_sagemaker: str = ""


def resolve_recipe(form: Form) -> Recipe:
    """Return the form's recipe, overridden by its other fields.

    Raises ConfigError with one line for each fault.
    """
    overrides = list(_overrides(_with_integers(form.recipe_overrides)))
    if form.model_name:
        overrides += [f"model.name={json.dumps(form.model_name)}"]
        overrides += [f"model.revision={json.dumps(form.model_revision)}"]
    elif form.model_revision:
        overrides += [f"model.revision={json.dumps(form.model_revision)}"]
    if form.evaluation_shots:
        overrides += [f"evaluation.shots={json.dumps(_shots(form.evaluation_shots))}"]
    if not form.recipe:
        raise ConfigError(
            'recipe is empty; write {"extends": "NAME"} with the name of a shipped one '
            f"({', '.join(sorted(shipped_recipes()))}), or a whole recipe"
        )
    return _load(_with_integers(form.recipe), overrides)


def place_of(form: Form) -> Place:
    """Return the backend of the model steps. Raises ConfigError."""
    if form.job_place not in PLACES:
        raise ConfigError(
            f"job_place must be one of {', '.join(PLACES)} (got {form.job_place!r})"
            f"{did_you_mean(form.job_place, PLACES)}; choose one"
        )
    if form.job_place == "local" and find_spec("torch") is None:
        raise ConfigError(
            "job_place: 'local' evaluates and trains in the steps' own pods, and their image holds "
            "no torch; choose pytorchjob or trainjob, or compile with --image components=… for the "
            "trainer's image"
        )
    place: Place = form.job_place  # type: ignore[assignment]
    return place


def resolve_platform(form: Form, config_map: str) -> Platform:
    """Return the settings of the namespace's ConfigMap (YAML), overridden by those of the form.

    Raises ConfigError with one line for each fault.
    """
    tree = {**_mapping("the ConfigMap " + PLATFORM_MAP, config_map)}
    tree |= _mapping("job_platform", form.job_platform)
    chosen: dict[str, Any] = {
        "namespace": form.job_namespace,
        "num_nodes": form.job_num_nodes,
        "queue": form.job_queue,
    }
    tree |= {name: value for name, value in chosen.items() if value}
    if form.job_gpus_per_node >= 0:
        tree["gpus_per_node"] = form.job_gpus_per_node
    if form.job_node_selector:
        tree["node_selector"] = {**tree.get("node_selector", {}), **form.job_node_selector}
    if form.job_tolerations:
        tree["tolerations"] = [*tree.get("tolerations", ()), *form.job_tolerations]
    if "image" not in tree:
        raise ConfigError(
            f"the platform's settings name no image for the jobs; apply the ConfigMap "
            f"{PLATFORM_MAP} (manifests/overlays), or write image: NAME@sha256:… in job_platform"
        )
    return parse_platform(tree, origin="the platform's settings")


def resolve_sagemaker(form: Form) -> SageMaker:
    """Return the form's settings of SageMaker. Raises ConfigError with one line for each fault."""
    tree = _mapping("job_sagemaker", form.job_sagemaker)
    if not tree:
        raise ConfigError(
            "job_place sagemaker needs role_arn, image and instance_type; write them in "
            "job_sagemaker, or give --sagemaker FILE"
        )
    if form.job_num_nodes:
        tree["instance_count"] = form.job_num_nodes
    if form.job_gpus_per_node >= 0:
        tree["gpus_per_instance"] = form.job_gpus_per_node
    return parse_sagemaker(tree, origin="job_sagemaker")


def check_storage(uri: str) -> None:
    """Write, read and delete a probe, which stays if this identity may not delete.

    Raises ConfigError, PlatformError.
    """
    if "://" in uri and not uri.startswith(S3_SCHEME):
        raise ConfigError(
            f"storage_uri: {uri!r} is neither s3://bucket/prefix nor a path; for another server "
            "that speaks S3 use s3:// too, with AWS_ENDPOINT_URL_S3 in the platform's env"
        )
    storage, key, content = open_storage(uri), f".probe-{uuid4().hex}", b"rlvr"
    storage.write_bytes(key, content)
    try:
        if storage.read_bytes(key) != content:
            raise ConfigError(f"{uri}/{key} was read with other content; name another storage")
    except FileNotFoundError:
        raise ConfigError(
            f"{uri}/{key} was written and does not exist; name a storage that keeps its objects"
        ) from None
    finally:
        _delete_probe(storage, key)


def _delete_probe(storage: Storage, key: str) -> None:
    """Delete the probe; only log a failure, since a run deletes nothing there."""
    try:
        storage.delete(key)
    except RLVRError as error:
        logger.info("the probe was not deleted: %s", error)


def can_write(uri: str) -> bool:
    """Return True if `check_storage` passes."""
    try:
        check_storage(uri)
    except RLVRError:
        return False
    return True


def _overrides(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield `a.b=c` for each field of `{"a.b": c}` or `{"a": {"b": c}}`."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _overrides(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={json.dumps(value, ensure_ascii=False)}"


def _with_integers(value: Any) -> Any:
    """Return the tree with `2.0` as 2, since KFP passes all numbers of an object as floats."""
    match value:
        case Mapping():
            return {name: _with_integers(item) for name, item in value.items()}
        case list() | tuple():
            return [_with_integers(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _shots(numbers: Sequence[float]) -> list[int]:
    """Return the numbers as integers, since KFP passes the numbers of a list as floats."""
    wrong = [
        number for number in numbers if not isinstance(number, int | float) or number != int(number)
    ]
    if wrong:
        raise ConfigError(
            f"evaluation_shots: {wrong[0]!r} is not a number of shots; write a list such as [0, 8]"
        )
    return [int(number) for number in numbers]


def _load(tree: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    try:
        return load_form(json.dumps(tree, ensure_ascii=False), overrides)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--set ", "recipe_overrides: ")) from None


def _mapping(origin: str, text: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text) if text.strip() else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is neither JSON nor YAML: {error}; correct it") from None
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{origin} holds {type(tree).__name__} in place of keys and values; write key: value"
        )
    return tree
