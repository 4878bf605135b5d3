"""The GRPO run: TRL's trainer on a recipe, with committed checkpoints and events."""
