"""Lay rows out as prompts, a text or a chat: header (worked examples), question, completion."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix
from typing import TYPE_CHECKING

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.tasks.base import Message, Row

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import PromptSection
    from rlvr_trainer.tasks.chat_template import Renderer


class PromptLayout:
    """The prompts of a run: a header that is the same in all of them, then the row's question.

    k shots are the first k exemplars, so that a shorter header is a prefix of a longer one. A chat
    needs `template` to become a text; `chat_template.Outline` will do for lengths.
    """

    def __init__(
        self,
        prompt: PromptSection,
        exemplars: Sequence[Row],
        template: Renderer | None = None,
    ) -> None:
        self._prompt = prompt
        self._exemplars = tuple(exemplars)
        self._template = template

    def header(self, num_shots: int | None = None) -> str:
        """Return the first `num_shots` exemplars (None: as trained), as prompts begin with them.

        That of a chat is for counting: what is before the questions, if rows have no messages of
        their own. Raises ConfigError if there are fewer exemplars, or a template does not fit the
        rows.
        """
        if self._prompt.style == "text":
            return self._in_text(self._shown(num_shots))
        two = (self._render(self._chat(question, (), num_shots)) for question in ("a", "b"))
        return commonprefix(list(two))  # noqa: RUF071

    def prompt(self, row: Row, num_shots: int | None = None) -> str:
        """Return the header and the row's question, and in a chat the assistant's beginning.

        Raises ConfigError, TemplateRefused.
        """
        if self._prompt.style == "text":
            return self.header(num_shots) + self.question(row)
        return self._render(self.messages(row, num_shots))

    def messages(self, row: Row, num_shots: int | None = None) -> list[Message]:
        """Return the chat of a row: system, worked examples, its own messages and its question.

        A system message of its own replaces that of the recipe. Raises ConfigError.
        """
        return self._chat(self.question(row), row.messages[:-1], num_shots)

    def question(self, row: Row) -> str:
        """Return the row's part of its prompt."""
        return _fill(self._prompt.question_template, row, "prompt.question_template")

    def completion(self, row: Row) -> str:
        """Return the gold answer laid out as verifiers see a completion, and as in an exemplar."""
        return self._prompt.assistant_prefix + _fill(
            self._prompt.solution_template, row, "prompt.solution_template"
        )

    def _shown(self, num_shots: int | None) -> tuple[Row, ...]:
        num_shots = self._prompt.num_shots if num_shots is None else num_shots
        if num_shots > len(self._exemplars):
            raise ConfigError(
                f"{num_shots} shots, but there are {len(self._exemplars)} exemplars; "
                "raise data.num_exemplars or lower the shots"
            )
        return self._exemplars[:num_shots]

    def _in_text(self, exemplars: Sequence[Row]) -> str:
        return "".join(
            self.question(row) + self.completion(row) + self._prompt.separator for row in exemplars
        )

    def _chat(self, question: str, own: Sequence[Message], num_shots: int | None) -> list[Message]:
        exemplars, system = self._shown(num_shots), self._prompt.system
        if self._prompt.examples_as == "message":
            question, exemplars = self._in_text(exemplars) + question, ()
        if own and own[0]["role"] == "system":
            system, own = own[0]["content"], own[1:]
        messages = [_message("system", system)] if system else []
        for row in exemplars:
            messages += [
                _message("user", self.question(row)),
                _message("assistant", self.completion(row)),
            ]
        return [*messages, *own, _message("user", question)]

    def _render(self, messages: Sequence[Message]) -> str:
        if self._template is None:
            raise ValueError("a chat is rendered by a template; pass the model's, or Outline()")
        return self._template.prompt(messages)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


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
