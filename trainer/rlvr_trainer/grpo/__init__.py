"""Train a recipe with TRL's GRPOTrainer, with committed checkpoints and events."""
