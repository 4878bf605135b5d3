from __future__ import annotations

import subprocess
import sys

TORCHRUN = """
import signal, sys, time
from rlvr_trainer.launch.elastic import end_with_parent
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('asked to end', flush=True)))
end_with_parent()
print('ready', flush=True)
time.sleep(60)
"""
PARENT = f"import subprocess, sys; subprocess.call([sys.executable, '-c', {TORCHRUN!r}])"


def test_torchrun_is_asked_to_end_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    assert parent.stdout.readline() == "asked to end\n"
    assert parent.stdout.read() == ""  # no process is left that could write
    parent.wait()
