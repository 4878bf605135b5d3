"""Judge words: the answer is, as a whole, one of the gold answers.

Both sides are normalised alike, by option:

- blanks: runs of them are one, those at the ends none (always); composed and decomposed letters are
  the same (always)
- `ignore_case`: case is folded (`Straße` is `STRASSE`)
- `ignore_accents`: marks above and below letters are removed (`São` is `Sao`)
- `ignore_punctuation`: `. ! ? ' " `` ` `` ( ) [ ] { } * _` are removed, `, ; :` and hyphens are
  blanks, and so are dashes. Before a digit, `. , : - +` and their kin stay, since they are part of
  a number (`-5`, `.5`, `1,000`, `10:30`). Other signs (`# % & / + = $`) always stay.
- `ignore_articles`: `a`, `an` and `the` are removed at the beginning, unless nothing else is there

Nothing else is: `Paris or Rome`, `Paris, France` and `not Paris` are not `Paris`. Look-alikes of
other scripts and invisible characters make another word.

The gold answers are the column `answer`, split at `separator` if one is set, and those of the list
in `answers_column`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from rlvr_trainer.verifiers.verifier import Verifier, shown

_ARTICLE = re.compile(r"(?:a|an|the) (?=.)", re.IGNORECASE)
_QUOTES = dict.fromkeys("‘’‚‛“”„‟«»‹›´", "'")
_DASHES = dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d", "-")
_ASCII = str.maketrans({**_QUOTES, **_DASHES, "…": "."})
_NO_NUMBER = r"(?![0-9])"
_BLANKED = re.compile(rf"[,:-]{_NO_NUMBER}|;")
_REMOVED = re.compile(rf"\.{_NO_NUMBER}|[!?'\"`()\[\]{{}}*_]")


class Text(Verifier):
    """1 for an answer that is one of the gold answers, word for word, else 0."""

    verifier: Literal["text"] = "text"
    ignore_case: bool = True
    """Take upper and lower case as the same."""
    ignore_accents: bool = False
    """Take letters with and without accents as the same."""
    ignore_articles: bool = True
    """Leave out `a`, `an` or `the` at the beginning."""
    ignore_punctuation: bool = True
    """Leave out punctuation that is not part of a number."""
    separator: str = ""
    """Text between several gold answers in the column `answer`; empty: it holds one."""
    answers_column: str = "answers"
    """Column with a list of further gold answers; rows may lack it."""

    def gold_problem(self, row: Mapping[str, Any]) -> str:
        """Return gold answers without a word, for a message, or an empty text."""
        if any(map(self.normalise, self._gold(row))):
            return ""
        return f"the answer {shown(row.get('answer'))}, which has no word"

    def judge(self, answer: str, row: Mapping[str, Any]) -> float | None:
        """Return 1 for one of the gold answers, else 0."""
        words = self.normalise(answer)
        return float(bool(words) and any(words == self.normalise(gold) for gold in self._gold(row)))

    def normalise(self, text: str) -> str:
        """Return the words of a text, as they are compared."""
        return normalise_text(
            text,
            self.ignore_case,
            self.ignore_accents,
            self.ignore_articles,
            self.ignore_punctuation,
        )

    def _gold(self, row: Mapping[str, Any]) -> list[str]:
        answer, others = row.get("answer"), row.get(self.answers_column)
        gold = [answer] if isinstance(answer, str) else []
        if self.separator:
            gold = [part for text in gold for part in text.split(self.separator)]
        if isinstance(others, list | tuple):
            gold += [text for text in others if isinstance(text, str)]
        return gold


@lru_cache(maxsize=4096)
def normalise_text(
    text: str, ignore_case: bool, ignore_accents: bool, ignore_articles: bool, ignore_marks: bool
) -> str:
    """Return the words of a text under the module's rules. Never raises."""
    if ignore_accents:
        decomposed = unicodedata.normalize("NFD", text)
        text = "".join(char for char in decomposed if not unicodedata.combining(char))
    text = unicodedata.normalize("NFC", text)
    if ignore_case:
        text = unicodedata.normalize("NFC", text.casefold())
    if ignore_marks:
        text = _REMOVED.sub("", _BLANKED.sub(" ", text.translate(_ASCII)))
    text = " ".join(text.split())
    if ignore_articles:
        text = _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text
    return text
