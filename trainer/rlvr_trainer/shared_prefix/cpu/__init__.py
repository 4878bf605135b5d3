"""Kernels for a CPU: faster than torch's own operations and PEFT's modules.

`is_used` is the one switch between them and the path of GPUs: FlexAttention and plain torch.
"""

import torch


def is_used(device: torch.device) -> bool:
    """Return True if computations on `device` use this package's kernels."""
    return device.type == "cpu"
