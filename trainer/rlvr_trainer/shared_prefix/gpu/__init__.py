"""FlexAttention and CUDA graphs for GPUs."""
