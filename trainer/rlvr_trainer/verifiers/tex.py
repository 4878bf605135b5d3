"""Remove TeX's dressing from an answer: `\\$1{,}234\\text{ km}` as `$1,234 km`.

Dollars or `\\(…\\)` around the whole, the backslash before `$ % & # _`, spaces such as `\\,` and
`~`, `{,}`, and `\\text{…}` with its kin are removed; degrees become a word. Formulas stay.
"""

from __future__ import annotations

import re

_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:rm|bf|it|sf|tt)|mbox) ?\{([^{}]*)\}")
_DEGREES = re.compile(r"\^ ?(?:\\circ|\{ ?\\circ ?\})(?![A-Za-z])")
_SPACES = re.compile(r"\\[,;: ]|~|\\q?quad(?![A-Za-z])")
_ESCAPED = re.compile(r"\\([$%&#_])")


def plain_tex(answer: str) -> str:
    """Return an answer without TeX's dressing, in time linear in its length."""
    text = answer.strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        ends = len(opening) + len(closing)
        if len(text) > ends and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            if "$" not in inner.replace("\\$", "") and not inner.endswith("\\"):
                text = inner
            break
    if "\\" in text or "{" in text or "~" in text:
        text = _TEXT.sub(r"\1", text)
        text = _DEGREES.sub(" degrees", text)
        text = _SPACES.sub(" ", text.replace("\\!", "").replace("{,}", ","))
        text = _ESCAPED.sub(r"\1", text)
    return text.strip()
