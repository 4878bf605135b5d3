"""Remove the libraries of other accelerators from a bitsandbytes wheel: 43 MB become 3.

python tests/gpu/offline/slim.py 13 bitsandbytes-0.50.2-py3-none-manylinux_2_24_x86_64.whl
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

_LIBRARY = re.compile(r"bitsandbytes/libbitsandbytes_(.+)\.so")


def slim(wheel: Path, cuda: str) -> None:
    """Keep the CPU's library and those of the CUDA major version."""
    kept = re.compile(rf"cpu|cuda{cuda}\d")

    def is_kept(name: str) -> bool:
        library = _LIBRARY.fullmatch(name)
        return library is None or kept.fullmatch(library[1]) is not None

    slimmed = wheel.with_suffix(".slim")
    with ZipFile(wheel) as source, ZipFile(slimmed, "w", ZIP_DEFLATED) as target:
        for entry in source.infolist():
            if not is_kept(entry.filename):
                continue
            content = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if is_kept(line.split(",")[0])).encode()
            target.writestr(entry, content)
    slimmed.replace(wheel)


if __name__ == "__main__":
    slim(Path(sys.argv[2]), sys.argv[1])
