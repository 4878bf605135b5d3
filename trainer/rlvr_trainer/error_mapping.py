"""Map any exception to an RLVRError, and so to an exit code.

The rank, the pod, the step and the command line all use `to_rlvr_error`. The causes of an exception
count as well: torch's writer reports a full disk as a RuntimeError, the Hugging Face hub a missing
network as a missing file.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rlvr_trainer.errors import PlatformError, RLVRError
from rlvr_trainer.storage.atomic_files import DISK_ERRNOS, FULL_ERRNOS, NETWORK_ERRNOS, disk_error

TORCH_WRITER_WORDS = ("pytorchstreamwriter failed writing", "inline_container.cc", "unexpected pos")
"""Messages of torch.save, which has no errno, for a failed write."""

NETWORK_CLASSES = {
    "ConnectTimeoutError",
    "MaxRetryError",
    "NewConnectionError",
    "ProtocolError",
    "ReadTimeoutError",
    "Timeout",
    "TransportError",
}
"""Base classes of httpx, requests and urllib3; by name, to avoid importing them."""

PASSING_STATUSES = {408, 429, 500, 502, 503, 504}
OFFLINE = "OfflineModeIsEnabled"
"""The hub's ConnectionError if HF_HUB_OFFLINE is set; a retry gets it again."""

PEER_CLASSES = {"DistBackendError", "DistNetworkError", "DistStoreError"}
"""Classes of torch.distributed."""

PEER_WORDS = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "socket timeout",
    "timed out waiting",
    "nccl communicator was aborted",
    "connectfullmesh failed",
    "read error",  # from gloo, if a socket breaks between two messages
)

HARDWARE_WORDS = (
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "hardware stack error",
    "fallen off the bus",
    "all cuda-capable devices are busy or unavailable",
)
"""CUDA's messages about a broken GPU; another node may work."""


def to_rlvr_error(
    error: BaseException, where: Path | None = None, *, hint: str = "the log has its traceback"
) -> RLVRError:
    """Return the error itself if it is an RLVRError, else the matching one.

    `where` is the folder to name if the exception does not name a file, `hint` the advice for an
    unexpected one.
    """
    if isinstance(error, RLVRError):
        return error
    return passing_error(error, where) or RLVRError(
        f"unexpected {type(error).__name__}: {error}; {hint}"
    )


def passing_error(
    error: BaseException, where: Path | None = None, *, source: str = ""
) -> PlatformError | None:
    """Return a PlatformError for a failure of disk, network, GPU or peer; None for any other.

    Such a failure may not occur again, so a retry is worthwhile. `source` is what was loaded over
    the network.
    """
    chain = list(_chain(error))
    for cause in chain:
        if failure := _disk_failure(cause, where):
            return failure
    for cause in chain:
        if failure := _network_failure(cause, source):
            return failure
    if is_peer_failure(error) or is_hardware_failure(error):
        return PlatformError(f"{type(error).__name__}: {error}")
    return None


def is_peer_failure(error: BaseException) -> bool:
    """Return True if the error only reports that another rank is gone."""
    if isinstance(error, RLVRError):
        return False
    if type(error).__name__ in PEER_CLASSES:
        return True
    return _is_runtime_error_with(error, PEER_WORDS)


def is_hardware_failure(error: BaseException) -> bool:
    """Return True if the error reports a broken GPU."""
    return _is_runtime_error_with(error, HARDWARE_WORDS)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, as a traceback shows them."""
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )


def _disk_failure(error: BaseException, where: Path | None) -> PlatformError | None:
    number = error.errno if isinstance(error, OSError) else None
    if number not in DISK_ERRNOS:  # a library's text, or shutil.Error's list of texts
        number = next((code for code in DISK_ERRNOS if os.strerror(code) in str(error)), None)
    reason = os.strerror(number) if number else str(error)
    if number is None and not _is_runtime_error_with(error, TORCH_WRITER_WORDS):
        return None
    doing: Literal["written", "read"] = "written" if number in {None, *FULL_ERRNOS} else "read"
    file = Path(getattr(error, "filename", None) or where or "a file")
    failure = disk_error(file, OSError(number or min(FULL_ERRNOS), reason), doing=doing)
    return failure if isinstance(failure, PlatformError) else None


def _network_failure(error: BaseException, source: str) -> PlatformError | None:
    response = getattr(error, "response", None)
    is_passing = (
        isinstance(error, ConnectionError | TimeoutError | socket.gaierror)
        or (isinstance(error, OSError) and error.errno in NETWORK_ERRNOS)
        or bool({kind.__name__ for kind in type(error).__mro__} & NETWORK_CLASSES)
        or getattr(response, "status_code", None) in PASSING_STATUSES
    )
    if not is_passing or OFFLINE in f"{type(error).__name__} {error}":
        return None
    what = f"{source} cannot be loaded: the network" if source else "the network"
    return PlatformError(
        f"{what} or a server failed ({type(error).__name__}: {_first_line(error)}); check the "
        f"connection and the proxy settings{', or name a local copy' if source else ''}, then try "
        "again"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _is_runtime_error_with(error: BaseException, words: tuple[str, ...]) -> bool:
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in message for word in words)
