"""Draft a recipe for rows, with the reason for each setting."""

from rlvr_trainer.drafting.draft import Draft, default_path, draft_recipe
from rlvr_trainer.drafting.source_splits import Sources, find_sources

__all__ = ["Draft", "Sources", "default_path", "draft_recipe", "find_sources"]
