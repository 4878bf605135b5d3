"""Install wheels of folders in addition to the machine's packages, without an index.

    python tests/gpu/offline/install.py TARGET FOLDER...

A wheel is installed into TARGET if its package is missing or older than another wheel requires;
the machine's own packages are not changed.
"""

from __future__ import annotations

import subprocess
import sys
from email.parser import HeaderParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename


def main(target: Path, folders: list[Path]) -> None:
    wheels = {
        parse_wheel_filename(path.name)[0]: path
        for folder in folders
        for path in sorted(folder.glob("*.whl"))
    }
    required = [r for path in wheels.values() for r in requirements(path)]
    chosen = []
    for name, path in wheels.items():
        specifiers = [r.specifier for r in required if canonicalize_name(r.name) == name]
        try:
            here = version(name)
        except PackageNotFoundError:
            here = None
        if here is None or not all(s.contains(here, prereleases=True) for s in specifiers):
            chosen.append(path)
            print(f"{name}: {here or 'missing'}; installing {path.name}")
    if chosen:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
        subprocess.run([*pip, "--no-deps", "--no-index", "--target", target, *chosen], check=True)


def requirements(wheel: Path) -> list[Requirement]:
    """Return the requirements of a wheel that apply here."""
    with ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    declared = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    return [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
