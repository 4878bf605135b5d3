"""Render the JSON schema of a recipe's file, and the page that lists its fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.tables import Table, markdown

Json = Mapping[str, Any]

BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}

HEAD = """\
# The fields of a recipe

A recipe is a YAML file with these fields. `extends` names a shipped recipe or a file, whose fields
the others replace; `--set section.field=value` changes one on the command line. An editor completes
and checks them by `recipe.schema.json`. This page is written by `rlvr recipes --fields`, the schema
by `rlvr recipes --schema`.
"""


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe's file, which may extend another."""
    schema = Recipe.model_json_schema()
    required = schema.pop("required")
    for section in schema["$defs"].values():
        if "verifier" not in section["properties"]:
            section.pop("required", None)  # may be set by the recipe that is extended
    schema["properties"]["extends"] = {
        "description": "A shipped recipe or a file whose fields these replace.",
        "type": "string",
    }
    schema["anyOf"] = [{"required": ["extends"]}, {"required": required}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def fields_page() -> str:
    """Return a Markdown page with the type, default and description of each field."""
    schema = Recipe.model_json_schema()
    sections = [_section("", schema, schema), *_sections("", schema, schema)]
    return "\n".join([HEAD, *sections])


def _sections(name: str, section: Json, schema: Json) -> Iterator[str]:
    """Yield the sections below a section, outer ones first."""
    for field, value in section["properties"].items():
        references, of_many = _references(value)
        dotted = f"{name}{field}.{'NAME.' if of_many else ''}"
        for reference in references:
            inner = schema["$defs"][reference.rpartition("/")[2]]
            about = [inner["description"]]
            if reference == references[0]:
                about.append(value.get("description", ""))
            if value.get("default", inner) is None:
                about.append("Default: `null`.")
            kind = inner["properties"].get("verifier", {}).get("const", "")
            title = dotted.rstrip(".") + (f" with `verifier: {kind}`" if kind else "")
            yield f"## {title}\n\n{' '.join(' '.join(about).split())}\n"
            yield _section(dotted, inner, schema)
            yield from _sections(dotted, inner, schema)


def _section(name: str, section: Json, schema: Json) -> str:
    required = section.get("required", ())
    rows = [
        (
            f"`{name}{field}`",
            _type(value),
            "required" if field in required else f"`{json.dumps(value['default'])}`",
            value["description"],
        )
        for field, value in section["properties"].items()
        if not _references(value)[0] and "const" not in value
    ]
    table = Table(("Field", "Type", "Default", "Description"), rows)
    return markdown(table, align="---") + "\n"


def _references(value: Json) -> tuple[list[str], bool]:
    """Return the sections that a field may hold, and True if it holds several by name."""
    for option in (value, *value.get("anyOf", ())):
        if "$ref" in option:
            return [option["$ref"]], False
    many = value.get("additionalProperties")
    if not isinstance(many, dict):
        return [], False
    return [option["$ref"] for option in many.get("oneOf", [many]) if "$ref" in option], True


def _type(value: Json) -> str:
    if "anyOf" in value:
        return " or ".join(map(_type, value["anyOf"]))
    if "enum" in value:
        return ", ".join(f"`{json.dumps(option)}`" for option in value["enum"])
    if value["type"] == "array":
        return f"list of {_type(value['items'])}"
    bounds = [f"{sign} {value[key]}" for key, sign in BOUNDS.items() if key in value]
    return " ".join(filter(None, (value["type"], ", ".join(bounds))))
