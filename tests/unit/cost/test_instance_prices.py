from __future__ import annotations

from datetime import date

import pytest

from rlvr_components.cost.instance_prices import GPUS, find_instance, price_date, priced_types


def test_the_prefix_of_sagemaker_chooses_its_price() -> None:
    here, there = find_instance("g5.12xlarge"), find_instance("ml.g5.12xlarge")
    assert here is not None
    assert there is not None
    assert (here.usd_per_hour, there.usd_per_hour) == (5.672, 7.09)
    assert here.num_gpus == there.num_gpus == 4
    assert here.gpu is GPUS["A10G"]


@pytest.mark.parametrize("instance_type", ["m5.xlarge", "g5.13xlarge", "ml.p5en.48xlarge", ""])
def test_a_type_without_a_known_price_has_none(instance_type: str) -> None:
    assert find_instance(instance_type) is None


def test_the_table_is_whole_and_dated() -> None:
    assert date.fromisoformat(price_date()) >= date(2026, 11, 28)
    for service in ("ec2", "sagemaker"):
        instances = [find_instance(name) for name in priced_types(service)]
        assert len(instances) > 20
        for instance in instances:
            assert instance is not None
            assert 0.5 < instance.usd_per_hour / instance.num_gpus < 15


def test_sagemaker_costs_more_than_ec2() -> None:
    for name in priced_types("sagemaker"):
        sagemaker, ec2 = find_instance(name), find_instance(name.removeprefix("ml."))
        assert sagemaker is not None
        assert ec2 is not None
        assert 1.1 < sagemaker.usd_per_hour / ec2.usd_per_hour < 1.45
