"""Name the images that the steps run in: built from `docker/`, with this package's version.

RLVR_IMAGE_PREFIX (`registry.example.com/rlvr/`) names the registry that has them; a compiled
pipeline may name other images, by digest.
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
"""Image with torch, for steps that load a model or a tokenizer."""

COMPONENTS_IMAGE = _image("rlvr-components")
"""Small image, for steps that compare, report, or launch and follow a job."""


@dataclass(frozen=True)
class Images:
    """The images of a compiled pipeline."""

    trainer: str = TRAINER_IMAGE
    components: str = COMPONENTS_IMAGE
