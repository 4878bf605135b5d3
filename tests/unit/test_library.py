import subprocess
import sys

import pytest

import rlvr_trainer


@pytest.mark.parametrize("name", rlvr_trainer.__all__)
def test_a_name_of_the_library_is_what_its_module_defines(name: str) -> None:
    assert getattr(rlvr_trainer, name).__name__ == name


def test_the_library_is_imported_without_torch_and_without_pydantic() -> None:
    code = (
        "import sys, rlvr_trainer; assert not {'torch', 'pydantic', 'yaml'} & set(sys.modules);"
        "rlvr_trainer.load_recipe('gsm8k'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_unknown_name_is_not_an_attribute_of_the_library() -> None:
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = rlvr_trainer.evaluat
