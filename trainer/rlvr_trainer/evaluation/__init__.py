"""Evaluate models on test rows, and compare them before and after training."""
