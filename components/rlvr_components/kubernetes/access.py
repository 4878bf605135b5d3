"""Find the API server with the official client: a kubeconfig's context, or this pod's account.

The package `kubernetes` reads the kubeconfig, runs exec plugins, renews tokens and sets up TLS. It
takes more than half a second to import, so it is imported only when a cluster is needed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.suggest import did_you_mean
from rlvr_trainer.variables import CONTEXT_VARIABLE

if TYPE_CHECKING:
    import ssl

    from urllib3 import PoolManager

KUBECONFIG_VARIABLE = "KUBECONFIG"
HOST_VARIABLE = "KUBERNETES_SERVICE_HOST"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LOGIN_METHODS = ("exec", "auth-provider")
"""Entries of a kubeconfig's user that obtain a token elsewhere."""
MAX_CONNECTIONS = 8


class ApiServerAccess:
    """An API server's address, with credentials that can be loaded again."""

    def __init__(
        self,
        load: Callable[[Any], None],
        *,
        namespace: str,
        origin: str,
        proxy: str = "",
        in_pod: bool = False,
    ) -> None:
        self._load = load
        """Fill the official client's Configuration. Raises ConfigError."""
        self._configuration = self._loaded()
        self.namespace = namespace
        """The context's, or the pod's own."""
        self.origin = origin
        """The kubeconfig's context or the service account, for messages."""
        self._proxy = proxy
        self.in_pod = in_pod
        """True if the credentials are this pod's service account, not a user's kubeconfig."""

    @property
    def server(self) -> str:
        """Return the address, without a trailing slash."""
        return str(self._configuration.host)

    def authorization(self) -> str:
        """Return the Authorization header, renewed if its token has expired; may be empty.

        Raises ConfigError.
        """
        with _explained(self.origin):
            settings = self._configuration.auth_settings()
        return next((str(setting["value"]).strip() for setting in settings.values()), "")

    def reload(self, refused: str) -> bool:
        """Load the credentials again; return True if the token or the certificate is a new one.

        Raises ConfigError.
        """
        certificate = self._configuration.cert_file
        self._configuration = self._loaded()
        return self.authorization() != refused or self._configuration.cert_file != certificate

    def pool(self) -> PoolManager:
        """Return a new connection pool for this server. Raises ConfigError."""
        import urllib3

        options: dict[str, Any] = {
            "maxsize": MAX_CONNECTIONS,
            "socket_options": _socket_options(),
        }
        if self.server.startswith("https:"):  # one context for all connections, to save memory
            options["ssl_context"] = self._ssl_context()
        if name := self._configuration.tls_server_name:
            options["server_hostname"] = options["assert_hostname"] = name
        proxy = self._proxy or _proxy_of_environment(self.server)
        return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)

    def _loaded(self) -> Any:
        from kubernetes.client import Configuration

        configuration = Configuration()
        self._load(configuration)
        return configuration

    def _ssl_context(self) -> ssl.SSLContext:
        import ssl

        configuration = self._configuration
        try:
            context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
            # Python 3.13 requires key identifiers, which the authorities of many clusters lack
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if not configuration.verify_ssl:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if configuration.cert_file:
                context.load_cert_chain(configuration.cert_file, configuration.key_file)
        except OSError as error:
            raise ConfigError(
                f"the certificates of {self.origin} cannot be used ({error}); write them again"
            ) from None
        return context


def find_access(context: str | None = None) -> ApiServerAccess:
    """Return the access of the kubeconfig's context; without a kubeconfig, of this pod.

    Raises ConfigError.
    """
    _check_installed()
    context = context or os.environ.get(CONTEXT_VARIABLE)
    if context or _existing_kubeconfigs():
        return _from_kubeconfig(context)
    if os.environ.get(HOST_VARIABLE):
        return from_service_account(SERVICE_ACCOUNT)
    raise ConfigError(
        f"no cluster: no kubeconfig exists at {_kubeconfig_paths()}, and this is not a pod with a "
        "service account; set KUBECONFIG"
    )


def has_cluster() -> bool:
    """Return True if this machine has a kubeconfig or is a pod. Imports and requests nothing."""
    return bool(os.environ.get(HOST_VARIABLE) or _existing_kubeconfigs())


def use_context(name: str | None) -> None:
    """Choose the kubeconfig's context for this process and the processes that it starts.

    None keeps the current one. Raises ConfigError.
    """
    if name:
        _check_installed()
        _Kubeconfig().context(name)
        os.environ[CONTEXT_VARIABLE] = name


def from_service_account(folder: Path) -> ApiServerAccess:
    """Return the access that Kubernetes mounts into a pod. Raises ConfigError."""

    def load(configuration: Any) -> None:
        from kubernetes.config.incluster_config import InClusterConfigLoader

        token, authority = folder / "token", folder / "ca.crt"
        hint = "mount it (automountServiceAccountToken: true)"
        with _explained(origin, hint):
            InClusterConfigLoader(str(token), str(authority)).load_and_set(configuration)

    origin, namespace = "the pod's service account", folder / "namespace"
    return ApiServerAccess(
        load,
        namespace=namespace.read_text("utf-8").strip() if namespace.is_file() else "default",
        origin=origin,
        in_pod=True,
    )


def _from_kubeconfig(context: str | None) -> ApiServerAccess:
    kubeconfig = _Kubeconfig()
    name, chosen = kubeconfig.context(context)
    user = kubeconfig.entry("users", chosen.get("user"))
    cluster = kubeconfig.entry("clusters", chosen.get("cluster"))
    origin = f"context {name!r} of {kubeconfig.origin}"
    method = next((method for method in LOGIN_METHODS if user.get(method)), "")
    if not cluster.get("server"):
        raise ConfigError(f"{origin} names no server; correct it")

    def load(configuration: Any) -> None:
        from kubernetes.config import load_kube_config

        subject, hint = origin, "correct it, or set KUBECONFIG"
        if method:
            subject = f"{origin}: {method} gave no token"
            hint = (user.get("exec") or {}).get("installHint") or "log in with your provider"
        with _explained(subject, hint) as logged:
            load_kube_config(kubeconfig.paths, name, client_configuration=configuration)
            if method and not (configuration.api_key or configuration.cert_file):
                raise ValueError("; ".join(logged) or "it has none")

    return ApiServerAccess(
        load,
        namespace=chosen.get("namespace") or "default",
        origin=origin,
        proxy=cluster.get("proxy-url") or "",
    )


class _Kubeconfig:
    """The entries of one or several kubeconfig files, merged by the official client."""

    def __init__(self) -> None:
        files = _existing_kubeconfigs()
        if not files:
            raise ConfigError(
                f"--context needs a kubeconfig, and none exists at {_kubeconfig_paths()}; set "
                "KUBECONFIG"
            )
        self.paths = os.pathsep.join(files)
        self.origin = ", ".join(files)
        from kubernetes.config.kube_config import KubeConfigMerger

        with _explained(self.origin):
            merged = KubeConfigMerger(self.paths)
            self._tree: dict[str, Any] = merged.config.value
            # kubectl takes the context of the first file, the official client that of the last
            names = [tree.get("current-context") for tree in merged.config_files.values()]
        self._current = next((str(name) for name in names if name), "")

    def context(self, name: str | None) -> tuple[str, dict[str, Any]]:
        """Return name and entry of the context, by default the current one. Raises ConfigError."""
        name = name or self._current
        if not name:
            raise ConfigError(f"{self.origin} has no current context; name one with --context")
        return name, self.entry("contexts", name)

    def entry(self, section: str, name: str | None) -> dict[str, Any]:
        """Return the entry of this name, or an empty one without a name. Raises ConfigError."""
        entries = {str(entry["name"]): entry for entry in self._tree[section]}
        kind = section.removesuffix("s")
        if not name:
            return {}
        if name not in entries:
            raise ConfigError(
                f"{self.origin} has no {kind} {name!r}; it has {', '.join(entries) or 'none'}"
                f"{did_you_mean(name, entries)}"
            )
        return entries[name].value.get(kind) or {}


def _check_installed() -> None:
    if find_spec("kubernetes") is None:
        raise ConfigError(
            "a cluster needs the package kubernetes, which is not installed; run "
            "pip install 'rlvr[kubernetes]'"
        )


def _existing_kubeconfigs() -> list[str]:
    paths = (Path(path).expanduser() for path in _kubeconfig_paths().split(os.pathsep) if path)
    return [str(path) for path in paths if path.is_file()]


def _kubeconfig_paths() -> str:
    return os.environ.get(KUBECONFIG_VARIABLE) or str(Path.home() / ".kube" / "config")


@contextmanager
def _explained(subject: str, hint: str = "correct it, or set KUBECONFIG") -> Iterator[list[str]]:
    """Raise the official client's errors as ConfigError; yield the messages that it logs."""
    from kubernetes.config import ConfigException
    from yaml import YAMLError

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(record.getMessage())

    logged: list[str] = []
    collector = Collector(logging.ERROR)
    logging.getLogger().addHandler(collector)
    try:
        yield logged
    except (ConfigException, YAMLError, OSError, ValueError, TypeError, LookupError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{subject} ({said}); {hint}") from None
    except AttributeError:  # the file is not a kubeconfig
        raise ConfigError(f"{subject} is not a kubeconfig; {hint}") from None
    finally:
        logging.getLogger().removeHandler(collector)


def _proxy_of_environment(server: str) -> str:
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(server)
    return "" if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme, "")


def _socket_options() -> list[tuple[int, int, int]]:
    """Return the options by which the kernel notices a lost peer within half a minute."""
    import socket

    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options
