"""Write the folder of a Lambda: handler, recipe, this package's rooms and what they import.

The rooms are found by their imports, each whole, so that a module added to one is exported too.
Installed packages are copied from this environment; compiled ones fit only the same Python and
processor, which `runtime` names.
"""

from __future__ import annotations

import ast
import json
import platform
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    packages_distributions,
)
from importlib.util import find_spec
from pathlib import Path
from re import match
from typing import Literal

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.lambda_export import lambda_handler
from rlvr_trainer.recipe.named_files import imported_files
from rlvr_trainer.recipe.schema import Recipe

Contract = Literal["open-weights", "nova"]

PACKAGE = "rlvr_trainer"
HANDLER = "handler.py"
USER_CODE = "user_code"
IN_EVERY_LAMBDA = frozenset({"boto3", "botocore"})
ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "arm64"}
SKIPPED = shutil.ignore_patterns("__pycache__", "*.pyc")
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The time of all files in a zip, so that the same export gives the same bytes."""


def write_bundle(
    recipe: Recipe, folder: Path, *, contract: Contract, packages: Iterable[str] = ()
) -> None:
    """Write the Lambda's folder; `packages` are installed ones that the user's rewards import.

    Raises ConfigError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(lambda_handler.__file__)
    shutil.copyfile(source, folder / HANDLER)
    rooms, imported = _reached(source)
    root = _package_root()
    data = {file.name for file in root.iterdir() if file.is_file() and file.suffix != ".py"}
    for name in sorted({*rooms, *data, "__init__.py"}):
        _copy(root / name, folder / PACKAGE / name)
    tree = recipe.model_dump(mode="json")
    for name, reward in tree["rewards"].items():
        if reward.get("function"):
            field = f"rewards.{name}.function"
            reward["function"] = _copy_user_code(reward["function"], folder, field)
    for package in _distributions([*imported, *packages]):
        _copy_distribution(package, folder)
    _write_json(folder / lambda_handler.RECIPE_FILE, tree)
    _write_json(folder / lambda_handler.CONTRACT_FILE, {"contract": contract})


def write_zip(folder: Path, file: Path) -> None:
    """Write the folder's files to a zip, the same bytes for the same files."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EARLIEST)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())


def runtime() -> tuple[str, str]:
    """Return Lambda's runtime and architecture that fit this environment's compiled packages.

    Raises ConfigError on a system other than Linux.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        raise ConfigError(
            f"packages of {sys.platform} on {machine} do not run in a Lambda; export in the "
            "trainer's image (docker run rlvr-trainer rlvr export lambda …)"
        )
    return f"python{sys.version_info.major}.{sys.version_info.minor}", ARCHITECTURES[machine]


def _package_root() -> Path:
    return Path(lambda_handler.__file__).parents[1]


def _reached(source: Path) -> tuple[set[str], set[str]]:
    """Return the rooms and modules of this package that a file needs, and other imports of theirs.

    Imports within functions count for our rooms, since they may run; of other packages only those
    at the head of a module do.
    """
    root = _package_root()
    rooms: set[str] = set()
    others: set[str] = set()
    waiting = [source, root / "__init__.py"]
    while waiting:
        tree = ast.parse(waiting.pop().read_text("utf-8"))
        others |= {name.partition(".")[0] for name in _imports(tree, everywhere=False)}
        for name in _imports(tree, everywhere=True):
            package, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if package != PACKAGE or not room:
                continue
            path = root / room if (root / room).is_dir() else root / f"{room}.py"
            if path.exists() and path.name not in rooms:
                rooms.add(path.name)
                waiting += path.rglob("*.py") if path.is_dir() else [path]
    standard = sys.stdlib_module_names
    return rooms, {name for name in others if name not in standard and name != PACKAGE}


def _imports(tree: ast.AST, *, everywhere: bool) -> Iterator[str]:
    """Yield the modules that code imports; those for type checkers only do not count."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                for part in node.orelse:
                    yield from _imports(part, everywhere=everywhere)
            case ast.FunctionDef() | ast.AsyncFunctionDef() if not everywhere:
                continue
            case _:
                yield from _imports(node, everywhere=everywhere)


def _distributions(names: Iterable[str]) -> list[Distribution]:
    """Return the installed packages that provide these modules, with their requirements.

    Raises ConfigError for one that is not installed.
    """
    provided = _providers()
    waiting = [name for module in names for name in provided.get(module, [module])[:1]]
    required = set(waiting)
    installed: dict[str, Distribution] = {}
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in installed or name in IN_EVERY_LAMBDA:
            continue
        try:
            installed[name] = distribution(name)
        except PackageNotFoundError:
            if name in {package.lower().replace("_", "-") for package in required}:
                raise ConfigError(f"the package {name} is not installed; install it") from None
            continue  # for another Python or system
        for requirement in installed[name].requires or ():
            named = match(r"[\w.-]+", requirement)
            if named and "extra ==" not in requirement:
                waiting.append(named[0])
    return [installed[name] for name in sorted(installed)]


@cache
def _providers() -> Mapping[str, list[str]]:
    return packages_distributions()


def _copy_distribution(package: Distribution, folder: Path) -> None:
    for file in package.files or ():
        if ".." in file.parts or file.suffix == ".pyc":
            continue  # scripts
        source = Path(str(file.locate()))
        if source.is_file():
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _copy_user_code(spec: str, folder: Path, field: str) -> str:
    """Copy the code of a reward, and return the name that it has in the folder.

    Raises ConfigError if it cannot be found.
    """
    where, _, function = spec.rpartition(":")
    if where.endswith(".py"):
        path = Path(where).expanduser().resolve()
        if not path.is_file():
            raise ConfigError(f"{field}: the file {path} does not exist; check the path")
        for file in (path, *imported_files(path).values()):
            target = folder / USER_CODE / file.resolve().relative_to(path.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        return f"{USER_CODE}/{path.name}:{function}"
    top = where.partition(".")[0]
    spec_of_top = find_spec(top)
    places = list(spec_of_top.submodule_search_locations or ()) if spec_of_top else []
    places = places or ([spec_of_top.origin] if spec_of_top and spec_of_top.origin else [])
    if not places:
        raise ConfigError(f"{field}: module {top!r} is not installed; install it, or name a file")
    _copy(Path(places[0]), folder / Path(places[0]).name)
    return spec


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=SKIPPED, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _write_json(path: Path, tree: object) -> None:
    path.write_text(json.dumps(tree, indent=1, sort_keys=False) + "\n", "utf-8")
