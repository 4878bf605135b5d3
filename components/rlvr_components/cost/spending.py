"""Turn a limit in dollars into seconds for each job of a run, and billed seconds into dollars."""

from __future__ import annotations

from rlvr_components.cost.estimate import Estimate
from rlvr_components.cost.instance_prices import price_date
from rlvr_trainer.errors import ConfigError


def run_time_limits(max_cost_usd: float, estimate: Estimate) -> dict[str, int]:
    """Return each step's maximal seconds; all of them together cost `max_cost_usd` on demand.

    What is left over the estimate is divided in its proportions. Raises ConfigError if the
    estimate exceeds the limit.
    """
    if estimate.usd > max_cost_usd:
        raise ConfigError(
            f"the run is estimated at ${estimate.usd:,.2f} ({estimate.hours:.1f} h of "
            f"{estimate.num_nodes} × {estimate.instance.instance_type}, list prices of "
            f"{price_date()}), and --max-cost-usd is {max_cost_usd:,.2f}; raise it, choose another "
            "instance type, or shorten the run (training.max_steps, evaluation.num_rows)"
        )
    factor = max_cost_usd / estimate.usd
    return {step: int(seconds * factor) for step, seconds in estimate.seconds.items()}


def billed_usd(billable_s: float, num_instances: int, usd_per_hour: float) -> float:
    """Return what a SageMaker job was billed: BillableTimeInSeconds × InstanceCount × price.

    On spot instances the service lowers BillableTimeInSeconds by the savings, so that the price is
    the one on demand there too (Developer Guide, "Managed Spot Training").
    """
    return billable_s / 3600 * num_instances * usd_per_hour
