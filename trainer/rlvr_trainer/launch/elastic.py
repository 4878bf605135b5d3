"""Run torchrun and record how its ranks ended: `python -m rlvr_trainer.launch.elastic ARGUMENTS`.

The arguments are those of torch.distributed.run, whose exit code is 1 for every failure. The exit
codes of the ranks that failed first (negative: a signal) go to torchrun.json, beside the records of
the ranks themselves. Ranks that torchrun ends as a consequence are not among them.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from rlvr_trainer.errors import PlatformError
from rlvr_trainer.storage.atomic_files import write_durably
from rlvr_trainer.variables import RANK_ENDS_VARIABLE

TORCHRUN_END = "torchrun.json"
PR_SET_PDEATHSIG = 1  # linux/prctl.h
RENDEZVOUS_ERRORS = {
    "DistNetworkError",
    "DistStoreError",
    "RendezvousConnectionError",
    "RendezvousTimeoutError",
}


def main() -> int:
    """Run torchrun; return 0 if all ranks of this node ended with 0, 128 + n on signal n, else 1.

    138 if the record cannot be written, since those of the ranks may be missing too.
    """
    end_with_parent()
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(sys.argv[1:]))
    except ChildFailedError as error:
        failures = {str(rank): failure.exitcode for rank, failure in error.failures.items()}
        return _write({"failures": failures})
    except SignalException as error:
        return 128 + int(error.sigval)
    except Exception as error:
        if type(error).__name__ not in RENDEZVOUS_ERRORS:
            raise
        return _write({"rendezvous": f"{type(error).__name__}: {error}"})
    return 0


def end_with_parent() -> None:
    """Get SIGTERM if the parent is killed, which then cannot end this process and its ranks."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _write(end: dict[str, object]) -> int:
    text = json.dumps(end)
    try:
        write_durably(Path(os.environ[RANK_ENDS_VARIABLE]) / TORCHRUN_END, text)
    except OSError as error:
        print(f"{text} cannot be recorded for launch: {error}", file=sys.stderr, flush=True)
        return PlatformError.exit_code
    return 1


if __name__ == "__main__":
    sys.exit(main())
