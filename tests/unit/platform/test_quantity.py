from decimal import Decimal

import pytest

from rlvr_components.platform.quantity import parse_quantity
from rlvr_trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (8, "8"),
        ("8", "8"),
        ("500m", "0.5"),
        ("1k", "1000"),
        ("2M", "2000000"),
        ("1e3", "1000"),
        ("2E3", "2000"),
        ("1E", "1e18"),
        ("1Ki", "1024"),
        ("1.5Gi", "1610612736"),
        ("3n", "3e-9"),
    ],
)
def test_a_quantity_is_read_as_kubernetes_reads_it(text: str | int, number: str) -> None:
    assert parse_quantity(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "much", "1K", "1 k", "1kk", "Gi", "1e", "nan", "inf"])
def test_what_kubernetes_refuses_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a quantity"):
        parse_quantity(text)
