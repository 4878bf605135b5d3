"""With this folder on PYTHONPATH, `rlvr_trainer.api` is the fake beside this file.

FAKE_WITHOUT names a package that cannot be imported, as if it were not installed.
"""

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path


class FakeSteps:
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == os.environ.get("FAKE_WITHOUT"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name != "rlvr_trainer.api":
            return None
        return importlib.util.spec_from_file_location(
            name, Path(__file__).with_name("fake_steps.py")
        )


sys.meta_path.insert(0, FakeSteps())  # type: ignore[arg-type]
