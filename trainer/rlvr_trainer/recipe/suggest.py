"""Suggest the closest known name in an error message."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the closest known name, or an empty text."""
    close = get_close_matches(got, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
