"""Upload the pipeline to Kubeflow as a version, named by package and recipe."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kfp_server_api import V2beta1Pipeline

from rlvr_pipelines.kubeflow.connection import Kubeflow
from rlvr_pipelines.kubeflow.kfp_errors import KubeflowConflict
from rlvr_pipelines.pipeline.package import Package

NUM_HASH_DIGITS = 8


@dataclass(frozen=True)
class Upload:
    """A version of the pipeline in Kubeflow."""

    pipeline: str
    pipeline_id: str
    version: str
    version_id: str
    link: str
    outcome: Literal["created", "added", "unchanged"]
    """A new pipeline, a new version, or a version with the same bytes."""


def upload_package(kubeflow: Kubeflow, package: Package) -> Upload:
    """Create the pipeline, or add a version to it, unless one has the same bytes.

    A version is never replaced, since runs refer to it: other content of the same name (another
    image, say) becomes a version with a hash of the content in its name.

    Raises ConfigError, PlatformError.
    """
    pipeline = _find_pipeline(kubeflow, package.name)
    created = pipeline is None
    if pipeline is None:
        pipeline = kubeflow.call(
            kubeflow.pipelines.pipeline_service_create_pipeline,
            pipeline=V2beta1Pipeline(
                display_name=package.name,
                name=package.name,
                description=package.description,
                namespace=kubeflow.namespace,
            ),
        )
    version, added = _ensure_version(kubeflow, pipeline.pipeline_id, package)
    return Upload(
        pipeline=package.name,
        pipeline_id=pipeline.pipeline_id,
        version=version.display_name,
        version_id=version.pipeline_version_id,
        link=kubeflow.link(
            f"pipelines/details/{pipeline.pipeline_id}/version/{version.pipeline_version_id}"
        ),
        outcome="created" if created else "added" if added else "unchanged",
    )


def find_uploaded(kubeflow: Kubeflow, package: Package) -> Any:
    """Return the uploaded version with the same bytes, or None.

    Raises ConfigError, PlatformError.
    """
    pipeline = _find_pipeline(kubeflow, package.name)
    for name in (package.version, _version_by_content(package)) if pipeline else ():
        version = _find_version(kubeflow, pipeline.pipeline_id, name)
        if version is not None and version.pipeline_spec == package.spec:
            return version
    return None


def equals(display_name: str) -> str:
    """Return the API's filter of a list by name."""
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": display_name}
    return json.dumps({"predicates": [predicate]})


def _find_pipeline(kubeflow: Kubeflow, name: str) -> Any:
    where = {"namespace": kubeflow.namespace} if kubeflow.namespace else {}
    listing = kubeflow.call(
        kubeflow.pipelines.pipeline_service_list_pipelines, filter=equals(name), **where
    )
    return next(iter(listing.pipelines or ()), None)


def _ensure_version(kubeflow: Kubeflow, pipeline_id: str, package: Package) -> tuple[Any, bool]:
    """Return the version with this content, and True if it was added."""
    version = _find_version(kubeflow, pipeline_id, package.version)
    if version is None:
        return _add_version(kubeflow, pipeline_id, package.version, package)
    if version.pipeline_spec == package.spec:
        return version, False
    name = _version_by_content(package)
    version = _find_version(kubeflow, pipeline_id, name)
    return (version, False) if version else _add_version(kubeflow, pipeline_id, name, package)


def _version_by_content(package: Package) -> str:
    """Return a version's name that identifies the content."""
    digest = hashlib.sha256(package.text.encode()).hexdigest()[:NUM_HASH_DIGITS]
    return f"{package.version}-{digest}"


def _find_version(kubeflow: Kubeflow, pipeline_id: str, name: str) -> Any:
    listing = kubeflow.call(
        kubeflow.pipelines.pipeline_service_list_pipeline_versions,
        pipeline_id=pipeline_id,
        filter=equals(name),
    )
    return next(iter(listing.pipeline_versions or ()), None)


def _add_version(
    kubeflow: Kubeflow, pipeline_id: str, name: str, package: Package
) -> tuple[Any, bool]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pipeline.yaml")  # the server reads the suffix
        file.write_text(package.text, "utf-8")
        try:
            added = kubeflow.call(
                kubeflow.uploads.upload_pipeline_version,
                uploadfile=str(file),
                name=name,
                pipelineid=pipeline_id,
                description=package.description,
            )
        except KubeflowConflict:  # another client was faster
            version = _find_version(kubeflow, pipeline_id, name)
            if version is None:
                raise
            return version, False
    return added, True
