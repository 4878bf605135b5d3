"""The options by which a command reaches Kubeflow and the cluster, and their variables."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

ENDPOINT_VARIABLE = "KF_PIPELINES_ENDPOINT"
UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"
TOKEN_PATH_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
"""Variables of kfp."""


@dataclass(frozen=True)
class AccessOptions:
    """The address of Kubeflow and the cluster, and the files that hold the credentials."""

    endpoint: str = ""
    """The address of Kubeflow Pipelines or of its UI; empty: that of the environment, else through
    the cluster."""
    namespace: str = ""
    """The namespace of jobs; in Kubeflow, the profile. Empty: the kubeconfig's."""
    context: str | None = None
    """The context of the kubeconfig."""
    token_file: Path | None = None
    cookies_file: Path | None = None
    ca_file: Path | None = None

    def command(self, *words: str) -> str:
        """Return `rlvr WORDS` with these options, quoted for a shell."""
        options = {
            "--endpoint": self.endpoint,
            "--namespace": self.namespace,
            "--context": self.context,
            "--token-file": self.token_file,
            "--cookies-file": self.cookies_file,
            "--ca-file": self.ca_file,
        }
        given = [part for name, value in options.items() if value for part in (name, str(value))]
        return shlex.join(["rlvr", *words, *given])
