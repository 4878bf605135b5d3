"""Check pod specs by Pod Security's *restricted* profile without an API server.

After https://kubernetes.io/docs/concepts/security/pod-security-standards/ (Linux pods, v1.34).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUME_TYPES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
SECCOMP_TYPES = {"RuntimeDefault", "Localhost"}
APPARMOR_TYPES = {"RuntimeDefault", "Localhost"}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def violations(pod_spec: dict[str, Any]) -> list[str]:
    """Return the pod's violations of *restricted*, each with the field's path."""
    violated = [*_pod(pod_spec)]
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod_spec.get(field) or []:
            where = f"{field}[{container.get('name')}]"
            violated += [f"{where}.{what}" for what in _container(container, _context(pod_spec))]
    return violated


def _context(holder: dict[str, Any]) -> dict[str, Any]:
    return holder.get("securityContext") or {}


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field}: true"
    for volume in spec.get("volumes") or []:
        for kind in sorted(set(volume) - {"name"} - VOLUME_TYPES):
            yield f"volumes[{volume.get('name')}]: {kind}"
    context = _context(spec)
    yield from _confinement(context)
    if context.get("runAsUser") == 0:
        yield "securityContext.runAsUser: 0"
    for sysctl in context.get("sysctls") or []:
        if sysctl["name"] not in SAFE_SYSCTLS:
            yield f"securityContext.sysctls: {sysctl['name']}"


def _container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    context = _context(container)
    yield from _confinement(context)
    if context.get("privileged"):
        yield "securityContext.privileged: true"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "securityContext.allowPrivilegeEscalation: is not false"
    if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "securityContext.runAsNonRoot: is not true"
    if context.get("runAsUser") == 0:
        yield "securityContext.runAsUser: 0"
    if not (context.get("seccompProfile") or pod.get("seccompProfile")):
        yield "securityContext.seccompProfile: missing"
    capabilities = context.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield "securityContext.capabilities.drop: lacks ALL"
    for added in capabilities.get("add") or []:
        if added != "NET_BIND_SERVICE":
            yield f"securityContext.capabilities.add: {added}"
    if context.get("procMount", "Default") != "Default":
        yield f"securityContext.procMount: {context['procMount']}"
    for port in container.get("ports") or []:
        if port.get("hostPort"):
            yield f"ports: hostPort {port['hostPort']}"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        for action in ("httpGet", "tcpSocket"):
            if ((container.get(probe) or {}).get(action) or {}).get("host"):
                yield f"{probe}.{action}.host: set"
    for hook in ("postStart", "preStop"):
        handler = ((container.get("lifecycle") or {}).get(hook)) or {}
        for action in ("httpGet", "tcpSocket"):
            if (handler.get(action) or {}).get("host"):
                yield f"lifecycle.{hook}.{action}.host: set"


def _confinement(context: dict[str, Any]) -> Iterator[str]:
    """Yield violations by the fields that pods and containers share."""
    seccomp = context.get("seccompProfile")
    if seccomp and seccomp.get("type") not in SECCOMP_TYPES:
        yield f"securityContext.seccompProfile: {seccomp.get('type')}"
    apparmor = context.get("appArmorProfile")
    if apparmor and apparmor.get("type") not in APPARMOR_TYPES:
        yield f"securityContext.appArmorProfile: {apparmor.get('type')}"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"securityContext.seLinuxOptions: {selinux}"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "securityContext.windowsOptions.hostProcess: true"
