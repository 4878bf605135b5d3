"""The DeepSpeed configuration of a recipe."""

from __future__ import annotations

from typing import Any, Literal


def zero_config(stage: Literal[2, 3], *, bf16: bool) -> dict[str, Any]:
    """Return ZeRO `stage` for accelerate; the training arguments fill in "auto" values.

    Stage 2 shards gradients and optimizer state, stage 3 the weights too.
    """
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": "auto",
    }
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            # a checkpoint then holds the whole adapter, loadable without DeepSpeed
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": bf16},
        "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        # the optimizer is torch's AdamW; DeepSpeed's own would have to be compiled
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
