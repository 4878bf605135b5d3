"""Compare the fake of the trainer's steps with the real ones."""

import inspect
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from rlvr_trainer import api


def test_the_fake_has_the_signatures_of_the_real_steps() -> None:
    path = Path(__file__).parents[1] / "fake_trainer" / "fake_steps.py"
    spec = spec_from_file_location("fake_steps", path)
    assert spec is not None
    assert spec.loader is not None
    fake = module_from_spec(spec)
    spec.loader.exec_module(fake)

    for name in ("prepare", "evaluate", "train", "compare", "adapter_to"):
        real_parameters = inspect.signature(getattr(api, name)).parameters
        fake_parameters = inspect.signature(getattr(fake, name)).parameters
        assert [(p.name, p.kind) for p in fake_parameters.values()] == [
            (p.name, p.kind) for p in real_parameters.values()
        ], name
