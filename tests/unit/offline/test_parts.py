"""Test the runner of the GPU measurements, with parts that need no GPU."""

from __future__ import annotations

import json
import os
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from tests.gpu.offline import parts as runner
from tests.gpu.offline.parts import Part, run_all


def python(name: str, program: str, limit_s: int = 30) -> Part:
    return Part(name, "title", ("-c", program), limit_s)


def run(out: Path, *chosen: Part, minutes: float = 1, environment: Any = None) -> dict[str, Any]:
    run_all(chosen, out, environment or dict(os.environ), deadline=time.monotonic() + minutes * 60)
    results = json.loads((out / "results.json").read_text())
    return {part["part"]: part for part in results["parts"]}


def test_a_failure_and_a_time_out_end_no_other_part(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        python("a", "raise SystemExit('no such card')"),
        python("b", "import os; os.abort()"),
        python("c", "import time; time.sleep(60)", limit_s=1),
        python("d", "print('done')"),
    )
    states = [part["state"] for part in results.values()]
    assert states == ["failed", "failed", "timed out", "passed"]
    assert results["a"]["summary"] == "no such card"
    suites = ElementTree.parse(tmp_path / "junit.xml")
    assert len(list(suites.iter("testcase"))) == 4
    assert len(list(suites.iter("failure"))) == 3
    summary = (tmp_path / "summary.txt").read_text().splitlines()
    assert len(summary) == 5
    assert "passed d, failed a b, timed out c" in summary[0]
    assert "done" in (tmp_path / "output.txt").read_text()


def test_processes_that_a_part_started_end_with_it(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    child = f"import pathlib, time; time.sleep(2); pathlib.Path({str(marker)!r}).touch()"
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    run(tmp_path / "out", python("a", program))
    time.sleep(2.5)
    assert not marker.exists()


def test_results_are_there_after_each_part(tmp_path: Path) -> None:
    reads = f"print(open({str(tmp_path / 'summary.txt')!r}).read())"
    assert run(tmp_path, python("a", "print(1)"), python("b", reads))["b"]["state"] == "passed"


def test_parts_without_time_left_are_skipped(tmp_path: Path) -> None:
    assert run(tmp_path, python("a", "print(1)"), minutes=0)["a"]["state"] == "skipped"


def test_a_long_output_is_cut_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_FILE_BYTES", 1000)
    run(tmp_path, python("a", "print('x' * 5000, 'the end')"))
    text = (tmp_path / "output.txt").read_text()
    assert len(text) < 1100
    assert text.rstrip().endswith("the end")
    assert len(list(tmp_path.iterdir())) <= 8


def test_results_and_the_cards_name_are_taken_from_the_parts_files(tmp_path: Path) -> None:
    program = "import sys; open(sys.argv[1], 'w').write('{\"card\": \"NVIDIA H100\"}')"
    results = run(tmp_path, Part("a", "title", ("-c", program, "{json}"), 30))
    assert results["a"]["json"] == {"card": "NVIDIA H100"}
    assert (tmp_path / "summary.txt").read_text().startswith("NVIDIA H100, ")


@pytest.mark.parametrize("tiny", [False, True])
def test_every_part_runs_files_that_exist(tiny: bool) -> None:
    chosen = runner.parts(tiny=tiny)
    assert [part.name for part in chosen][:9] == ["a", "b", "c", "c2", "d", "e", "f", "g", "h"]
    files = [Path(a) for part in chosen for a in part.command if a.endswith(".py")]
    assert len(files) >= len(chosen)
    assert all((runner.ROOT / file).is_file() for file in files)


def test_the_ratios_of_a_step_are_trls_over_ours() -> None:
    def step(side: str, seconds: float) -> dict[str, Any]:
        names = ("generation_s", "log_probs_s", "backward_s", "step_s", "peak_memory_mb")
        return {"side": side, "shots": 8} | dict.fromkeys(names, seconds)

    result = {"json": {"steps": [step("ours", 2.0), step("trl", 7.0)]}}
    expected = "8 shots: step 3.5×, training 3.5×, generation 3.5×, memory 3.5×"
    assert runner.step_ratios(result) == expected
