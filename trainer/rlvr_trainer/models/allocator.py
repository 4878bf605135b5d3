"""Tune the C library's allocator for tensors on a CPU."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
# activations are smaller; logits are larger and would leave holes that nothing fits into
_KEPT_BYTES = 64 * 2**20


def keep_freed_memory() -> None:
    """Keep freed memory in this process for the next step; glibc only.

    By default glibc returns each large tensor to the system, which has to clear the pages again for
    the next layer: up to a third of the time of a training step. The process stays as large as its
    largest step.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_TRIM_THRESHOLD, -1)  # never
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TOP_PAD, _KEPT_BYTES)
