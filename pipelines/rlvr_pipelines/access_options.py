"""How a command reaches Kubeflow and the cluster. Imports nothing of theirs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

ENDPOINT_VARIABLE = "KF_PIPELINES_ENDPOINT"
UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"
TOKEN_PATH_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
"""kfp's own variables."""


@dataclass(frozen=True)
class Access:
    """Where they are, and which files say who we are. Nothing here is a secret itself."""

    endpoint: str = ""
    """Of Kubeflow Pipelines, or of the UI in front of it; empty: the environment's, or through the
    cluster."""
    namespace: str = ""
    """Of jobs; in Kubeflow with several users, the profile. Empty: the kubeconfig's."""
    context: str | None = None
    """Of the kubeconfig."""
    token_file: Path | None = None
    cookies_file: Path | None = None
    ca_file: Path | None = None

    def command(self, *words: str) -> str:
        """Return `rlvr WORDS` with the options that lead where this access does, for a shell."""
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
