"""Write an image archive that holds one static program: oci_image.py TAG PROGRAM PATH ARCHIVE.

Such an image needs no daemon and no base. The archive is an OCI layout in a tar file, which
`ctr images import` reads; the program is at PATH and is the entry point, and /tmp exists.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def main(tag: str, program: Path, path: str, archive: Path) -> None:
    layer = layer_of(program, path)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [path]},
            "rootfs": {"type": "layers", "diff_ids": [descriptor(layer, LAYER)["digest"]]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config, CONFIG),
        "layers": [descriptor(layer, LAYER)],
    }
    write_archive(archive, tag, manifest, [config, layer])


def descriptor(content: bytes, media_type: str) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def write_archive(archive: Path, tag: str, manifest: dict[str, object], blobs: list[bytes]) -> None:
    """Write an OCI layout of one image; blobs that containerd already has may be left out."""
    written = json.dumps(manifest).encode()
    entry = descriptor(written, MANIFEST) | {
        "annotations": {"io.containerd.image.name": f"docker.io/library/{tag}"},
        "platform": {"architecture": "amd64", "os": "linux"},
    }
    with tarfile.open(archive, "w") as tar:
        add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
        for content in [written, *blobs]:
            add(tar, f"blobs/sha256/{hashlib.sha256(content).hexdigest()}", content)


def layer_of(program: Path, path: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tmp = tarfile.TarInfo("tmp")
        tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(tmp)
        add(tar, path.lstrip("/"), program.read_bytes(), mode=0o755)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
