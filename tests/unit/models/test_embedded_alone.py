"""docker/trainer.Dockerfile converts the embedded model with the few files that it copies."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_dockerfile_copies_all_that_the_conversion_imports(tmp_path: Path) -> None:
    dockerfile = (ROOT / "docker/trainer.Dockerfile").read_text("utf-8")
    copies = re.findall(r"^COPY (trainer/.*) /src/(\S+)$", dockerfile, re.MULTILINE)
    assert copies
    for sources, target in copies:
        (tmp_path / target).mkdir(parents=True, exist_ok=True)
        for source in sources.split():
            shutil.copy(ROOT / source, tmp_path / target)
    code = "from rlvr_trainer.models import embedded; print(embedded.__file__)"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == str(tmp_path / "rlvr_trainer/models/embedded.py")
