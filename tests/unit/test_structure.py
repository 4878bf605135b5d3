"""The folders of the three packages stay small, and a module is found by its name alone."""

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [
    ROOT / "trainer/rlvr_trainer",
    ROOT / "components/rlvr_components",
    ROOT / "pipelines/rlvr_pipelines",
]
MODULES = [
    path
    for package in PACKAGES
    for path in package.rglob("*.py")
    if path.stem not in ("__init__", "__main__")
]
MAX_MODULES = 12


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_folder_has_at_most_twelve_modules(package: Path) -> None:
    sizes = Counter(module.parent for module in MODULES if package in module.parents)

    assert sizes
    assert {str(folder): size for folder, size in sizes.items() if size > MAX_MODULES} == {}


def test_a_module_name_occurs_once() -> None:
    names = Counter(module.name for module in MODULES)

    assert [name for name, count in names.items() if count > 1] == []
