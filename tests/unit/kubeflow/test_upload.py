from __future__ import annotations

from dataclasses import replace

import pytest

from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.kubeflow.connection import connect
from rlvr_pipelines.kubeflow.versions import upload_package
from rlvr_pipelines.pipeline.package import Package
from rlvr_trainer.errors import ConfigError

from .conftest import Serve

PACKAGE = Package("rlvr-tiny", "0.1.0-abc", "A tiny one.", "root: {a: 1}\n")


def test_the_first_upload_creates_the_pipeline_and_its_version(serve: Serve) -> None:
    fake = serve()

    uploaded = upload_package(connect(AccessOptions(endpoint=fake.url)), PACKAGE)

    assert uploaded.outcome == "created"
    assert (uploaded.pipeline, uploaded.version) == ("rlvr-tiny", "0.1.0-abc")
    pipeline, version = fake.pipelines[uploaded.pipeline_id], fake.versions[uploaded.version_id]
    assert (pipeline.display_name, pipeline.description) == ("rlvr-tiny", "A tiny one.")
    assert version.pipeline_spec == {"root": {"a": 1}}
    assert uploaded.link == f"{fake.url}/#/pipelines/details/pipeline-1/version/version-1"


def test_the_same_bytes_are_uploaded_once(serve: Serve) -> None:
    fake = serve()
    kubeflow = connect(AccessOptions(endpoint=fake.url))
    first = upload_package(kubeflow, PACKAGE)
    fake.requests.clear()

    again = upload_package(kubeflow, PACKAGE)

    assert again == replace(first, outcome="unchanged")
    assert not any(request.startswith("POST") for request in fake.requests)


def test_another_recipe_is_another_version(serve: Serve) -> None:
    fake = serve()
    kubeflow = connect(AccessOptions(endpoint=fake.url))
    upload_package(kubeflow, PACKAGE)

    added = upload_package(kubeflow, replace(PACKAGE, version="0.1.0-def"))

    assert (added.outcome, added.version) == ("added", "0.1.0-def")
    assert len(fake.pipelines) == 1


def test_other_content_under_the_same_name_gets_its_hash_as_a_suffix_once(serve: Serve) -> None:
    fake = serve()
    kubeflow = connect(AccessOptions(endpoint=fake.url))
    upload_package(kubeflow, PACKAGE)
    changed = replace(PACKAGE, text="root: {a: 2}\n")

    added, again = upload_package(kubeflow, changed), upload_package(kubeflow, changed)

    assert added.outcome == "added"
    assert added.version.startswith("0.1.0-abc-")
    assert again == replace(added, outcome="unchanged")
    assert [version.pipeline_spec for version in fake.versions.values()] == [
        {"root": {"a": 1}},
        {"root": {"a": 2}},
    ]


def test_the_platform_spec_is_uploaded_with_the_pipeline(serve: Serve) -> None:
    fake = serve()
    kubeflow = connect(AccessOptions(endpoint=fake.url))
    package = replace(PACKAGE, text="root: {}\n---\nplatforms: {kubernetes: {}}\n")

    upload_package(kubeflow, package)

    assert fake.versions["version-1"].pipeline_spec == package.spec == {
        "pipeline_spec": {"root": {}},
        "platform_spec": {"platforms": {"kubernetes": {}}},
    }  # fmt: skip
    assert upload_package(kubeflow, package).outcome == "unchanged"


def test_in_a_profile_the_pipeline_is_the_profiles(serve: Serve) -> None:
    fake = serve(multi_user=True, namespaces=("me",))

    upload_package(connect(AccessOptions(endpoint=fake.url, namespace="me")), PACKAGE)

    assert fake.pipelines["pipeline-1"].namespace == "me"


def test_a_namespace_that_is_not_ours_is_denied(serve: Serve) -> None:
    fake = serve(multi_user=True, namespaces=("me",))

    with pytest.raises(
        ConfigError, match=r"denies the request.*namespace 'them'.*check --namespace"
    ):
        upload_package(connect(AccessOptions(endpoint=fake.url, namespace="them")), PACKAGE)


def test_after_an_upload_that_broke_off_the_next_one_completes_it(serve: Serve) -> None:
    fake = serve()
    kubeflow = connect(AccessOptions(endpoint=fake.url))
    upload_package(kubeflow, PACKAGE)
    fake.versions.clear()

    assert upload_package(kubeflow, PACKAGE).outcome == "added"
