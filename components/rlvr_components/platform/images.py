"""The images that the steps run in: built from `docker/`, and versioned with this package.

RLVR_IMAGE_PREFIX (`registry.example.com/rlvr/`) says where they were pushed; a compiled pipeline
may name others, by digest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from rlvr_trainer import __version__
from rlvr_trainer.variables import IMAGE_PREFIX_VARIABLE

_PREFIX = os.environ.get(IMAGE_PREFIX_VARIABLE, "").rstrip("/")


def _image(name: str) -> str:
    return f"{_PREFIX}/{name}:{__version__}".lstrip("/")


TRAINER_IMAGE = _image("rlvr-trainer")
"""Holds torch: whatever loads a model or a tokenizer."""

COMPONENTS_IMAGE = _image("rlvr-components")
"""Small: whatever compares, reports, or launches and follows a job."""


@dataclass(frozen=True)
class Images:
    """The images of a compiled pipeline."""

    trainer: str = TRAINER_IMAGE
    components: str = COMPONENTS_IMAGE
