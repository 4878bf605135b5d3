"""HTML and SVG as nested calls, in which text is escaped unless it is markup already."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TypeAlias

Attribute = str | int | float | bool | None
Child: TypeAlias = "str | Iterable[Child] | None"

_VOID = frozenset({"meta", "br", "hr"})


class Markup(str):
    """Text that is HTML, and so is not escaped again."""


def element(tag: str, *children: Child, **attributes: Attribute) -> Markup:
    """One element. `class_` means `class`, `aria_label` means `aria-label`; None leaves one out."""
    start = f"<{tag}{''.join(_attribute(*item) for item in attributes.items())}>"
    if tag in _VOID:
        return Markup(start)
    return Markup(f"{start}{join(children)}</{tag}>")


def join(children: Child) -> Markup:
    """The children one after the other."""
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return Markup(escape(_clean(children)))
    return Markup("".join(join(child) for child in children))


def _attribute(name: str, value: Attribute) -> str:
    name = name.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(_clean(str(value)))}"'


def _clean(text: str) -> str:
    """A model may write what no file can hold (lone surrogates) or no page may (control codes)."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c >= " " or c in "\t\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
