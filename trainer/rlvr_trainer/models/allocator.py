"""How the C library's allocator treats the tensors of a CPU."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
# Activations are below it. Above it are logits, which would leave holes that nothing fits into.
_KEPT_BYTES = 64 * 2**20


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for the next step to use.

    By default glibc returns each large tensor to the system, which then has to find and clear its
    pages again in the next layer; a training step can spend a third of its time so. The process
    stays as large as its largest step. Does nothing with another C library.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_TRIM_THRESHOLD, -1)  # never
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TOP_PAD, _KEPT_BYTES)
