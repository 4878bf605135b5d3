"""Judge by a pattern: the whole answer matches it, or with `find` a part of it does.

The pattern is of Rust's regular expressions, which take time linear in the answer: no look-around
and no back-references. `(?i)` at its beginning ignores case, `(?s)` lets `.` match a line's end.
The row is not read: a pattern judges the form of an answer, not whether it is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import field_validator
from pydantic_core import SchemaError, SchemaValidator, core_schema

from rlvr_trainer.verifiers.verifier import Verifier


class Regex(Verifier):
    """1 for an answer that matches a pattern, else 0."""

    verifier: Literal["regex"] = "regex"
    pattern: str
    """Regular expression of Rust's syntax, without look-around and back-references."""
    find: bool = False
    """Look for the pattern anywhere in the answer; false: it must match the whole answer."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            _matcher(value, False)
        except SchemaError as error:
            reason = " ".join(str(error).split())[-200:]
            raise ValueError(
                f"{value!r} is not a pattern of Rust's regular expressions ({reason}); correct it"
            ) from None
        return value

    def judge(self, answer: str, row: Mapping[str, Any]) -> float | None:
        """Return 1 for an answer that matches, else 0."""
        return float(_matcher(self.pattern, self.find).isinstance_python(answer))


@lru_cache(maxsize=64)
def _matcher(pattern: str, find: bool) -> SchemaValidator:
    """Compile a pattern; pydantic's matches anywhere. Raises SchemaError."""
    anchored = pattern if find else rf"\A(?:{pattern})\z"
    return SchemaValidator(core_schema.str_schema(pattern=anchored, regex_engine="rust-regex"))
