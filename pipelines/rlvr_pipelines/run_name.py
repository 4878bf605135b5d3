"""What a person means by RUN: a directory here, a run in Kubeflow, or one in the cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class RunName:
    """A run, and where to look for it."""

    text: str
    where: Literal["local", "kubeflow", "cluster"]

    @property
    def path(self) -> Path:
        """Of a local run."""
        return Path(self.text)


def parse_run(text: str) -> RunName:
    """A directory that is there, or is written as a path; a Kubeflow run's id; else a name.

    In the cluster it may be the name of a run or of a job.
    """
    if Path(text).is_dir() or "/" in text:
        return RunName(text, "local")
    if UUID.fullmatch(text.lower()):
        return RunName(text.lower(), "kubeflow")
    return RunName(text, "cluster")
