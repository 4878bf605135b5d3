"""How to reach the API server: a kubeconfig's context, or the service account of this pod.

A kubeconfig is read as kubectl does it: $KUBECONFIG (several paths are merged, the first one wins)
or ~/.kube/config; certificates, tokens, token files and exec plugins such as `aws eks get-token`.
It is read here because the official client takes more than a second to import, which every
`rlvr status` would pay; what only that client understands is left to it.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlvr_components.jobs.kube.tokens import (
    AuthProvider,
    ExecPlugin,
    NoToken,
    StaticToken,
    Token,
    TokenFile,
)
from rlvr_trainer.errors import ConfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST_VARIABLE, PORT_VARIABLE = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"


@dataclass(frozen=True)
class Access:
    """A server and what it is to be asked with."""

    server: str
    namespace: str
    token: Token
    ssl_context: ssl.SSLContext | None = None
    """None: plain HTTP."""
    server_name: str = ""
    """What its certificate says, where that is not its address."""
    proxy: str = ""
    origin: str = ""
    """Where this was found, for messages."""
    is_of_pod: bool = False
    """Whether it is the service account of this pod, and not a person's kubeconfig."""


def find_access(context: str | None = None) -> Access:
    """The kubeconfig's context, or this pod's service account where there is no kubeconfig.

    Raises ConfigError.
    """
    paths = [path for path in _kubeconfig_paths() if path.is_file()]
    if paths:
        return from_kubeconfig(paths, context)
    if context:
        raise ConfigError(
            f"context {context!r} needs a kubeconfig, and there is none at "
            f"{', '.join(map(str, _kubeconfig_paths()))}; set KUBECONFIG"
        )
    if os.environ.get(HOST_VARIABLE):
        return from_service_account(SERVICE_ACCOUNT)
    raise ConfigError(
        f"no cluster: there is no kubeconfig at {', '.join(map(str, _kubeconfig_paths()))} and "
        "this is not a pod with a service account; set KUBECONFIG"
    )


def from_service_account(folder: Path) -> Access:
    """What Kubernetes mounts into a pod. Raises ConfigError."""
    host, port = os.environ[HOST_VARIABLE], os.environ.get(PORT_VARIABLE, "443")
    authority = folder / "ca.crt"
    if not (folder / "token").is_file() or not authority.is_file():
        raise ConfigError(
            f"{folder} holds no token or ca.crt; let the pod's service account be mounted "
            "(automountServiceAccountToken)"
        )
    namespace = folder / "namespace"
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=namespace.read_text("utf-8").strip() if namespace.is_file() else "default",
        token=TokenFile(folder / "token"),
        ssl_context=_trusting(cafile=str(authority)),
        origin="the pod's service account",
        is_of_pod=True,
    )


def from_kubeconfig(paths: list[Path], context: str | None = None) -> Access:
    """The context of that name, or the current one. Raises ConfigError."""
    config = _Kubeconfig(paths)
    name = context or config.current_context
    if not name:
        raise ConfigError(f"{config.origin} has no current context; name one with --context")
    chosen = config.entry("contexts", name, "context")
    cluster = config.entry("clusters", chosen.get("cluster", ""), "cluster")
    user = config.entry("users", chosen["user"], "user") if chosen.get("user") else {}
    server = str(cluster.get("server", "")).rstrip("/")
    if not server:
        raise ConfigError(f"{config.origin}: context {name!r} names no server; correct it")
    return Access(
        server=server,
        namespace=chosen.get("namespace") or "default",
        token=_token(
            user,
            os.pathsep.join(map(str, paths)),
            name,
            f"{config.origin}, user {chosen.get('user')!r}",
        ),
        ssl_context=_ssl_context(cluster, user) if server.startswith("https:") else None,
        server_name=cluster.get("tls-server-name", ""),
        proxy=cluster.get("proxy-url", ""),
        origin=f"context {name!r} of {config.origin}",
    )


def _kubeconfig_paths() -> list[Path]:
    listed = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    return [Path(each).expanduser() for each in listed.split(os.pathsep) if each]


class _Kubeconfig:
    """One or several files as one; paths within a file are relative to it."""

    def __init__(self, paths: list[Path]) -> None:
        self.origin = ", ".join(map(str, paths))
        self.current_context = ""
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}
        for path in paths:
            tree = _read_yaml(path)
            self.current_context = self.current_context or tree.get("current-context") or ""
            for section, key in (
                ("contexts", "context"),
                ("clusters", "cluster"),
                ("users", "user"),
            ):
                for each in tree.get(section) or ():
                    entry = _absolute(each.get(key) or {}, path.parent)
                    self._entries.setdefault((section, each.get("name", "")), entry)

    def entry(self, section: str, name: str, what: str) -> dict[str, Any]:
        """Raises ConfigError, with the names that there are."""
        found = self._entries.get((section, name))
        if found is None:
            known = sorted(known for kind, known in self._entries if kind == section)
            raise ConfigError(
                f"{self.origin} has no {what} {name!r}; it has {', '.join(known) or 'none'}"
            )
        return found


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as a kubeconfig ({error}); correct it") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} is empty or no kubeconfig; correct it, or set KUBECONFIG")
    return tree


_PATHS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


def _absolute(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    found = {**entry, **{key: str(folder / entry[key]) for key in _PATHS if entry.get(key)}}
    command = (entry.get("exec") or {}).get("command", "")
    if "/" in command:  # else it is looked up in PATH
        found["exec"] = {**entry["exec"], "command": str(folder / command)}
    return found


def _token(user: Mapping[str, Any], kubeconfig: str, context: str, origin: str) -> Token:
    if user.get("exec"):
        return ExecPlugin(user["exec"], origin)
    if user.get("tokenFile"):
        return TokenFile(Path(user["tokenFile"]))
    if user.get("token"):
        return StaticToken(user["token"])
    if user.get("auth-provider"):
        return AuthProvider(kubeconfig, context, origin)
    if user.get("username"):
        raise ConfigError(
            f"{origin} has a username and a password, which API servers no longer accept; use a "
            "token or a certificate"
        )
    return NoToken()


def _ssl_context(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    try:
        context = _trusting(
            cafile=cluster.get("certificate-authority"),
            cadata=_decoded(cluster.get("certificate-authority-data")).decode() or None,
        )
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if user.get("client-certificate-data") or user.get("client-certificate"):
            _load_certificate(context, user)
    except (OSError, ValueError) as error:  # ssl.SSLError and binascii.Error among them
        raise ConfigError(
            f"the kubeconfig's certificates cannot be used ({error}); write it again"
        ) from None
    return context


def _trusting(*, cafile: str | None = None, cadata: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=cafile, cadata=cadata)
    # Python 3.13 asks for key identifiers, which many a cluster's own authority leaves out
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _load_certificate(context: ssl.SSLContext, user: Mapping[str, Any]) -> None:
    """OpenSSL reads a client's certificate and key from files only."""
    with tempfile.TemporaryDirectory(prefix="rlvr-kube-") as folder:  # only this user may look
        files = []
        for name in ("client-certificate", "client-key"):
            content = _decoded(user.get(f"{name}-data"))
            path = Path(folder, name)
            path.write_bytes(content or Path(user[name]).read_bytes())
            files.append(str(path))
        context.load_cert_chain(*files)


def _decoded(data: str | None) -> bytes:
    try:
        return base64.b64decode(data or "", validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
