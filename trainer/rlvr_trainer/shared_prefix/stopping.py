"""Find stop strings in the text of the last tokens."""

from collections.abc import Sequence
from typing import Any

# Tokens before the first that can contain the start of a stop string: without its left neighbours a
# decoded token may lose a leading space or half a character.
_MARGIN = 4


class StopStrings:
    """Check which completions a stop string has just ended."""

    def __init__(self, tokenizer: Any, strings: tuple[str, ...]) -> None:
        self.tokenizer, self.strings = tokenizer, strings
        # A token has at least one byte, so a string that the last one completes starts in here.
        self.window = max((len(s.encode()) for s in strings), default=0) + _MARGIN

    def __call__(self, completions: Sequence[list[int]]) -> list[bool]:
        """Return for each completion whether its last token completes a stop string."""
        if not self.strings or not completions:  # [] decodes to one empty text
            return [False] * len(completions)
        texts = self.tokenizer.batch_decode([c[-self.window :] for c in completions])
        return [any(s in text for s in self.strings) for text in texts]
