"""Be a worker: make a function, then call it for each line of arguments on the standard input.

The first line says how to make it. Lines in both directions are JSON. The replies go to what was
the standard output; what the function prints goes to the standard error.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1
MAX_REASON_CHARACTERS = 300


def main() -> None:
    """Serve calls until the standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with suppress(OSError, AttributeError):  # Linux: end with the parent, also in an endless loop
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(2, 1)
    lines = iter(sys.stdin.buffer.readline, b"")
    start = json.loads(next(lines, b"null"))
    if start is None:
        return
    sys.path[:] = start["path"]
    made: list[Callable[..., Any]] = []

    def make(factory: str, *arguments: Any) -> None:
        module, _, name = factory.partition(":")
        made.append(getattr(importlib.import_module(module), name)(*arguments))

    print(_reply(make, [start["factory"], *start["arguments"]]), file=replies)
    for line in lines:
        print(_reply(made[0], json.loads(line)), file=replies)


def _reply(function: Callable[..., Any], arguments: list[Any]) -> str:
    """Return what a call returns or raises, as JSON."""
    try:
        return json.dumps({"value": function(*arguments)})
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"[:MAX_REASON_CHARACTERS]
        return json.dumps({"raised": reason})


if __name__ == "__main__":
    main()
