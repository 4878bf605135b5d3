"""Writes an image archive that holds one static program: oci_image.py TAG PROGRAM ARCHIVE.

Such an image needs no daemon and no base. The archive is an OCI layout in a tar file, which
`ctr images import` reads; the program is its entry point, and /tmp is there.
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


def main(tag: str, program: Path, archive: Path) -> None:
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    layer = blob(layer_of(program), LAYER)
    platform = {"architecture": "amd64", "os": "linux"}
    config = platform | {
        "config": {"Entrypoint": [f"/{program.name}"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(json.dumps(config).encode(), CONFIG),
        "layers": [layer],
    }
    entry = blob(json.dumps(manifest).encode(), MANIFEST)
    entry |= {"annotations": {"io.containerd.image.name": f"docker.io/library/{tag}"}}
    blobs["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    blobs["index.json"] = json.dumps(
        {"schemaVersion": 2, "manifests": [entry | {"platform": platform}]}
    ).encode()
    with tarfile.open(archive, "w") as tar:
        for name, content in blobs.items():
            add(tar, name, content)


def layer_of(program: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tmp = tarfile.TarInfo("tmp")
        tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(tmp)
        add(tar, program.name, program.read_bytes(), mode=0o755)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
