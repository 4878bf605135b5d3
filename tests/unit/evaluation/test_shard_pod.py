"""Run the parts of a node's evaluation in parallel; real processes replace them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from rlvr_trainer.evaluation import shard_pod
from rlvr_trainer.evaluation.shards import Shard


@pytest.mark.parametrize(("end", "expected"), [("sys.exit(5)", 5), ("os.abort()", 134)])
def test_a_part_that_fails_ends_the_evaluation_of_its_node(
    end: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "part.py"
    script.write_text(
        f"import os, sys, time\nif sys.argv[-1] == '2/3':\n    {end}\ntime.sleep(60)\n"
    )
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {_PYTHON} {script} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    started = time.monotonic()

    code = shard_pod._evaluate_side_by_side(tmp_path, Shard(0, 3).all, "before", "")

    assert code == expected
    assert time.monotonic() - started < 30


_PYTHON = sys.executable
