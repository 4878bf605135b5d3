"""Stop strings, looked for in the text of the tokens that can have completed one."""

from collections.abc import Sequence
from typing import Any

# Tokens before the earliest that can hold a stop string's first byte: a token decoded without its
# left neighbours may lose a leading space or half a character.
_MARGIN = 4


class StopStrings:
    """Tells which completions a stop string has just ended."""

    def __init__(self, tokenizer: Any, strings: tuple[str, ...]) -> None:
        self.tokenizer, self.strings = tokenizer, strings
        # A token holds at least one byte, so a string that the last one completes begins in here.
        self.window = max((len(s.encode()) for s in strings), default=0) + _MARGIN

    def __call__(self, completions: Sequence[list[int]]) -> list[bool]:
        """Whether each completion contains a stop string, if it did not before its last token."""
        if not self.strings or not completions:  # no completions would decode to one empty text
            return [False] * len(completions)
        texts = self.tokenizer.batch_decode([c[-self.window :] for c in completions])
        return [any(s in text for s in self.strings) for text in texts]
