"""What every report is made of: the page itself, sections, tables, definition lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from rlvr_trainer.report.markup import Child, Markup, element, join

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Nothing is requested and no script runs, whatever a completion holds."""

BULLET_BEFORE = Markup(
    '<svg width="12" height="12" aria-hidden="true">'
    '<circle cx="6" cy="6" r="4.5" class="dot before"/></svg>'
)
BULLET_AFTER = Markup(
    '<svg width="12" height="12" aria-hidden="true">'
    '<circle cx="6" cy="6" r="5.5" class="dot after"/></svg>'
)


def page(title: str, header: Child, main: Child, footer: Child) -> str:
    """A whole document."""
    style = files("rlvr_trainer.report").joinpath("style.css").read_text("utf-8")
    return "<!doctype html>\n" + element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
            element("meta", name="generator", content="rlvr"),
            element("title", title),
            element("style", Markup("\n" + style)),
        ),
        "\n",
        element(
            "body",
            element("header", header),
            element("main", main),
            element("footer", element("p", footer)),
        ),
        "\n",
        lang="en",
    )


def section(title: str, *children: Child, note: str = "") -> Markup:
    """A part of the page under a heading of the second level."""
    heading = element("h2", title)
    explanation = element("p", note.replace(" %", unbroken(" %")), class_="note") if note else None
    return join(["\n", element("section", heading, explanation, children)])


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    headlines: frozenset[int] = frozenset(),
    classes: Mapping[int, str] | None = None,
) -> Markup:
    """A table whose first column names the rows; it scrolls by itself where it is too wide."""
    classes = classes or {}
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            [element("td", cell, class_=classes.get(i)) for i, cell in enumerate(row[1:], 1)],
            class_="headline" if index in headlines else None,
        )
        for index, row in enumerate(rows)
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", element("span", caption, class_="caption-hidden")),
            element("thead", element("tr", [element("th", text, scope="col") for text in head])),
            element("tbody", body),
        ),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex=0,
    )


def pairs(items: Iterable[tuple[Child, Child]], class_: str = "pairs") -> Markup:
    """A list of terms and what they are."""
    return element(
        "dl", [[element("dt", term), element("dd", value)] for term, value in items], class_=class_
    )


def fold(title: str, *children: Child, note: str = "") -> Markup:
    """What is shown on request."""
    explanation = [" ", element("span", note, class_="note")] if note else None
    return element("details", element("summary", title, explanation), children)


def unbroken(text: str) -> str:
    """Text that stays on one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def legend() -> Markup:
    """Which marks stand for before and which for after."""
    return element(
        "ul",
        element("li", BULLET_BEFORE, "Before training"),
        element("li", BULLET_AFTER, "After training"),
        class_="legend",
    )


def numbers(items: Iterable[tuple[str, str, str, str]]) -> Markup:
    """Numbers to be seen first: (class, name, value, explanation)."""
    return element(
        "dl",
        [
            element(
                "div",
                element("dt", name),
                element("dd", value),
                element("dd", explanation),
                class_=class_,
            )
            for class_, name, value, explanation in items
        ],
        class_="numbers",
    )
