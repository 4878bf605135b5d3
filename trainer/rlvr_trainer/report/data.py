"""The data manifest: what was read, what became of it, and the hashes to check it by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr_trainer.evaluation import count
from rlvr_trainer.report.markup import Child, Markup, element
from rlvr_trainer.report.page import fold, pairs, section, table

TITLES = {
    "source": "Sources",
    "read": "Rows read",
    "counts": "Rows in each split",
    "quarantined": "Quarantined rows by reason",
    "exemplar_ids": "Worked examples in the prompt",
    "header_tokens": "Tokens of the prompt's header by shots",
    "max_prompt_tokens": "Longest prompt, tokens",
}
MAX_LISTED = 100


def render_manifest(manifest: Mapping[str, Any]) -> Markup:
    """Counts and quarantined rows open, the rest folded; fields that are unknown are shown too."""
    rest = {key: value for key, value in manifest.items() if key not in {"counts", "quarantined"}}
    counts, reasons = manifest.get("counts"), manifest.get("quarantined")
    return section(
        "Data",
        _counts(counts) if isinstance(counts, Mapping) else None,
        _quarantined(reasons) if reasons is not None else None,
        element("div", fold("The whole manifest", _fields(rest)), class_="folds") if rest else None,
    )


def _counts(counts: Mapping[str, Any]) -> Markup:
    rows = [(str(name), _number(number)) for name, number in counts.items()]
    return table(TITLES["counts"], ["Split", "Rows"], rows)


def _quarantined(reasons: object) -> Markup:
    if isinstance(reasons, Mapping):
        by_reason = {str(reason): number for reason, number in reasons.items()}
    else:
        by_reason = {}
        for each in reasons if isinstance(reasons, Sequence) else ():
            reason = str(each.get("reason", each)) if isinstance(each, Mapping) else str(each)
            by_reason[reason] = by_reason.get(reason, 0) + 1
    if not by_reason:
        return element("p", "No row was quarantined.", class_="note after-note")
    rows = [(reason, _number(number)) for reason, number in by_reason.items()]
    return table(TITLES["quarantined"], ["Quarantined because", "Rows"], rows)


def _fields(fields: Mapping[str, Any]) -> list[Markup]:
    plain = {key: value for key, value in fields.items() if not isinstance(value, Mapping | list)}
    nested = {key: value for key, value in fields.items() if key not in plain}
    blocks = (
        [pairs([(_title(key), _value(value)) for key, value in plain.items()])] if plain else []
    )
    for key, value in nested.items():
        body = (
            pairs([(str(name), _value(each)) for name, each in value.items()])
            if isinstance(value, Mapping)
            else element("p", _value(value))
        )
        blocks.append(element("div", element("h3", _title(key)), body, class_="block"))
    return blocks


def _value(value: object) -> Child:
    if isinstance(value, Mapping):
        return [element("div", f"{key}: ", _value(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        listed = ", ".join(map(str, value[:MAX_LISTED]))
        more = len(value) - MAX_LISTED
        return listed + (f" and {count(more, 'other')}" if more > 0 else "") if value else "none"
    text = str(value)
    return element("span", text, class_="hash") if _is_hash(text) else text


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_hash(text: str) -> bool:
    return len(text) >= 32 and all(c in "0123456789abcdef" for c in text)


def _title(key: str) -> str:
    return TITLES.get(key, key.replace("_", " ").capitalize())
