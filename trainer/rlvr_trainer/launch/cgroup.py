"""What the kernel's memory controller says of this container, in both versions of cgroups."""

from __future__ import annotations

import re
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
NO_LIMIT_BYTES = 2**60
"""Version 1 writes a number near 2**63 where there is no limit."""


def num_oom_kills(root: Path = CGROUP) -> int:
    """Processes of this container that the kernel killed for memory, since it started."""
    for name in ("memory.events", "memory/memory.oom_control"):
        found = re.search(r"^oom_kill (\d+)$", _read(root / name), re.MULTILINE)
        if found:
            return int(found[1])
    return 0


def memory_limit_gib(root: Path = CGROUP) -> float | None:
    """The container's memory limit, or None without one."""
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
