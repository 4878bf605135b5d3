"""Parse quantities of Kubernetes: 500m, 4, 1k, 16Gi, 1e3."""

from __future__ import annotations

import re
from decimal import Decimal

from rlvr_trainer.errors import ConfigError

FACTORS = {
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("num", start=-3)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
    "": Decimal(1),
}
QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([a-zA-Z]*)", re.ASCII)


def parse_quantity(text: str | int) -> Decimal:
    """Return a quantity as a number. Raises ConfigError."""
    match = QUANTITY.fullmatch(str(text))
    if match is None or match[2] not in FACTORS:
        raise ConfigError(f"{text!r} is not a quantity of Kubernetes; write 500m, 4, 16Gi")
    return Decimal(match[1]) * FACTORS[match[2]]
