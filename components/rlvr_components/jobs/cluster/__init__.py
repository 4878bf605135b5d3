"""Training jobs on Kubernetes: one backend for PyTorchJobs and TrainJobs.

backend        render, submit, follow and stop a job; find and delete jobs
submission     create one job for one name; permissions
attempts       choose the next attempt; records of deleted jobs in the run directory
following      follow a job until it terminates
replica_logs   the log lines of all replicas
job_progress   step and reward, from the run directory into annotations
snapshot       ask for a job with its pods and events; list jobs
job_status     phase, cause and replicas of a job
job_causes     the cause of a failed job
pending        the pending reason of a job
limits         limits after which a launcher deletes a job
"""

from rlvr_components.jobs.cluster.attempts import forget_deletion
from rlvr_components.jobs.cluster.backend import (
    CUSTOM_COLUMNS,
    ClusterBackend,
    delete_jobs,
    find_jobs,
    open_backend,
)

__all__ = [
    "CUSTOM_COLUMNS",
    "ClusterBackend",
    "delete_jobs",
    "find_jobs",
    "forget_deletion",
    "open_backend",
]
