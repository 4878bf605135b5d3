"""Parse RUN of the command line: a directory here, a run in Kubeflow, or one in the cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class RunName:
    """The name of a run, and the place where it is looked up."""

    text: str
    where: Literal["local", "kubeflow", "cluster"]

    @property
    def path(self) -> Path:
        """The directory of a local run."""
        return Path(self.text)


def parse_run(text: str) -> RunName:
    """Return the directory if there is one or the text is a path, else a Kubeflow id, else a name.

    In the cluster, the name is of a run or a job.
    """
    if Path(text).is_dir() or "/" in text:
        return RunName(text, "local")
    if UUID.fullmatch(text.lower()):
        return RunName(text.lower(), "kubeflow")
    return RunName(text, "cluster")
