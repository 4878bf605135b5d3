"""A job as it is sent to the API server, and shown before. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rlvr_components.jobs import JobSpec
from rlvr_components.jobs.kube import names
from rlvr_components.jobs.kube.kinds import Place
from rlvr_components.jobs.pytorchjob import render_pytorchjob
from rlvr_components.jobs.trainjob import OverridesField, render_trainjob
from rlvr_components.platform import Platform


def render_job(
    place: Place, spec: JobSpec, platform: Platform, overrides: OverridesField
) -> dict[str, Any]:
    """The object, with a hash of itself; `overrides` is the TrainJob's field that the server knows.

    Raises ConfigError for what the API server would refuse.
    """
    if place == "trainjob":
        rendered = render_trainjob(spec, platform, overrides)
    else:
        rendered = render_pytorchjob(spec, platform)
    canonical = json.dumps(rendered, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    rendered["metadata"]["annotations"][names.SPEC_HASH] = digest
    return rendered
