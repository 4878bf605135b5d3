"""Where the bearer token of a request comes from, and how to get a newer one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from rlvr_trainer.errors import ConfigError

REREAD_S = 60.0
"""Kubernetes writes a new token long before the old one ends."""
EXEC_TIMEOUT_S = 60
EXPIRY_MARGIN_S = 60.0
UNTIL_REFUSED = float("inf")


class Token(Protocol):
    """A bearer token that may change while the process runs."""

    def value(self) -> str:
        """The token, or nothing. Raises ConfigError."""

    def refresh(self) -> bool:
        """The server refused it: forget it; whether `value` may be another one now."""


class NoToken:
    """A certificate speaks for the user."""

    def value(self) -> str:
        """Nothing."""
        return ""

    def refresh(self) -> bool:
        """There is nothing else to try."""
        return False


class StaticToken:
    """A token that stands in the kubeconfig."""

    def __init__(self, token: str) -> None:
        self._token = token

    def value(self) -> str:
        """Always the same."""
        return self._token

    def refresh(self) -> bool:
        """There is nothing else to try."""
        return False


class TokenFile:
    """A file that somebody else keeps up to date, the kubelet for one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""
        self._read_at = -UNTIL_REFUSED

    def value(self) -> str:
        """As the file has it, at most a minute old."""
        if time.monotonic() - self._read_at > REREAD_S:
            try:
                self._token = self._path.read_text("utf-8").strip()
            except OSError as error:
                if not self._token:
                    raise ConfigError(
                        f"the token {self._path} cannot be read ({error.strerror}); check the "
                        "kubeconfig, or the pod's service account"
                    ) from None
            self._read_at = time.monotonic()
        return self._token

    def refresh(self) -> bool:
        """Read the file again."""
        self._read_at = -UNTIL_REFUSED
        return True


class ExecPlugin:
    """A program that prints a token (client.authentication.k8s.io), `aws eks get-token` say."""

    def __init__(self, config: Mapping[str, Any], origin: str) -> None:
        self._config = config
        self._origin = origin
        self._token = ""
        self._expires_at = 0.0

    def value(self) -> str:
        """The last one until it ends; then the program is run."""
        if time.time() > self._expires_at - EXPIRY_MARGIN_S:
            status = self._run()
            self._token = str(status.get("token", ""))
            if not self._token:
                raise ConfigError(
                    f"{self._origin}: {self._config.get('command')} printed no token (certificates "
                    "from a plugin are not read); choose a plugin that prints one"
                )
            self._expires_at = _timestamp(status.get("expirationTimestamp"))
        return self._token

    def refresh(self) -> bool:
        """Run the program again."""
        self._expires_at = 0.0
        return True

    def _run(self) -> dict[str, Any]:
        command = [str(self._config.get("command", "")), *(self._config.get("args") or ())]
        version = self._config.get("apiVersion", "client.authentication.k8s.io/v1")
        request = {
            "apiVersion": version,
            "kind": "ExecCredential",
            "spec": {"interactive": sys.stdin is not None and sys.stdin.isatty()},
        }
        added = {each["name"]: each["value"] for each in self._config.get("env") or ()}
        try:
            result = subprocess.run(
                command,
                env={**os.environ, **added, "KUBERNETES_EXEC_INFO": json.dumps(request)},
                capture_output=True,
                text=True,
                timeout=EXEC_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            hint = self._config.get("installHint") or "install it, or correct the kubeconfig"
            raise ConfigError(
                f"{self._origin}: {command[0]} did not run ({error}); {hint}"
            ) from None
        if result.returncode != 0:
            said = result.stderr.strip() or f"exit code {result.returncode}"
            raise ConfigError(
                f"{self._origin}: {' '.join(command)} failed ({said}); log in with your provider"
            )
        try:
            status = json.loads(result.stdout)["status"]
        except (ValueError, KeyError, TypeError):
            status = {}
        return status if isinstance(status, dict) else {}


class AuthProvider:
    """A kubeconfig's auth-provider (OIDC, say), which the official client still knows.

    It takes more than a second to import, so only those need it who have one.
    """

    def __init__(self, kubeconfig: str, context: str, origin: str) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._origin = origin
        self._token = ""
        self._read_at = -UNTIL_REFUSED

    def value(self) -> str:
        """As the provider has it, at most a minute old."""
        if time.monotonic() - self._read_at > REREAD_S:
            self._token = self._load()
            self._read_at = time.monotonic()
        return self._token

    def refresh(self) -> bool:
        """Ask the provider again."""
        self._read_at = -UNTIL_REFUSED
        return True

    def _load(self) -> str:
        try:
            from kubernetes import client, config
        except ImportError:
            raise ConfigError(
                f"{self._origin} has an auth-provider, which needs the package kubernetes; "
                "pip install 'rlvr[kubernetes]'"
            ) from None
        configuration = client.Configuration()
        try:
            config.load_kube_config(
                self._kubeconfig, self._context, client_configuration=configuration
            )
            found = configuration.get_api_key_with_prefix("authorization") or ""
        except Exception as error:  # of every provider's own library
            raise ConfigError(
                f"{self._origin}: its auth-provider gave no token ({error}); log in with your "
                "provider, or let its tool write the kubeconfig again with an exec plugin"
            ) from None
        if not found:
            raise ConfigError(
                f"{self._origin}: its auth-provider gave no token; log in with your provider, or "
                "let its tool write the kubeconfig again with an exec plugin"
            )
        return str(found).removeprefix("Bearer ")


def _timestamp(text: str | None) -> float:
    if not text:
        return UNTIL_REFUSED
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
