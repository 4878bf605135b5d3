"""Read the memory limit and the OOM kills of this container, in both versions of cgroups."""

from __future__ import annotations

import re
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
NO_LIMIT_BYTES = 2**60
"""Version 1 writes a number near 2**63 for no limit."""


def num_oom_kills(root: Path = CGROUP) -> int:
    """Return the number of processes of this container that the OOM killer killed so far."""
    for name in ("memory.events", "memory/memory.oom_control"):
        match = re.search(r"^oom_kill (\d+)$", _read(root / name), re.MULTILINE)
        if match:
            return int(match[1])
    return 0


def memory_limit_gib(root: Path = CGROUP) -> float | None:
    """Return the container's memory limit, or None without one."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(root / name).strip()
        if text.isdecimal() and int(text) < NO_LIMIT_BYTES:
            return int(text) / 2**30
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
