"""What runs where the model is, and all that is pure: recipes, tasks, rewards, evaluation."""

__version__ = "0.1.0"
