"""Copy the missing layers of an image from Docker to containerd.

`docker save | ctr images import` writes all of an image's gigabytes several times for every change
to a line of code. Here each layer's directory, as Docker's overlay2 driver keeps it, is streamed
into containerd's content store once; then a manifest that names the layers is imported.

from_docker.py TAG LAYERS.json -- DOCKER COMMAND -- CTR COMMAND
LAYERS.json remembers which blob holds which of Docker's layers, and each tag's last image.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from oci_image import CONFIG, LAYER, MANIFEST, descriptor, write_archive


def main(tag: str, record: Path, docker: list[str], ctr: list[str]) -> None:
    (image,) = json.loads(subprocess.check_output([*docker, "image", "inspect", tag]))
    driver = image["GraphDriver"]["Data"]
    below = driver.get("LowerDir", "")
    directories = [driver["UpperDir"], *(below.split(":") if below else [])][::-1]
    names: list[str] = image["RootFS"]["Layers"]
    assert len(directories) == len(names), "each layer has one directory"

    known: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    present = set(subprocess.check_output([*ctr, "content", "ls", "--quiet"], text=True).split())
    for name, directory in zip(names, directories, strict=True):
        if known.get(name, {}).get("digest") not in present:
            known[name] = ingest(directory, f"rlvr-{name}", ctr)
            keep(known[name], ctr, "yes")
            record.write_text(json.dumps(known))
    layers = [known[name] for name in names]

    config = json.dumps(
        {
            "architecture": image["Architecture"],
            "os": image["Os"],
            "config": image["Config"],
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config, CONFIG),
        "layers": layers,
    }
    with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        write_archive(Path(archive.name), tag, manifest, [config])
        subprocess.run(
            [*ctr, "images", "import", archive.name], check=True, stdout=subprocess.DEVNULL
        )
    for layer in layers:
        keep(layer, ctr, "")
    # the kubelet's side names an image by its configuration too, which would keep the old layers
    name, old = descriptor(config, CONFIG)["digest"], known.get(tag)
    known[tag] = name
    record.write_text(json.dumps(known))
    if old not in (None, name):
        subprocess.run([*ctr, "images", "rm", old], check=False, capture_output=True)


def keep(layer: dict[str, Any], ctr: list[str], value: str) -> None:
    """Guard a blob from garbage collection, for as long as no image refers to it."""
    label = f"containerd.io/gc.root={value}"
    subprocess.run(
        [*ctr, "content", "label", layer["digest"], label], check=True, stdout=subprocess.DEVNULL
    )


def ingest(directory: str, key: str, ctr: list[str]) -> dict[str, Any]:
    """Stream a layer's directory into the content store and return its descriptor."""
    # overlayfs marks what a layer removes from those below by devices of number 0, which a tar for
    # an image would have to translate; our Dockerfiles remove nothing that an earlier layer made
    devices = subprocess.check_output(["find", directory, "-type", "c"], text=True).splitlines()
    removed = [device for device in devices if os.stat(device).st_rdev == 0]
    assert not removed, f"the layer removes files of earlier layers: {removed}"
    pack = ["tar", "--numeric-owner", "--sort=name", "-C", directory, "-c", "."]
    digest, size = hashlib.sha256(), 0
    with (
        subprocess.Popen(pack, stdout=subprocess.PIPE) as tar,
        subprocess.Popen([*ctr, "content", "ingest", key], stdin=subprocess.PIPE) as store,
    ):
        assert tar.stdout is not None
        assert store.stdin is not None
        while chunk := tar.stdout.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
            store.stdin.write(chunk)
        store.stdin.close()
        assert tar.wait() == 0
        assert store.wait() == 0
    return {"mediaType": LAYER, "digest": f"sha256:{digest.hexdigest()}", "size": size}


if __name__ == "__main__":
    arguments = sys.argv[1:]
    first = arguments.index("--")
    second = arguments.index("--", first + 1)
    main(arguments[0], Path(arguments[1]), arguments[first + 1 : second], arguments[second + 1 :])
