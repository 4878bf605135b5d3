"""Render messages by a model's chat template, as `apply_chat_template` of transformers does.

A template is a program of its own: it can refuse a system message, leave a message out, or write
the day's date. All of that is found by rendering stand-ins for the messages of a recipe's prompts,
before anything is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.suggest import did_you_mean
from rlvr_trainer.tasks.base import Message

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import PromptSection, Recipe


class TemplateRefused(ConfigError):
    """The template cannot render the messages."""


class Renderer(Protocol):
    """Whatever turns messages into a prompt."""

    def prompt(self, messages: Sequence[Message]) -> str:
        """Return the prompt that ends where the assistant continues."""


class Outline:
    """A stand-in for a template that is not on this machine: for lengths only."""

    def prompt(self, messages: Sequence[Message]) -> str:
        """Return the messages as `[role] content`, a line or more each."""
        return "".join(f"[{message['role']}] {message['content']}\n" for message in messages)


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template with the variables that it reads."""

    source: str
    """Jinja."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """The tokenizer's special tokens by name, and `prompt.chat_options`."""
    assistant_prefix: str = ""

    def prompt(self, messages: Sequence[Message]) -> str:
        """Return the prompt of the messages, up to and with the assistant's beginning.

        Equal to `apply_chat_template(messages, tokenize=False, add_generation_prompt=True)` and
        then `assistant_prefix`, unless the template already ends with it. Raises TemplateRefused.
        """
        text = self._render(messages, add_generation_prompt=True)
        return text if text.endswith(self.assistant_prefix) else text + self.assistant_prefix

    def turn_end(self) -> str:
        """Return the text that ends an assistant's turn, such as `<|im_end|>` and a newline."""
        messages = _stand_ins("user", "assistant")
        return self._render(messages).rpartition(messages[-1]["content"])[2]

    def writes_date(self) -> bool:
        """Return True if prompts of another day would be others."""
        if "strftime_now" not in self.source:
            return False
        messages = _stand_ins("user")
        try:
            undated = self._render(messages, add_generation_prompt=True, strftime_now="")
        except TemplateRefused:  # it calls what is a text now
            return True
        return undated != self._render(messages, add_generation_prompt=True)

    def fault(self, *roles: str) -> str:
        """Return why the template cannot put messages of these roles; empty if it can."""
        messages = _stand_ins(*roles)
        try:
            text = self._render(messages, add_generation_prompt=True)
        except TemplateRefused as error:
            return str(error)
        left_out = [m["role"] for m in messages if m["content"] not in text]
        return f"it leaves out the {left_out[0]}'s" if left_out else ""

    def _render(self, messages: Sequence[Message], **arguments: Any) -> str:
        # imported here: a client without transformers has everything else of the recipe
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            [text], _ = render_jinja_template(
                conversations=[list(messages)],
                chat_template=self.source,
                **{**self.variables, **arguments},
            )
        except ImportError:
            raise
        except Exception as error:  # Jinja's, the template's own, and any that its code raises
            raise TemplateRefused(f"it says: {' '.join(str(error).split())}") from error
        return str(text)


def build_template(
    recipe: Recipe, own: str | None, special_tokens: Mapping[str, Any]
) -> ChatTemplate:
    """Return the template of a recipe's chat prompts.

    `own` is the model's template, `special_tokens` the text of the tokenizer's by name. Raises
    ConfigError for a missing template, and one that cannot put the messages of the recipe.
    """
    prompt, name = recipe.prompt, recipe.model.name
    source = read_template(prompt.chat_template) if prompt.chat_template else own
    if not source:
        raise ConfigError(
            f"prompt.style is chat, and {name} has no chat template; set prompt.chat_template to "
            "a Jinja file, name an instruct model, or set prompt.style to text"
        )
    template = ChatTemplate(
        source, {**special_tokens, **prompt.chat_options}, prompt.assistant_prefix
    )
    owner = prompt.chat_template or f"the chat template of {name}"
    _check_options(prompt, source, owner)
    _check_messages(template, owner, prompt, max(prompt.num_shots, *recipe.evaluated_shots))
    if template.writes_date():
        raise ConfigError(
            f"{owner} writes the day's date, so that prompts of another day would be others; set "
            'prompt.chat_options, for example {date_string: "26 Jul 2024"} if it reads that, or '
            "prompt.chat_template to a copy without the date"
        )
    return template


def read_template(path: str) -> str:
    """Return the content of the user's template. Raises ConfigError."""
    try:
        return Path(path).expanduser().read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"prompt.chat_template: {path} cannot be read ({reason}); name a Jinja file"
        ) from None


def _check_options(prompt: PromptSection, source: str, owner: str) -> None:
    words = set(re.findall(r"\w+", source))
    for option in prompt.chat_options:
        if option not in words:
            raise ConfigError(
                f"prompt.chat_options: {owner} does not read {option!r}"
                f"{did_you_mean(option, words)}; correct it or leave it out"
            )


def _check_messages(
    template: ChatTemplate, owner: str, prompt: PromptSection, num_shots: int
) -> None:
    system = ["system"] if prompt.system else []
    num_turns = min(num_shots, 2) if prompt.examples_as == "turns" else 0
    if fault := template.fault("user"):
        raise ConfigError(
            f"{owner} cannot put a user's message ({fault}); correct it, or set "
            "prompt.chat_template to a copy that can"
        )
    if fault := template.fault(*system, "user"):
        raise ConfigError(
            f"{owner} has no place for a system message ({fault}); leave prompt.system empty and "
            "write it into prompt.question_template"
        )
    if fault := template.fault(*system, *["user", "assistant"] * num_turns, "user"):
        raise ConfigError(
            f"{owner} cannot put worked examples as turns ({fault}); set prompt.examples_as to "
            "message, or prompt.num_shots and evaluation.shots to 0"
        )


def _stand_ins(*roles: str) -> list[Message]:
    """Return messages whose contents are single words, which no template changes."""
    return [{"role": role, "content": f"rlvr{role}{i}"} for i, role in enumerate(roles)]
