"""Load a user's function or class: `package.module:name` or `file.py:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.named_files import imported_files
from rlvr_trainer.recipe.suggest import did_you_mean


def load_user_code(spec: str, *, field: str) -> Any:
    """Return what `spec` names. Raises ConfigError, which names the recipe's `field`.

    A file is executed once in a process.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise ConfigError(
            f"{field}: {spec!r} does not name code; write package.module:name or "
            "/path/to/file.py:name"
        )
    module = _load_file(Path(where), field) if where.endswith(".py") else _import(where, field)
    try:
        return getattr(module, name)
    except AttributeError:
        public = [known for known in vars(module) if not known.startswith("_")]
        raise ConfigError(
            f"{field}: {where} has no {name!r}{did_you_mean(name, public)}; "
            f"it has {', '.join(public) or 'nothing'}"
        ) from None


def _import(name: str, field: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{field}: module {error.name!r} is not installed; install it, put its folder on "
            "PYTHONPATH, or name the file: /path/to/file.py:name"
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(_raised(name, field, error)) from error


def _load_file(path: Path, field: str) -> ModuleType:
    path = path.expanduser().resolve()
    name = f"rlvr_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{field}: the file {path} does not exist; check the path")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look up their module there
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that no folder there hides a package
    try:
        spec.loader.exec_module(module)
        _check_imports(path)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(_raised(str(path), field, error)) from error
    return module


def _check_imports(path: Path) -> None:
    """Raise ImportError if a module was imported from elsewhere than beside the file."""
    for name, file in imported_files(path).items():
        imported = getattr(sys.modules.get(name), "__file__", None)
        if imported and Path(imported).resolve() != file.resolve():
            raise ImportError(f"it imports {name!r} from {imported}, not {file}; rename the latter")


def _raised(where: str, field: str, error: BaseException) -> str:
    return f"{field}: {where} cannot be imported, it raises {type(error).__name__}: {error}; fix it"
