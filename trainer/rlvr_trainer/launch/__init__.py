"""Run a pod of a job: environment → torchrun, signals → a commit, causes → exit codes.

    operator_environment   the operator's variables, and torchrun's arguments
    node_run_dir           the run directory: a shared folder, or S3 with a copy on this node
    processes              the child and its signals
    elastic                torchrun, with a record of how its ranks ended
    rank_outcomes          how each rank ended
    exit_causes            the first real cause, and its exit code
    attempt_budget         the budget of attempts, which the operator does not count
    cgroup                 memory limit and OOM kills
    run_time_limit         a stop in time before the service's
    sagemaker_host         the same in a SageMaker training job: /opt/ml in place of an operator
    pod                    all of it in order

It does not import torch, so a pod that only waits or fails early starts quickly.
"""
