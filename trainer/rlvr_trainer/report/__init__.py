"""Render reports as self-contained HTML files for screen and paper.

`render_report` reports one run, `render_sweep_report` compares several; both are pure. Completions
are escaped, and the page's content security policy forbids scripts and requests.
"""

from __future__ import annotations

from pathlib import Path

from rlvr_trainer.report.run_report import render_report
from rlvr_trainer.report.sweep_report import render_sweep_report
from rlvr_trainer.storage.atomic_files import write_text

__all__ = ["render_report", "render_sweep_report", "write_report"]


def write_report(path: Path, html: str) -> None:
    """Write a report atomically. Raises PlatformError."""
    write_text(path, html)
