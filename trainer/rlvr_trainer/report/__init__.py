"""The report: one HTML file that needs nothing else, to read on any screen or on paper.

`render_report` is of one run, `render_sweep_report` compares several; both are pure. What a model
wrote is escaped, and the page's own policy forbids scripts and requests.
"""

from __future__ import annotations

from pathlib import Path

from rlvr_trainer.files import write_text
from rlvr_trainer.report.run import render_report
from rlvr_trainer.report.sweep import render_sweep_report

__all__ = ["render_report", "render_sweep_report", "write_report"]


def write_report(path: Path, html: str) -> None:
    """Write a report whole or not at all. Raises PlatformError."""
    write_text(path, html)
