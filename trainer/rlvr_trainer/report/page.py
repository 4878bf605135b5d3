"""The Jinja templates of the report."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from rlvr_trainer.evaluation.outcome import count, interval, p_value, percent, signed
from rlvr_trainer.report.training_section import duration

MAX_CHARACTERS = 4000
MAX_LISTED = 100


def render(template: str, **context: object) -> str:
    """Render a template; characters that are invalid in HTML or UTF-8 are replaced."""
    html = _environment().get_template(template).render(context)
    html = html.encode("utf-8", "replace").decode("utf-8")  # lone surrogates
    return "".join(c if c >= " " or c in "\t\n" else "\N{REPLACEMENT CHARACTER}" for c in html)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("rlvr_trainer.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    for function in (count, cut, duration, interval, listed, p_value, percent, signed, to_yaml):
        environment.filters[function.__name__] = function
    environment.tests["hash"] = is_hash
    environment.tests["nested"] = lambda value: isinstance(value, Mapping | list)
    return environment


def cut(text: str) -> str:
    """Shorten a text to MAX_CHARACTERS, with a note."""
    if len(text) <= MAX_CHARACTERS:
        return text
    beyond = len(text) - MAX_CHARACTERS
    return f"{text[:MAX_CHARACTERS]}\n… {count(beyond, 'character')} more in samples.jsonl"


def listed(value: object) -> str:
    """Write a list as text: at most MAX_LISTED of its items, and how many more there are."""
    if not isinstance(value, list | tuple):
        return str(value)
    more = len(value) - MAX_LISTED
    shown = ", ".join(map(str, value[:MAX_LISTED])) or "none"
    return shown + (f" and {count(more, 'other')}" if more > 0 else "")


def is_hash(value: object) -> bool:
    """Return True for a long hexadecimal number, which the page may break anywhere."""
    text = str(value)
    return len(text) >= 32 and all(c in "0123456789abcdef" for c in text)


def to_yaml(tree: object) -> str:
    """Write plain data as YAML."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=80).rstrip("\n")
