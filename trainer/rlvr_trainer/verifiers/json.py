"""Judge a JSON value: it is valid by a JSON Schema, and equal to the gold answer in named fields.

- The answer is one JSON value, strictly: no key twice in an object, no `NaN` or `Infinity`, no
  number beyond a float, nothing before or after it but blanks. One Markdown fence around it is
  removed.
- With `json_schema` it must be valid by that schema (JSON Schema 2020-12 unless the schema says
  another). References to other documents are not followed.
- With `fields` these fields must equal those of the gold answer, the column `answer`, which is
  JSON too; without, the whole value must. Dots lead to inner fields (`address.city`, `items.0`).
  An empty list compares nothing.
- Numbers are equal by value (`1` is `1.0`), but `true` is not `1`. The order of an object's keys
  does not matter, that of a list's items does. Text is compared exactly.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from rlvr_trainer.verifiers.verifier import Verifier, shown

MAX_CHARACTERS = 20_000
"""An answer with more is none."""

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL | re.IGNORECASE)
_ABSENT = object()


class Json(Verifier):
    """1 for a JSON value that is valid and, where compared, equal to the gold answer, else 0."""

    verifier: Literal["json"] = "json"
    json_schema: dict[str, Any] | None = None
    """JSON Schema by which the answer must be valid; null: any value is."""
    fields: tuple[str, ...] | None = None
    """Fields that must equal the gold answer's, with dots to inner ones; null: the whole value."""

    reads_tex: ClassVar[bool] = True

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            try:
                _validator(json.dumps(value))
            except ImportError:
                raise ValueError(
                    "a JSON Schema needs jsonschema, which is not installed: "
                    "pip install 'rlvr[verifiers]'"
                ) from None
            except Exception as error:  # jsonschema's and referencing's own
                reason = " ".join(str(error).split("\n")[0].split())
                raise ValueError(f"it is not a JSON Schema ({reason}); correct it") from None
        return value

    @model_validator(mode="after")
    def _judges(self) -> Self:
        if self.json_schema is None and self.fields == ():
            raise ValueError(
                "fields: [] without json_schema accepts every JSON value; set one of them"
            )
        return self

    def gold_problem(self, row: Mapping[str, Any]) -> str:
        """Return a gold answer that is not JSON or lacks a field, for a message, or nothing."""
        if self.fields == ():
            return ""
        gold = _gold(row.get("answer"))
        if gold is _ABSENT:
            return f"the answer {shown(row.get('answer'))}, which is not JSON"
        for field in self.fields or ():
            if _at(gold, field) is _ABSENT:
                return f"the answer {shown(row.get('answer'))}, which has no field {field!r}"
        return ""

    def is_well_formed(self, answer: str, row: Mapping[str, Any]) -> bool:
        """Return True for a JSON value that is valid by the schema."""
        return self._read(answer) is not _ABSENT

    def judge(self, answer: str, row: Mapping[str, Any]) -> float | None:
        """Return 1 for a value that is valid and equal where it is compared, else 0."""
        value = self._read(answer)
        if value is _ABSENT:
            return 0.0
        if self.fields == ():
            return 1.0
        gold = _gold(row.get("answer"))
        if gold is _ABSENT:
            return None
        if self.fields is None:
            return float(_equal(value, gold))
        return float(all(_equal(_at(value, field), _at(gold, field)) for field in self.fields))

    @cached_property
    def schema_validator(self) -> Any:
        """The validator of the schema."""
        return _validator(json.dumps(self.json_schema))

    def _read(self, answer: str) -> Any:
        value = parse_json(answer)
        if value is _ABSENT or self.json_schema is None:
            return value
        try:
            is_valid = self.schema_validator.is_valid(value)
        except Exception:  # a reference elsewhere, too deep, a pattern that does not compile
            is_valid = False
        return value if is_valid else _ABSENT


def parse_json(text: str) -> Any:
    """Return the one JSON value of a text under the module's rules, or a mark for none."""
    if len(text) > MAX_CHARACTERS:
        return _ABSENT
    fenced = _FENCE.fullmatch(text.strip())
    try:
        return json.loads(
            fenced[1] if fenced else text,
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except (ValueError, RecursionError):
        return _ABSENT


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key is there twice")
    return mapping


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Any:
    return parse_json(text)


def _gold(answer: Any) -> Any:
    return _parsed(answer) if isinstance(answer, str) else _ABSENT


def _at(value: Any, field: str) -> Any:
    """Return the part of a value that a dotted name leads to."""
    for name in field.split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isascii() and name.isdigit() and len(name) < 7:
            value = value[int(name)] if int(name) < len(value) else _ABSENT
        else:
            return _ABSENT
    return value


def _equal(one: Any, other: Any) -> bool:
    if one is _ABSENT or other is _ABSENT:
        return False
    try:
        return bool(_typed(one) == _typed(other))
    except RecursionError:
        return False


def _typed(value: Any) -> Any:
    """Return a value in which `true` does not equal 1."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list):
        return [_typed(item) for item in value]
    if isinstance(value, dict):
        return {name: _typed(item) for name, item in value.items()}
    return value


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    """Return a validator that reads no other document. Raises jsonschema's errors."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    tree = json.loads(schema)
    kind = validator_for(tree, default=Draft202012Validator)
    kind.check_schema(tree)
    return kind(tree, registry=Registry())
