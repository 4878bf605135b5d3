"""Read a recipe: YAML, `extends`, `--set a.b=c`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rlvr_trainer.error_mapping import passing_error
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.schema import REWARD_KINDS, Recipe
from rlvr_trainer.recipe.suggest import did_you_mean

LOCATION_FIELDS = (
    *(("data", "train"), ("data", "test"), ("model", "name"), ("task",)),
    ("prompt", "chat_template"),
)
"""Fields that may hold a path, besides the functions of rewards. In a file it is relative to the
file's folder, in `--set` to the working directory; in a recipe that was read it is absolute."""
PATH = re.compile(r"(\.\.?|~)(/|$)")
"""Beginning of a path in any field."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 in the parts that matter.

    `3e-4` is a number, `010` is ten, `on`, `off`, `1:30` and dates are words; keys are unique.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Raise ConstructorError for a key that occurs twice, before merge keys (`<<`) apply."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else key
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(name)
        return node


_BOOL, _FLOAT, _INT = (f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int"))
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _FLOAT, _INT, _TIMESTAMP)
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"([-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)
_Loader.add_constructor(_INT, lambda _, node: int(node.value))


def load_recipe(source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Load the recipe in a YAML or JSON file, or the shipped one of that name.

    `overrides` are `a.b=c` with YAML values, and paths relative to the working directory.
    Raises ConfigError.
    """
    shipped = shipped_recipes()
    tree = _read(_find(str(source), shipped), shipped, extended_by=())
    for override in overrides:
        _override(tree, override, Path.cwd())
    return parse_recipe(tree, origin=str(source))


def load_form(text: str, overrides: Iterable[str] = ()) -> Recipe:
    """Load the recipe that a form holds as YAML or JSON, or the shipped one of that name.

    A form has no folder, so a relative path in it is an error. Raises ConfigError.
    """
    shipped = shipped_recipes()
    if text in shipped:
        tree, origin = _read(shipped[text], shipped, extended_by=()), text
    else:
        tree, origin = _parse(text, "recipe", None, shipped, extended_by=()), "recipe"
    for override in overrides:
        _override(tree, override, None)
    return parse_recipe(tree, origin=origin)


def parse_recipe(tree: Mapping[str, Any], *, origin: str = "recipe") -> Recipe:
    """Return the validated recipe of a plain tree. Raises ConfigError, one line for each fault."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        faults = explain_faults(error, Recipe)
        raise ConfigError(f"{origin} is not a valid recipe:\n{faults}") from None


def explain_faults(error: ValidationError, model: type[BaseModel]) -> str:
    """Return an indented line for each fault of a tree that is not a `model`."""
    return "\n".join(f"  {_explain(fault, model)}" for fault in error.errors())


def _find(source: str, shipped: Mapping[str, Path]) -> Path:
    if source in shipped:
        return shipped[source]
    path = Path(source).expanduser()
    if path.is_file():
        return path
    names = ", ".join(sorted(shipped)) or "none"
    raise ConfigError(
        f"{source!r} is neither a file nor a shipped recipe ({names})"
        f"{did_you_mean(source, shipped)}; `rlvr recipes` lists them"
    )


def _read(path: Path, shipped: Mapping[str, Path], extended_by: tuple[Path, ...]) -> dict[str, Any]:
    if path in extended_by:
        raise ConfigError(f"{path} extends itself; let it extend another recipe")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise passing_error(error) or ConfigError(
            f"{path} cannot be read ({error.strerror}); check the path"
        ) from None
    return _parse(content, str(path), path.parent, shipped, (*extended_by, path))


def _parse(
    content: str | bytes,
    origin: str,
    folder: Path | None,
    shipped: Mapping[str, Path],
    extended_by: tuple[Path, ...],
) -> dict[str, Any]:
    """Return the tree of a recipe whose relative paths start from `folder`; None: there is none."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        tree = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # not UTF-8, a number of 5,000 digits
        raise ConfigError(f"{origin} is not YAML: {error}; correct it") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{origin} holds {type(tree).__name__}; a recipe is a mapping of fields")
    _resolve_locations(tree, folder)
    if "extends" not in tree:
        return tree
    extended = str(tree.pop("extends"))
    is_file = folder is not None and (folder / extended).is_file()
    if PATH.match(extended) or (extended not in shipped and is_file):
        extended = _beside(extended, folder, "extends")
    return _merge(_read(_find(extended, shipped), shipped, extended_by), tree)


def _resolve_locations(tree: dict[str, Any], folder: Path | None) -> None:
    rewards = tree.get("rewards")
    functions = (
        [("rewards", name, "function") for name in rewards] if isinstance(rewards, dict) else []
    )
    for *parents, last in [*LOCATION_FIELDS, *functions]:
        section: Any = tree
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        value = section.get(last) if isinstance(section, dict) else None
        if isinstance(value, str) and _is_path(value, str(parents[0] if parents else last)):
            section[last] = _beside(value, folder, ".".join((*parents, last)))


def _is_path(value: str, section: str) -> bool:
    """Return True if a location is a path on this machine, not a hub id or a module."""
    if section in ("data", "prompt"):
        return bool(value) and "://" not in value
    is_code = section in ("task", "rewards") and value.rpartition(":")[0].endswith(".py")
    return is_code or PATH.match(value) is not None


def _beside(path: str, folder: Path | None, field: str) -> str:
    if folder is None:
        if Path(path).is_absolute():
            return path
        raise ConfigError(
            f"{field}: {path!r} is a relative path, and the pods have no folder that it could "
            "start from; write an absolute path that they have, or a URI (s3://…)"
        )
    expanded = Path(path).expanduser()
    return str(expanded if expanded.is_absolute() else (folder / expanded).resolve())


def _merge(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict) and key != "rewards"
        merged[key] = _merge(old, value) if both and isinstance(old, dict) else value
    return merged


def _override(tree: dict[str, Any], override: str, folder: Path | None) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override!r} has no value; write it as section.field=value")
    try:
        value = yaml.load(text, _Loader) if text else ""
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"--set {override!r}: {text!r} is not a YAML value; quote it") from None
    *parents, last = path.split(".")
    if not isinstance(value, str) and _is_text(parents, last):
        value = text  # in YAML, `#### A` is a comment and `Q:` a mapping
    if parents[:1] == ["rewards"]:
        tree.setdefault("rewards", {name: {} for name in Recipe.model_fields["rewards"].default})
    section = tree
    for parent in parents:
        child = section.get(parent)
        if not isinstance(child, dict):
            child = section[parent] = {}
        section = child
    section[last] = _resolved(path.split("."), value, folder)


def _resolved(path: list[str], value: Any, folder: Path | None) -> Any:
    """Return a field's value with the locations in it absolute."""
    tree = value
    for part in reversed(path):
        tree = {part: tree}
    _resolve_locations(tree, folder)
    for part in path:
        tree = tree[part]
    return tree


def _is_text(parents: list[str], last: str) -> bool:
    """Return True if the recipe's field holds text only."""
    model: type[BaseModel] = Recipe
    for part in parents:
        field = model.model_fields.get(part)
        inner = field and field.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return False
        model = inner
    return last in model.model_fields and model.model_fields[last].annotation is str


def _explain(fault: Any, model: type[BaseModel]) -> str:
    *parents, last = fault["loc"] or (model.__name__.lower(),)
    if parents[:1] == ["rewards"] and len(parents) > 2:
        del parents[2]  # the kind of the reward
    where = ".".join(str(part) for part in (*parents, last))
    match fault["type"]:
        case "extra_forbidden":
            fields = list(_fields_at(model, fault["loc"][:-1]))
            return f"{where}: unknown field{did_you_mean(str(last), fields)}"
        case "missing":
            return f"{where}: missing; set it"
        case "value_error":
            return f"{where}: {fault['ctx']['error']}"
        case _:
            return f"{where}: got {fault['input']!r}; {fault['msg']}"


def _fields_at(model: type[BaseModel], path: Iterable[Any]) -> Iterable[str]:
    match list(path):
        case ["rewards", _, kind] if model is Recipe:
            model = REWARD_KINDS[kind]
            path = ()
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            return ()
        for option in (field.annotation, *get_args(field.annotation)):
            if isinstance(option, type) and issubclass(option, BaseModel):
                model = option
    return model.model_fields


def shipped_recipes() -> dict[str, Path]:
    """Map the names of the shipped recipes to their files."""
    folder = Path(str(files("rlvr_trainer.recipe"))) / "shipped"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
