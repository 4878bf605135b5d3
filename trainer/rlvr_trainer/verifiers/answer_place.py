"""Read the answer of a completion: the one text at the one place where answers stand.

1. The completion ends before the first line that starts with the stop marker: a next question
   that a model writes is never read.
2. With `thinking_end` (such as `</think>`), what stands before its one occurrence is not read.
   Thinking that does not end, or that ends twice, gives no answer.
3. The answer stands at one place, and there is exactly one. A second one, even the same, makes it
   none: no credit for trying several answers. The places:
   - `marker`: a line that begins with the answer marker, after which the answer follows. Blanks
     around the line do not matter; any second line that begins with the marker is a second answer.
   - `boxed`: the content of `\\boxed{…}` with balanced braces, `\\{` and `\\}` apart. A `\\boxed`
     without braces or one that is not closed is an answer that cannot be read.
   - `tag`: the text between `<answer>` and `</answer>`, each of which stands there once.
   - `text`: everything.
4. The answer is stripped; a blank one is none.

A completion of more than 100,000 characters before the stop marker gives no answer. Reading takes
time linear in the completion's length and never raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

PlaceKind = Literal["marker", "boxed", "tag", "text"]

ANSWER_MARKER = "#### The final answer is"
STOP = "Question:"

MAX_CHARACTERS = 100_000
"""Completions with more before the stop marker give no answer."""

BLANKS = (
    " \t\r\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u202f\u205f\u3000"
)
"""Tabs and the spaces of any width, no-break spaces among them."""

_BOXED = re.compile(r"\\boxed(?![A-Za-z])[ \t\n]*")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class AnswerPlace:
    """The place where the answers of a run are read."""

    kind: PlaceKind = "marker"
    marker: str = ANSWER_MARKER
    """Beginning of the answer's line."""
    tag: str = "answer"
    """Name of the tag, without brackets."""
    thinking_end: str = ""
    """Text that ends the thinking; empty: all of the completion is read."""
    stop: str = STOP
    """Beginning of a line that ends the completion."""

    def read(self, completion: str) -> str | None:
        """Return the one answer, or None. Never raises."""
        text = self.final_text(completion)
        if text is None:
            return None
        match self.kind:
            case "marker":
                answer = _after_marker(text, self.marker)
            case "boxed":
                answer = _in_box(text)
            case "tag":
                answer = _in_tag(text, self.tag)
            case "text":
                answer = text
        return answer.strip(BLANKS + "\n") or None if answer else None

    def final_text(self, completion: str) -> str | None:
        """Return what is read: up to the stop marker, after the thinking. None if it is nothing."""
        text = cut_at_stop(completion[: MAX_CHARACTERS + 1], self.stop)
        if len(text) > MAX_CHARACTERS:
            return None
        if self.thinking_end:
            _, end, text = text.partition(self.thinking_end)
            if not end or self.thinking_end in text:
                return None
        return text

    @property
    def description(self) -> str:
        """The place in words, for a message."""
        match self.kind:
            case "marker":
                place = f"a line that begins with prompt.answer_marker {self.marker!r}"
            case "boxed":
                place = "one \\boxed{…}"
            case "tag":
                place = f"one <{self.tag}>…</{self.tag}>"
            case "text":
                place = "text"
        return place + (f" after {self.thinking_end!r}" if self.thinking_end else "")


def cut_at_stop(completion: str, stop: str = STOP) -> str:
    """Return the completion up to the first line that starts with `stop`, if that is not ""."""
    if not stop:
        return completion
    if completion.startswith(stop):
        return ""
    end = completion.find("\n" + stop)
    return completion if end < 0 else completion[:end]


def solution_template(kind: str, marker: str, tag: str, thinking_end: str) -> str:
    """Return a template of a worked solution whose answer stands at the place."""
    match kind:
        case "marker":
            answer = f"{_literal(marker)} {{answer}}"
        case "boxed":
            answer = "The final answer is \\boxed{{{answer}}}"
        case "tag":
            answer = f"<{_literal(tag)}>{{answer}}</{_literal(tag)}>"
        case _:
            if not thinking_end:
                return " {answer}"
            answer = "{answer}"
    end = f"{_literal(thinking_end)}\n" if thinking_end else ""
    return f" {{solution}}\n{end}{answer}"


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _after_marker(text: str, marker: str) -> str | None:
    start = text.find(marker)
    if start < 0:
        return None
    if text.find(marker, start + 1) >= 0:
        lines = (line.strip(BLANKS) for line in text.split("\n"))
        marked = [line for line in lines if line.startswith(marker)]
        if len(marked) != 1:
            return None
        text, start = marked[0], 0
    elif text[text.rfind("\n", 0, start) + 1 : start].strip(BLANKS):
        return None  # it does not begin its line
    answer = text[start + len(marker) :].partition("\n")[0]
    if marker[-1:].isalnum() and answer[:1] not in BLANKS:
        return None  # the marker's last word is longer: `… is42`, `… isn't`
    return answer


def _in_box(text: str) -> str | None:
    boxes = _BOXED.finditer(text)
    box = next(boxes, None)
    if box is None or next(boxes, None):
        return None
    start = box.end()
    if text[start : start + 1] != "{":
        return None
    depth = 0
    for brace in _BRACES.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return text[start + 1 : brace.start()]
    return None


def _in_tag(text: str, tag: str) -> str | None:
    opening, closing = f"<{tag}>", f"</{tag}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    answer, closed, _ = text.partition(opening)[2].partition(closing)
    return answer if closed else None
