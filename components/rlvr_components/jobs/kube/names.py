"""Annotations of a job that the launcher writes, and that a later one and kubectl read."""

from __future__ import annotations

SPEC_HASH = "rlvr.dev/spec-hash"
"""Of what was submitted."""
CAUSE = "rlvr.dev/cause"
EXIT_CODE = "rlvr.dev/exit-code"
"""Of a job that failed."""
RUNNING_SINCE = "rlvr.dev/running-since"
"""Seconds since 1970 when all replicas ran for the first time."""
OUT_OF_MEMORY = "rlvr.dev/out-of-memory"
"""`worker-1/UID`, space between: pods that ran out of memory."""
PROGRESS_STEP = "rlvr.dev/step"
REWARD = "rlvr.dev/reward"
PHASE = "rlvr.dev/phase"
