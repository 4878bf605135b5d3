"""The images that the steps run in: built from `docker/`, and versioned with this package."""

from __future__ import annotations

from rlvr_trainer import __version__

TRAINER_IMAGE = f"rlvr-trainer:{__version__}"
"""Holds torch: whatever loads a model or a tokenizer."""

COMPONENTS_IMAGE = f"rlvr-components:{__version__}"
"""Small: whatever compares, reports, or launches and follows a job."""
