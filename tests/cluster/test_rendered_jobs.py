"""What we render, asked of the real CRDs and admission policies by server-side dry runs."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.manifests.test_rendered_jobs import IN_KUBEFLOW, LARGE, ON_TWO_NODES, PYTORCHJOBS

from rlvr_components.jobs.pytorchjob import render_pytorchjob
from rlvr_components.jobs.trainjob import overrides_field, render_trainjob

from .conftest import Kubectl

OPENAPI = "/openapi/v3/apis/trainer.kubeflow.org/v1alpha1"
ALLOWED = {"image": "rlvr-trainer:0.1.0", "namespace": "rlvr"}
"""By the policy of manifests/overlays/local."""


def refusal(kubectl: Kubectl, job: dict[str, Any]) -> str:
    """Why the API server would not create it; empty if it would."""
    command = ["kubectl", "--kubeconfig", str(kubectl.kubeconfig), "create", "-f", "-"]
    done = subprocess.run(
        [*command, "--dry-run=server", "--validate=strict"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return "" if done.returncode == 0 else done.stderr


@pytest.fixture(scope="module")
def api(kube: Path, base_manifests: None) -> Kubectl:
    return Kubectl(kube, "rlvr")


@pytest.mark.parametrize("name", PYTORCHJOBS)
def test_pytorchjobs_fit_the_crd_and_the_policies(api: Kubectl, name: str) -> None:
    spec, platform = PYTORCHJOBS[name]

    assert refusal(api, render_pytorchjob(spec, platform.model_copy(update=ALLOWED))) == ""


def test_a_trainjob_fits_the_crd_in_the_words_of_this_api_server(api: Kubectl) -> None:
    field = overrides_field(json.loads(api("get", "--raw", OPENAPI)))
    assert field == "runtimePatches"

    job = render_trainjob(ON_TWO_NODES, LARGE.model_copy(update=ALLOWED), field)

    assert refusal(api, job) == ""


def test_the_crd_is_strict_with_a_field_of_another_version(api: Kubectl) -> None:
    platform = LARGE.model_copy(update=ALLOWED)

    job = render_trainjob(ON_TWO_NODES, platform, "podTemplateOverrides")

    assert 'unknown field "spec.podTemplateOverrides"' in refusal(api, job)


def test_the_policies_refuse_a_job_that_was_tampered_with(api: Kubectl) -> None:
    job = render_pytorchjob(
        replace(IN_KUBEFLOW, owner=None), LARGE.model_copy(update={"namespace": "rlvr"})
    )

    assert "is not from rlvr-trainer:" in refusal(api, job)
