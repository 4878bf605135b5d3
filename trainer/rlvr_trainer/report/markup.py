"""Build SVG by nested calls; text is escaped unless it is markup already."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

__all__ = ["Markup", "element"]


def element(tag: str, *children: str | Iterable[Markup], **attributes: str | float) -> Markup:
    """Render one element. `class_` means `class`, `aria_label` means `aria-label`."""
    names = (name.rstrip("_").replace("_", "-") for name in attributes)
    start = "".join(
        f' {name}="{escape(value)}"' for name, value in zip(names, attributes.values(), strict=True)
    )
    content = "".join(
        escape(child) if isinstance(child, str) else "".join(child) for child in children
    )
    return Markup(f"<{tag}{start}>{content}</{tag}>")
