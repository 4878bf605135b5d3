"""Number of GPUs of SageMaker's instance types, which no API of SageMaker tells."""

from __future__ import annotations

import re

from rlvr_trainer.errors import ConfigError

_BY_SIZE = {
    **dict.fromkeys(("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge"), 1),
    "12xlarge": 4,
    "24xlarge": 4,
    "48xlarge": 8,
}
_GPUS: dict[str, dict[str, int]] = {
    "g4dn": _BY_SIZE,
    "g5": _BY_SIZE,
    "g6": _BY_SIZE,
    "g6e": _BY_SIZE,
    "g7e": {**_BY_SIZE, "12xlarge": 2},
    "p3": {"2xlarge": 1, "8xlarge": 4, "16xlarge": 8},
    "p3dn": {"24xlarge": 8},
    "p4d": {"24xlarge": 8},
    "p4de": {"24xlarge": 8},
    "p5": {"4xlarge": 1, "48xlarge": 8},
    "p5e": {"48xlarge": 8},
    "p5en": {"48xlarge": 8},
    "p6-b200": {"48xlarge": 8},
    "p6-b300": {"48xlarge": 8},
}
"""Family → size → GPUs (https://docs.aws.amazon.com/ec2/latest/instancetypes/ac.html)."""
TYPE = re.compile(r"ml\.([a-z0-9-]+)\.([a-z0-9]+)")


def num_gpus_of(instance_type: str) -> int | None:
    """Return the GPUs of an instance of this type; None for a type with unknown accelerators.

    Raises ConfigError if it is not a type.
    """
    match = TYPE.fullmatch(instance_type)
    if not match:
        raise ConfigError(f"{instance_type!r} is not an instance type; write ml.FAMILY.SIZE")
    family, size = match.groups()
    if family in _GPUS:
        return _GPUS[family].get(size)
    return None if is_accelerated(instance_type) else 0


def is_accelerated(instance_type: str) -> bool:
    """Return True for a family of accelerated instances: those of G, P, Trn and Inf."""
    return instance_type.startswith(("ml.g", "ml.p", "ml.trn", "ml.inf"))
