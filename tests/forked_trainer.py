"""Run the trainer in processes that are forked where torch and TRL are imported already.

They are real processes, with exit codes, signals, output and environments of their own. Only the
imports, which take longer than a training of the tests, happen once for all of them.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch

Program = Callable[[list[str]], Any]
"""A program that takes its arguments and may return an exit code."""

TIMEOUT_S = 500.0  # the first training under ZeRO on a machine compiles an extension of DeepSpeed


@dataclass(frozen=True)
class Trainer:
    """The processes of one program: one, or ranks that train together."""

    processes: list[BaseProcess]

    def wait(self) -> int:
        """Return the exit code, as a shell tells it: that of the rank that failed first, if any.

        As torchrun does, it kills the other ranks then.
        """
        running = {process.sentinel: process for process in self.processes}
        deadline, failed = time.monotonic() + TIMEOUT_S, 0
        try:
            while running and not failed:
                ended = connection.wait([*running], deadline - time.monotonic())
                assert ended, f"the training took longer than {TIMEOUT_S:.0f} s"
                for process in [running.pop(sentinel) for sentinel in ended]:
                    process.join()
                    failed = failed or process.exitcode or 0
        finally:
            for process in running.values():
                process.kill()
                process.join()
        return failed if failed >= 0 else 128 - failed

    def terminate(self) -> None:
        """Send SIGTERM."""
        for process in self.processes:
            process.terminate()


def start(program: Program, arguments: list[str], log: Path, num_ranks: int = 0) -> Trainer:
    """Start the program; with `num_ranks`, in that many processes with torchrun's variables.

    Their output goes to `log`.
    """
    # CUDA does not survive a fork
    context = get_context("spawn" if torch.cuda.is_available() else "forkserver")
    context.set_forkserver_preload(["deepspeed", "rlvr_trainer.grpo.training"])
    log.write_text("")
    processes: list[BaseProcess] = []
    for variables in _ranks(num_ranks) if num_ranks else [{}]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        process = context.Process(target=_run, args=(program, arguments, log, environment))
        with mock.patch.dict(os.environ, environment, clear=True):  # which a spawned one inherits
            process.start()
        processes.append(process)
    return Trainer(processes)


def _ranks(count: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets for each rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **({"CUDA_VISIBLE_DEVICES": ""} if count > 1 else {}),  # ranks do not share a GPU
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def _run(program: Program, arguments: list[str], log: Path, environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    with log.open("ab") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    sys.exit(program(arguments))
