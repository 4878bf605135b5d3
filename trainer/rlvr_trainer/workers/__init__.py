"""Run functions in processes that are killed when they take too long."""

from rlvr_trainer.workers.worker_pool import WorkerFailure, WorkerPool, worker_pool

__all__ = ["WorkerFailure", "WorkerPool", "worker_pool"]
