"""Check the mechanical rules of CONTRIBUTING.md's "Language" section; `make check` runs it.

Prints one line for each violation and exits with 1 if there are any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("trainer", "components", "pipelines", "tests", "manifests", "docker")

OPENINGS = {"Of", "What", "Whether", "How", "Where", "Which", "Who", "Whoever", "Why"}
"""A docstring that opens with one of these is a noun clause, not a sentence with a verb."""

NAMES = {"each", "found", "told", "wanted"}
"""Variables are named after the thing they hold."""

PHRASES = {
    r"(?<!here )is no (?!longer|more|less|such)": "is not a …",
    r"(?<!here )are no (?!longer|more|less|such)": "are not …",
    r"in vain": "without success; or name the time-out",
    r"anew": "again",
    r"another try": "retry",
    r"goes on": "continues; resumes",
    r"[Ww]hoever": "the user; the caller",
    r"[Nn]obody": "no one; or the passive",
    r"[Ss]omebody": "the user",
}
PHRASE = re.compile("|".join(rf"(?P<p{n}>\b(?:{phrase}))" for n, phrase in enumerate(PHRASES)))


def main() -> int:
    """Check every Python and Markdown file of the project."""
    paths = sorted(ROOT.glob("*.md"))
    for folder in FOLDERS:
        paths += sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".md"})
    violations = [line for path in paths if path != Path(__file__) for line in check(path)]
    print("\n".join(violations), end="\n" if violations else "")
    return bool(violations)


def check(path: Path) -> Iterator[str]:
    """Yield `file:line: message` for each violation in one file."""
    text = path.read_text("utf-8")
    where = path.relative_to(ROOT)
    for number, line in enumerate(text.splitlines(), 1):
        for match in PHRASE.finditer(line):
            advice = list(PHRASES.values())[int(str(match.lastgroup)[1:])]
            yield f"{where}:{number}: {match[0]!r}; write {advice}"
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if (opening := _docstring_opening(node)) in OPENINGS:
                yield f"{where}:{node.lineno}: docstring opens with {opening!r}; open with a verb"
            if isinstance(node, ast.Name | ast.arg) and (name := _bound_name(node)) in NAMES:
                yield f"{where}:{node.lineno}: variable {name!r}; name the thing it holds"


def _docstring_opening(node: ast.AST) -> str | None:
    """Return the first word of a bare string: the docstring of a module, function or attribute."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        words = str(node.value.value).split() if isinstance(node.value.value, str) else []
        return words[0] if words else None
    return None


def _bound_name(node: ast.Name | ast.arg) -> str | None:
    if isinstance(node, ast.arg):
        return node.arg
    return node.id if isinstance(node.ctx, ast.Store) else None


if __name__ == "__main__":
    sys.exit(main())
