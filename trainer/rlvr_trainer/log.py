"""Configure the log of a step or a job."""

from __future__ import annotations

import logging

FORMAT = "%(levelname)s %(name)s: %(message)s"
CHATTY = ("botocore", "httpx", "urllib3")
"""Libraries that log every client and request."""


def configure_logging() -> None:
    """Log this process's INFO lines to standard error, without those of chatty libraries."""
    logging.basicConfig(level=logging.INFO, format=FORMAT)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
