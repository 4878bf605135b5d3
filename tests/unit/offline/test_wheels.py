"""Install and slim wheels for a machine without an index."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

from tests.gpu.offline.install import main as install
from tests.gpu.offline.slim import slim


def wheel(
    folder: Path, name: str, release: str, *requires: str, files: tuple[str, ...] = ()
) -> Path:
    path = folder / f"{name}-{release}-py3-none-any.whl"
    info = f"{name}-{release}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {release}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    contents = {
        **dict.fromkeys(files, ""),
        f"{name}.py": "",
        f"{info}/METADATA": "\n".join(lines) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with ZipFile(path, "w") as archive:
        for file, text in contents.items():
            archive.writestr(file, text)
        record = "".join(f"{file},,\n" for file in [*contents, f"{info}/RECORD"])
        archive.writestr(f"{info}/RECORD", record)
    return path


def test_wheels_are_installed_where_a_package_is_missing_or_too_old(tmp_path: Path) -> None:
    folder, target = tmp_path / "wheels", tmp_path / "target"
    folder.mkdir()
    wheel(folder, "rlvr_absent", "1", "pluggy>=99", "pytest>=1", "nowhere; extra == 'more'")
    wheel(folder, "pluggy", "99")  # there, but older
    wheel(folder, "pytest", "1")  # there
    install(target, [folder])
    assert (target / "rlvr_absent.py").exists()
    assert (target / "pluggy-99.dist-info").exists()
    assert not (target / "pytest.py").exists()
    assert version("pluggy") != "99"  # the environment itself is unchanged


def test_a_slim_wheel_has_the_libraries_of_one_accelerator_and_can_be_installed(
    tmp_path: Path,
) -> None:
    kinds = ("cpu", "cuda118", "cuda130", "cuda132", "rocm72", "xpu2025")
    files = tuple(f"bitsandbytes/libbitsandbytes_{kind}.so" for kind in kinds)
    path = wheel(tmp_path, "bitsandbytes_like", "1", files=files)
    slim(path, "13")
    install(tmp_path / "target", [tmp_path])
    libraries = {file.stem.split("_")[-1] for file in tmp_path.glob("target/bitsandbytes/*.so")}
    assert libraries == {"cpu", "cuda130", "cuda132"}
    assert "cuda118" not in next(tmp_path.glob("target/*.dist-info/RECORD")).read_text()
