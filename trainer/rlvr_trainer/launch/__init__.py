"""The process that a pod runs: environment → torchrun, signals → a commit, causes → exit codes.

    environment   what the operator's variables say, and torchrun's arguments
    run_dir       the run directory: a shared folder, or S3 with a copy on this node
    processes     the child, its signals, and how it and its ranks ended
    elastic       torchrun, writing down how its ranks ended
    causes        the first real cause of all that ended, and its exit code
    attempts      the budget over attempts, which the operator does not count
    pod           all of it in order

It imports neither torch nor kubernetes: a pod that only waits or fails early is quick.
"""
