"""Run `launch` as the container of a SageMaker training job, without SageMaker's toolkit.

The service lays out files below /opt/ml before the container starts:

    input/config/resourceconfig.json    the hosts, this host, its instance type, its interface
    input/config/inputdataconfig.json   the channels
    input/data/CHANNEL/                 the files of a channel
    output/failure                      written by the container: becomes the job's FailureReason
    model/                              written by the container: becomes model.tar.gz

Checkpoints go to the run directory in S3, never below /opt/ml. Layout: "How Amazon SageMaker AI
Provides Training Information" and "… Signals Algorithm Success and Failure" in the Developer Guide.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.launch.exit_causes import End
from rlvr_trainer.launch.operator_environment import DEFAULT_MASTER_PORT
from rlvr_trainer.variables import MODEL_DIR_VARIABLE, SAGEMAKER_ROOT_VARIABLE

logger = logging.getLogger(__name__)

DEFAULT_ROOT = "/opt/ml"
MODEL_CHANNEL = "model"
FAILURE_CHARACTERS = 980
"""FailureReason has 1,024 with the words that the service adds."""
EFA_DEVICES = Path("/sys/class/infiniband")


@dataclass(frozen=True)
class Host:
    """One host of a training job, as its files describe it."""

    root: Path
    name: str
    hosts: tuple[str, ...]
    """All hosts, by rank."""
    interface: str = ""
    """Network interface to the other hosts."""
    instance_type: str = ""
    channels: frozenset[str] = frozenset()
    has_efa: bool = False

    @property
    def rank(self) -> int:
        return self.hosts.index(self.name)

    @property
    def description(self) -> str:
        """The host in words, for the log."""
        parts = [
            f"{self.name} (rank {self.rank} of {len(self.hosts)})",
            self.instance_type or "unknown type",
            f"interface {self.interface or 'not named'}",
            "EFA" if self.has_efa else "no EFA",
            f"channels {', '.join(sorted(self.channels)) or 'none'}",
        ]
        return ", ".join(parts)

    def variables(self) -> dict[str, str]:
        """Return the variables that the rest of launch, NCCL and gloo read."""
        variables = {
            "PET_NNODES": str(len(self.hosts)),
            "PET_NODE_RANK": str(self.rank),
            "MASTER_ADDR": self.hosts[0],
            "MASTER_PORT": str(DEFAULT_MASTER_PORT),
        }
        if self.interface:
            variables |= {
                "NCCL_SOCKET_IFNAME": self.interface,
                "GLOO_SOCKET_IFNAME": self.interface,
            }
        if self.has_efa:
            # with huge pages a process that forks, as data loaders do, can run out of memory
            variables |= {"FI_PROVIDER": "efa", "FI_EFA_USE_HUGE_PAGE": "0"}
        if MODEL_CHANNEL in self.channels:
            variables[MODEL_DIR_VARIABLE] = str(self.root / "input" / "data" / MODEL_CHANNEL)
        return variables

    def report_failure(self, end: End, step: int) -> None:
        """Write the cause where the service reads it."""
        try:
            folder = self.root / "output"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "failure").write_text(failure_line(end, step), "utf-8")
        except OSError as error:
            logger.warning("the job's FailureReason will not say the cause: %s", error)

    def place_adapter(self, adapter: Path) -> None:
        """Copy the adapter to where the service makes model.tar.gz of it, whole or not at all.

        The run directory has the adapter in any case, so a failure is only logged.
        """
        model = self.root / "model"
        try:
            shutil.copytree(adapter, model, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            logger.warning("model.tar.gz will not hold the adapter: %s", error)
            for file in adapter.rglob("*"):
                if file.is_file():
                    (model / file.relative_to(adapter)).unlink(missing_ok=True)


def find_host(environ: Mapping[str, str]) -> Host | None:
    """Return this host of a training job, or None anywhere else. Raises ConfigError."""
    root = Path(environ.get(SAGEMAKER_ROOT_VARIABLE) or DEFAULT_ROOT)
    config = root / "input" / "config"
    resources = _read_json(config / "resourceconfig.json")
    if resources is None:
        return None
    channels = _read_json(config / "inputdataconfig.json") or {}
    return parse_host(root, resources, channels, has_efa=_has_efa())


def parse_host(
    root: Path, resources: Mapping[str, Any], channels: Mapping[str, Any], *, has_efa: bool = False
) -> Host:
    """Return the host that the contents of the two files describe. Pure. Raises ConfigError."""
    name, hosts = resources.get("current_host"), resources.get("hosts")
    if not isinstance(hosts, list) or name not in hosts:
        raise ConfigError(
            f"resourceconfig.json has current_host {name!r} and hosts {hosts!r}, and the former "
            "must be one of the latter; SageMaker writes this file"
        )
    return Host(
        root,
        str(name),
        tuple(sorted((str(host) for host in hosts), key=_natural)),
        interface=str(resources.get("network_interface_name") or ""),
        instance_type=str(resources.get("current_instance_type") or ""),
        channels=frozenset(channels),
        has_efa=has_efa,
    )


def failure_line(end: End, step: int) -> str:
    """Return `[CODE] step STEP: CAUSE` in one line that FailureReason has room for. Pure."""
    line = f"[{end.exit_code}] step {step}: {' '.join(end.cause.split())}"
    return line if len(line) <= FAILURE_CHARACTERS else f"{line[: FAILURE_CHARACTERS - 1]}…"


def _natural(host: str) -> list[str | int]:
    """Order algo-2 before algo-10: the texts and numbers of a name alternate."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", host)]


def _read_json(path: Path) -> Mapping[str, Any] | None:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); SageMaker writes this file") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} does not hold an object; SageMaker writes this file")
    return content


def _has_efa() -> bool:
    """Return True if the instance has an Elastic Fabric Adapter, by the driver of its devices."""
    try:
        devices = list(EFA_DEVICES.iterdir())
    except OSError:
        return False
    return any((device / "device" / "driver").resolve().name == "efa" for device in devices)
