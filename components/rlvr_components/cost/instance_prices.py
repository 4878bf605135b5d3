"""Look up the list price and the GPUs of an instance type in the package's table."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Service = Literal["ec2", "sagemaker"]

TABLE = "list_prices.csv"
SAGEMAKER_PREFIX = "ml."


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU by its data sheet: dense bfloat16 TFLOP/s and GB/s of memory."""

    tflops: float
    gb_per_s: float


GPUS: Mapping[str, Gpu] = {
    "A10G": Gpu(70, 600),
    "L4": Gpu(121, 300),
    "L40S": Gpu(362, 864),
    "A100-40GB": Gpu(312, 1555),
    "A100-80GB": Gpu(312, 2039),
    "H100": Gpu(989, 3350),
    "H200": Gpu(989, 4800),
}


@dataclass(frozen=True)
class Instance:
    """An instance type at its list price."""

    instance_type: str
    """As the service names it: `g5.xlarge` in EC2, `ml.g5.xlarge` in SageMaker."""
    gpu: Gpu
    num_gpus: int
    usd_per_hour: float


def find_instance(instance_type: str) -> Instance | None:
    """Return the instance type at the price of its service; None if the table does not have it.

    A type that begins with `ml.` has SageMaker's price for training, any other one EC2's.
    """
    name = instance_type.removeprefix(SAGEMAKER_PREFIX)
    service: Service = "ec2" if name == instance_type else "sagemaker"
    row = _rows().get(name)
    if row is None or not row[service]:
        return None
    return Instance(instance_type, GPUS[row["gpu"]], int(row["gpus"]), float(row[service]))


def priced_types(service: Service) -> list[str]:
    """Return the types that have a price in the service, by its own names."""
    prefix = SAGEMAKER_PREFIX if service == "sagemaker" else ""
    return [f"{prefix}{name}" for name, row in _rows().items() if row[service]]


@cache
def price_date() -> str:
    """Return the date of the table, as YYYY-MM-DD."""
    match = re.search(r"as of (\d{4}-\d{2}-\d{2})", _text())
    assert match, f"{TABLE} has a date"
    return match[1]


@cache
def _rows() -> dict[str, dict[str, str]]:
    lines = [line for line in _text().splitlines() if not line.startswith("#")]
    return {row["type"]: row for row in csv.DictReader(lines)}


def _text() -> str:
    return files("rlvr_components.cost").joinpath(TABLE).read_text("utf-8")
