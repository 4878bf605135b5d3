"""Training jobs: their description, and one protocol for the backends that run them.

A backend's `render` is pure, and `submit` sends exactly what it returns.
"""

from rlvr_components.jobs.job import (
    Backend,
    JobSpec,
    JobStatus,
    JobSummary,
    Owner,
    Replica,
    Resources,
    Step,
    allowed_environment,
    training_job,
)

__all__ = [
    "Backend",
    "JobSpec",
    "JobStatus",
    "JobSummary",
    "Owner",
    "Replica",
    "Resources",
    "Step",
    "allowed_environment",
    "training_job",
]
