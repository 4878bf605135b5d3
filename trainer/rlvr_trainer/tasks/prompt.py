"""Lay rows out as text: header (worked examples), question, completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.tasks.base import Row

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import PromptSection


class PromptLayout:
    """The prompts of a run: a header that is the same in all of them, then the row's question.

    k shots are the first k exemplars, so that a shorter header is a prefix of a longer one.
    """

    def __init__(self, prompt: PromptSection, exemplars: Sequence[Row]) -> None:
        self._prompt = prompt
        self._exemplars = tuple(exemplars)

    def header(self, num_shots: int | None = None) -> str:
        """Return the first `num_shots` exemplars (None: as trained) with their separators.

        Raises ConfigError if there are fewer exemplars, or a template does not fit the rows.
        """
        num_shots = self._prompt.num_shots if num_shots is None else num_shots
        if num_shots > len(self._exemplars):
            raise ConfigError(
                f"{num_shots} shots, but there are {len(self._exemplars)} exemplars; "
                "raise data.num_exemplars or lower the shots"
            )
        return "".join(
            self.question(row) + self.completion(row) + self._prompt.separator
            for row in self._exemplars[:num_shots]
        )

    def prompt(self, row: Row, num_shots: int | None = None) -> str:
        """Return the header and the row's question. Raises ConfigError."""
        return self.header(num_shots) + self.question(row)

    def question(self, row: Row) -> str:
        """Return the row's part of its prompt."""
        return _fill(self._prompt.question_template, row, "prompt.question_template")

    def completion(self, row: Row) -> str:
        """Return the gold answer laid out as a completion, as in an exemplar."""
        return _fill(self._prompt.solution_template, row, "prompt.solution_template")


def _fill(template: str, row: Row, field: str) -> str:
    # only the template is interpreted: braces in a row's text stay
    columns = row.columns
    try:
        return template.format_map(columns)
    except KeyError as error:
        raise ConfigError(
            f"{field}: {template!r} uses {error}, which row {row.id} does not have; "
            f"its columns are {', '.join(sorted(columns))}"
        ) from None
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{field}: {template!r} is not a template ({error}); write {{column}}, "
            "and {{ or }} for a brace"
        ) from None
