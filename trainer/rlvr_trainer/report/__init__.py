"""The report: one HTML file that needs nothing else, to read on any screen or on paper.

`render_report` is of one run, `render_sweep_report` compares several; both are pure. What a model
wrote is escaped, and the page's own policy forbids scripts and requests.
"""

from __future__ import annotations

from pathlib import Path

from rlvr_trainer.report.run_report import render_report
from rlvr_trainer.report.sweep_report import render_sweep_report
from rlvr_trainer.storage.atomic_files import write_text

__all__ = ["render_report", "render_sweep_report", "write_report"]


def write_report(path: Path, html: str) -> None:
    """Write a report whole or not at all. Raises PlatformError."""
    write_text(path, html)
