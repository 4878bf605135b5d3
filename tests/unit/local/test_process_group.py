import os
import signal
import sys
import time
from pathlib import Path

from rlvr_pipelines.local.process_group import ProcessGroup

# A leader that ends on SIGTERM, with a child that ignores it.
CHILD = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
LEADER_AND_CHILD = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {CHILD!r}])
time.sleep(60)
"""


def start(script: str, output: Path) -> ProcessGroup:
    with output.open("wb") as file:
        return ProcessGroup([sys.executable, "-c", script], env=os.environ, output=file)


def wait_for(text: str, path: Path) -> None:
    while text not in path.read_text():
        time.sleep(0.01)


def test_it_leads_a_group_of_its_own(tmp_path: Path) -> None:
    output = tmp_path / "out"
    group = start("import os; print(os.getpgrp(), os.getsid(0))", output)
    while group.poll() is None:
        time.sleep(0.01)

    assert output.read_text().split() == [str(group.id)] * 2
    assert not group.is_alive()
    group.kill()


def test_it_is_alive_while_any_of_its_processes_is(tmp_path: Path) -> None:
    output = tmp_path / "out"
    group = start(LEADER_AND_CHILD, output)
    wait_for("ready", output)

    group.signal(signal.SIGTERM)
    while group.poll() is None:
        time.sleep(0.01)
    assert group.poll() == -signal.SIGTERM
    assert group.is_alive()

    group.kill()
    assert not group.is_alive()


def test_its_standard_input_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    output = tmp_path / "out"
    group = start("import sys; sys.stdin.read(); print('gone')", output)
    assert group._leader.stdin is not None
    group._leader.stdin.close()

    wait_for("gone", output)
    group.kill()
