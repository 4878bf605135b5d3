"""Run one pod, from its start to the exit code that the operator reads."""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from rlvr_trainer.error_mapping import to_rlvr_error
from rlvr_trainer.errors import EXIT_PREEMPTED, PlatformError, RLVRError
from rlvr_trainer.launch.attempt_budget import DEFAULT_MAX_ATTEMPTS, Attempts
from rlvr_trainer.launch.exit_causes import End, first_cause
from rlvr_trainer.launch.node_run_dir import NodeRunDir, RemoteCopy, SharedFolder, is_trained
from rlvr_trainer.launch.operator_environment import (
    Nodes,
    child_environment,
    read_nodes,
    torchrun_arguments,
)
from rlvr_trainer.launch.processes import StopRequest, run_child
from rlvr_trainer.launch.run_time_limit import stop_before_limit
from rlvr_trainer.launch.sagemaker_host import Host, find_host
from rlvr_trainer.run_dir import remote_checkpoint
from rlvr_trainer.run_dir.layout import ADAPTER, LOGS
from rlvr_trainer.storage import S3_SCHEME, open_storage
from rlvr_trainer.variables import (
    NODE_RANK_VARIABLE,
    NUM_NODES_VARIABLE,
    RUN_DIR_VARIABLE,
    TERMINATION_LOG_VARIABLE,
)

logger = logging.getLogger(__name__)

DEFAULT_WORK_DIR = Path("/scratch/run")
DEFAULT_MASTER_TIMEOUT_S = 600.0
RESOLVE_INTERVAL_S = 1.0
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LOG_BYTES = 4096


@dataclass(frozen=True)
class Options:
    """The command line of `launch`."""

    run: str
    work_dir: Path | None = None
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    master_timeout_s: float = DEFAULT_MASTER_TIMEOUT_S
    command: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, parsed: argparse.Namespace) -> Options:
        """Return the options from the parsed arguments."""
        command = parsed.command[1:] if parsed.command[:1] == ["--"] else parsed.command
        return cls(
            parsed.run, parsed.work_dir, parsed.max_attempts, parsed.master_timeout_s, command
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launch`."""
    add = parser.add_argument
    add("--run", required=True, metavar="URI", help="a shared folder, or s3://bucket/prefix")
    add("--work-dir", type=Path, metavar="DIR", help="folder for the copy of s3:// on this node")
    add(
        "--max-attempts",
        type=int,
        default=DEFAULT_MAX_ATTEMPTS,
        metavar="N",
        help="attempts without a new commit before the failure is permanent (default %(default)s)",
    )
    add(
        "--master-timeout-s",
        type=float,
        default=DEFAULT_MASTER_TIMEOUT_S,
        metavar="S",
        help="how long to wait for the master's name (default %(default)s)",
    )
    add("command", nargs=argparse.REMAINDER, help="after --: a command to run in place of torchrun")


def launch(options: Options) -> int:
    """Train as one node of a job, record the cause of the termination and return the exit code."""
    stop = StopRequest()
    stop.install()
    return _Pod(options, stop).run().exit_code


def write_termination_message(end: End, *, step: int, node_rank: int) -> None:
    """Write Kubernetes' termination message, if the container has a file for it."""
    path = Path(os.environ.get(TERMINATION_LOG_VARIABLE) or TERMINATION_LOG)
    if TERMINATION_LOG_VARIABLE in os.environ or path.exists():
        with suppress(OSError):
            path.write_bytes(termination_message(end, step=step, node_rank=node_rank))


def termination_message(end: End, *, step: int, node_rank: int) -> bytes:
    """Return JSON of cause, exit code, committed step and node within Kubernetes' 4096 bytes."""
    cause = end.cause
    while True:
        message = {"cause": cause, "exit_code": end.exit_code, "step": step, "node_rank": node_rank}
        encoded = json.dumps(message).encode()
        excess = len(encoded) - TERMINATION_LOG_BYTES
        if excess <= 0:
            return encoded
        # an escaped character takes at most 12 bytes ("\\ud83d\\ude00")
        cause = cause[: len(cause) - max(excess // 12, 1) - 1] + "…"


class _Pod:
    """One attempt of one node."""

    def __init__(self, options: Options, stop: StopRequest) -> None:
        self._options = options
        self._stop = stop
        self._node_rank = 0
        self._step = 0
        self._host: Host | None = None
        self._reported: End | None = None

    def run(self) -> End:
        """Fetch, train, send, and report the termination; never raises."""
        attempts: Attempts | None = None
        run_dir: NodeRunDir | None = None
        try:
            self._host = find_host(os.environ)
            if self._host:
                logger.info("SageMaker host %s", self._host.description)
                os.environ.update({**self._host.variables(), **os.environ})
            if not self._options.command:  # a command has nothing to commit
                stop_before_limit(self._stop, os.environ)
            nodes = read_nodes(os.environ)
            self._node_rank = nodes.node_rank
            run_dir = _open_run_dir(self._options, nodes)
            self._step = remote_checkpoint.committed_step(run_dir.storage)
            attempts = Attempts(
                run_dir.storage, nodes.node_rank, max_attempts=self._options.max_attempts
            )
            exhausted = attempts.begin(self._step)
            end = exhausted or self._attempt(nodes, run_dir)
        except Exception as error:
            cause = to_rlvr_error(error, run_dir.path if run_dir else Path(self._options.run))
            if cause is not error and not isinstance(cause, PlatformError):
                logger.error("launch failed", exc_info=error)
            end = End(cause.exit_code, str(cause))
        if not run_dir or not attempts:
            self._report(end)
            return end
        if end.exit_code:
            self._report(end)  # the rest may take longer than the grace period
        end = self._close(end, run_dir, attempts)
        self._report(end)
        _send_logs(run_dir)
        return end

    def _report(self, end: End) -> None:
        """Report the end on stderr, once, and in the termination message."""
        if end.exit_code and end != self._reported:
            print(f"error: {end.cause}", file=sys.stderr, flush=True)
        self._reported = end
        write_termination_message(end, step=self._step, node_rank=self._node_rank)
        if self._host and end.exit_code:
            self._host.report_failure(end, self._step)

    def _attempt(self, nodes: Nodes, run_dir: NodeRunDir) -> End:
        trains = not self._options.command
        run_dir.fetch(required=trains)
        if trains and is_trained(run_dir.path):
            # other nodes may be gone; what is left does not need them
            if nodes.node_rank > 0:
                return End(0, "finished")
            return self._run_and_send(run_dir, [*_TRAIN_ALONE, str(run_dir.path)])
        if nodes.num_nodes > 1:
            self._wait_for_master(nodes.master_addr)
        if self._stop.requested:
            return End(EXIT_PREEMPTED, f"stopped by {self._stop.reason} before training began")
        if not trains:
            environment = {
                RUN_DIR_VARIABLE: str(run_dir.path),
                NODE_RANK_VARIABLE: str(nodes.node_rank),
                NUM_NODES_VARIABLE: str(nodes.num_nodes),
            }
            return self._run_and_send(run_dir, self._options.command, environment)
        log_dir = run_dir.path / LOGS / f"node-{nodes.node_rank}"
        log_dir.mkdir(parents=True, exist_ok=True)
        arguments = torchrun_arguments(nodes, str(log_dir), str(run_dir.path))
        return self._run_and_send(run_dir, [*_TORCHRUN, *arguments], signal_ranks=True)

    def _run_and_send(
        self,
        run_dir: NodeRunDir,
        command: list[str],
        added: Mapping[str, str] = MappingProxyType({}),
        *,
        signal_ranks: bool = False,
    ) -> End:
        run_dir.start()
        with tempfile.TemporaryDirectory(prefix="rlvr-ranks-") as ends_dir:
            environment = child_environment(os.environ, **run_dir.environment, **added)
            try:
                evidence = run_child(
                    command, environment, self._stop, Path(ends_dir), signal_ranks=signal_ranks
                )
            except OSError as error:
                return End(
                    2, f"{command[0]} cannot be run ({error.strerror or error}); name another"
                )
        end = first_cause(evidence)
        if end.exit_code == 0:
            trains = not self._options.command
            run_dir.finish(required=trains)
            if self._host and trains and self._node_rank == 0:
                self._host.place_adapter(run_dir.path / ADAPTER)
        return end

    def _wait_for_master(self, name: str) -> None:
        """Wait until the name resolves, or a stop. Raises PlatformError."""
        deadline = time.monotonic() + self._options.master_timeout_s
        while not self._stop.requested:
            try:
                socket.getaddrinfo(name, None)
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise PlatformError(
                        f"the master's name {name!r} did not resolve within "
                        f"{self._options.master_timeout_s:g} s ({error}); check its pod"
                    ) from None
            time.sleep(min(RESOLVE_INTERVAL_S, max(deadline - time.monotonic(), 0.01)))

    def _close(self, end: End, run_dir: NodeRunDir, attempts: Attempts) -> End:
        """Send the metrics and record the attempt; lost metrics make a success a failure."""
        try:
            run_dir.stop()
        except (RLVRError, OSError) as error:
            cause = to_rlvr_error(error, run_dir.path)
            end = end if end.exit_code else End(cause.exit_code, str(cause))
        try:
            self._step = remote_checkpoint.committed_step(run_dir.storage)
            return attempts.end(end, self._step)
        except (RLVRError, OSError) as error:
            logger.warning("the attempt is not recorded: %s", error)
            return end


def _send_logs(run_dir: NodeRunDir) -> None:
    try:
        run_dir.send_logs()
    except (RLVRError, OSError) as error:
        logger.warning("logs are lost: %s", error)


_TORCHRUN = [sys.executable, "-m", "rlvr_trainer.launch.elastic"]
_TRAIN_ALONE = [sys.executable, "-m", "rlvr_trainer", "train", "--run-dir"]


def _open_run_dir(options: Options, nodes: Nodes) -> NodeRunDir:
    storage = open_storage(options.run)
    if not options.run.startswith(S3_SCHEME):
        return SharedFolder(storage, nodes.node_rank)
    work_dir = options.work_dir or _default_work_dir()
    return RemoteCopy(storage, work_dir, nodes.node_rank)


def _default_work_dir() -> Path:
    """Return the volume that is mounted for it, or a new temporary folder."""
    if os.path.ismount(DEFAULT_WORK_DIR) or os.path.ismount(DEFAULT_WORK_DIR.parent):
        return DEFAULT_WORK_DIR
    return Path(tempfile.mkdtemp(prefix="rlvr-run-"))
