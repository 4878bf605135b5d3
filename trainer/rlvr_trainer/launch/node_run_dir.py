"""Provide the run directory of a launch: a shared folder, or S3 with a copy on this node.

A shared folder is used in place. From S3 each node fetches recipe, data and the newest committed
checkpoint; the ranks commit checkpoints to S3 themselves (`remote_checkpoint`), node 0 keeps
metrics.jsonl up to date and, at the end, sends the adapter. RLVR_ADAPTER_URI sends the adapter
elsewhere, for example to the artifact of a pipeline.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from rlvr_trainer.errors import CheckpointError, DataError, PlatformError, RLVRError
from rlvr_trainer.recipe.trajectory import is_last
from rlvr_trainer.run_dir import checkpoint, remote_checkpoint
from rlvr_trainer.run_dir.layout import (
    ADAPTER,
    CHECKPOINTS,
    DATA,
    LOGS,
    METRICS,
    RECIPE,
    read_recipe,
)
from rlvr_trainer.run_dir.metrics_log import MetricsSender
from rlvr_trainer.storage import Storage, open_storage
from rlvr_trainer.variables import ADAPTER_URI_VARIABLE, RUN_URI_VARIABLE, VERIFIED_VARIABLE

logger = logging.getLogger(__name__)

UPLOAD_INTERVAL_S = 5.0
MAX_UPLOAD_INTERVAL_S = 60.0
"""A long run sends its metrics less often, at most every 1 % of its time."""


class SharedFolder:
    """A folder on a volume that all nodes share."""

    def __init__(self, storage: Storage, node_rank: int = 0) -> None:
        self.storage = storage
        self.path = Path(storage.uri)
        self.environment: dict[str, str] = {}
        self._is_first = node_rank == 0

    def fetch(self, *, required: bool) -> None:
        """Check the recipe, and verify the checkpoint to resume.

        Raises ConfigError, CheckpointError.
        """
        if required:
            read_recipe(self.storage)
            newest = checkpoint.newest(self.path / CHECKPOINTS)
            self.environment[VERIFIED_VARIABLE] = str(newest.path) if newest else ""

    def start(self) -> None:
        """Do nothing: there is nothing to keep up to date."""

    def stop(self) -> None:
        """Do nothing: there is nothing to send."""

    def send_logs(self) -> None:
        """Do nothing: the logs are in the run directory."""

    def finish(self, *, required: bool) -> None:
        """Check that the adapter exists, and send it to RLVR_ADAPTER_URI.

        Raises ConfigError, PlatformError.
        """
        adapter = self.path / ADAPTER
        if required and not adapter.is_dir():
            raise PlatformError(f"{adapter} does not exist after training; try again")
        if required and self._is_first and os.environ.get(ADAPTER_URI_VARIABLE):
            _send_adapter(adapter, self.storage)


class RemoteCopy:
    """A copy on this node's disk of a run directory in S3."""

    def __init__(self, storage: Storage, path: Path, node_rank: int) -> None:
        self.storage = storage
        self.path = path
        self.environment = {RUN_URI_VARIABLE: storage.uri}
        self._is_first = node_rank == 0
        self._metrics = MetricsSender(path / METRICS, storage)
        self._stopped = threading.Event()
        self._uploads = threading.Thread(target=self._keep_metrics, daemon=True)

    def fetch(self, *, required: bool) -> None:
        """Copy recipe, data, metrics and the newest valid checkpoint to this node.

        Raises ConfigError, DataError, CheckpointError, PlatformError.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for name in (CHECKPOINTS, ADAPTER, LOGS):
            shutil.rmtree(self.path / name, ignore_errors=True)  # S3 counts
        (self.path / RECIPE).unlink(missing_ok=True)
        if required:
            read_recipe(self.storage)
        with suppress(FileNotFoundError):
            self.storage.download_file(RECIPE, self.path / RECIPE)
        try:
            self.storage.download_dir(DATA, self.path / DATA)
        except FileNotFoundError:
            if required:
                raise DataError(
                    f"{self.storage.uri}/{DATA} does not hold files; prepare the data first"
                ) from None
        if self._is_first:
            self._metrics.fetch()
        if required:
            newest = remote_checkpoint.download_newest(self.storage, self.path / CHECKPOINTS)
            self.environment[VERIFIED_VARIABLE] = str(newest.path) if newest else ""
            logger.info(
                "%s: %s", self.storage.uri, f"step {newest.step}" if newest else "a new run"
            )

    def start(self) -> None:
        """Start to send metrics.jsonl as it grows."""
        if self._is_first:
            self._uploads.start()

    def stop(self) -> None:
        """Send the rest of metrics.jsonl. Raises ConfigError, PlatformError, OSError."""
        self._stopped.set()
        if self._is_first:
            with suppress(RuntimeError):  # not started
                self._uploads.join()
            self._metrics.join()

    def send_logs(self) -> None:
        """Send the logs of the ranks. Raises ConfigError, PlatformError, OSError."""
        if (self.path / LOGS).is_dir():
            self.storage.upload_dir(self.path / LOGS, LOGS)

    def finish(self, *, required: bool) -> None:
        """Send the adapter, and check that S3 lists all of it.

        Raises ConfigError, PlatformError.
        """
        if not self._is_first:
            return
        adapter = self.path / ADAPTER
        if adapter.is_dir():
            _send_adapter(adapter, self.storage)
        elif required:
            raise PlatformError(f"{adapter} does not exist after training; try again")

    def _keep_metrics(self) -> None:
        interval_s, started = UPLOAD_INTERVAL_S, time.monotonic()
        while not self._stopped.wait(interval_s):
            try:
                self._metrics.send()
            except (RLVRError, OSError) as error:  # the next send includes it
                logger.warning("metrics are late: %s", error)
            elapsed_s = time.monotonic() - started
            interval_s = min(max(interval_s, elapsed_s / 100), MAX_UPLOAD_INTERVAL_S)


NodeRunDir = SharedFolder | RemoteCopy


def _send_adapter(adapter: Path, run_dir: Storage) -> None:
    """Send the adapter, and check that all of it is listed. Raises ConfigError, PlatformError."""
    elsewhere = os.environ.get(ADAPTER_URI_VARIABLE)
    storage, folder = (open_storage(elsewhere), "") if elsewhere else (run_dir, ADAPTER)
    storage.upload_dir(adapter, folder)
    listed = storage.sizes(folder)
    for path in adapter.rglob("*"):
        key = (Path(folder) / path.relative_to(adapter)).as_posix()
        if path.is_file() and listed.get(key) != path.stat().st_size:
            raise PlatformError(
                f"{storage.uri}/{key} is {listed.get(key, 'missing')} after its upload, "
                f"not {path.stat().st_size} bytes; try again"
            )


def is_trained(run_dir: Path) -> bool:
    """Return True if the last step is committed, so only the adapter may be missing."""
    newest = checkpoint.newest_committed(run_dir / CHECKPOINTS)
    try:
        return newest is not None and is_last(newest, read_recipe(run_dir))
    except CheckpointError:
        return False  # training skips it
