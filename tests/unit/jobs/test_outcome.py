"""Finish reads the Workflow that its pod belongs to, and the failed pod's log, from the cluster."""

from __future__ import annotations

import pytest
from tests.unit.kubeflow.workflows import NAME, pod_of, workflow

from rlvr_components.steps.run_outcome import read_outcome

from .fake_api_server import FakeApiServer


@pytest.fixture
def in_a_pod(api: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> FakeApiServer:
    """Make this process a step of the Workflow."""
    monkeypatch.setenv("KFP_POD_NAME", "finish-1")
    monkeypatch.setenv("RLVR_NAMESPACE", "rlvr")
    api.kinds = (*api.kinds, "workflows")
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": NAME, "uid": "1"}
    api.put("pods", {"metadata": {"name": "finish-1", "ownerReferences": [owner]}})
    run = workflow({"check": "SUCCEEDED", "train": "FAILED"}, namespace="rlvr")
    api.put("workflows", run)
    return api


def test_the_cause_is_the_failed_pods(in_a_pod: FakeApiServer) -> None:
    pod = pod_of("train")
    in_a_pod.put("pods", {"metadata": {"name": pod}})
    in_a_pod.logs[pod] = [("2026-11-02T10:00:00Z", "error: no rows; give some (exit code 3)")]

    facts = read_outcome("RUNNING", "", []).facts()

    assert (facts["state"], facts["step"], facts["exit_code"]) == ("FAILED", "train", 3)
    assert facts["message"] == "no rows; give some"


def test_a_workflow_that_may_not_be_read_leaves_what_kfp_says(in_a_pod: FakeApiServer) -> None:
    in_a_pod.forbidden = {("get", "workflows")}

    assert read_outcome("RUNNING", "", []).state == "ENDED"
    assert read_outcome("FAILED", "", []).state == "FAILED"
