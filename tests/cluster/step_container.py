"""Replace what Kubeflow runs around a step, as PID 1 of the step's container.

KFP's launcher fetches the input artifacts, puts the executor input into the step's command,
collects what came out, and exits with 1 whatever the step's exit code was. Argo's emissary runs it
all in a process group, passes signals on to the group, and takes the container with it within a
second of the launcher's end. Where a real emissary does that, UNDER_ARGO is set.

    python -c "$(cat step_container.py)" EXECUTOR_INPUT COMMAND…
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import boto3

GRACE_S = 1.0
PROCESS_GROUP = Path("/tmp/process-group")
"""The file that holds the step's process id, for tests that kill the step."""


def main(text: str, *command: str) -> int:
    given = json.loads(text)
    for artifact in _artifacts(given["inputs"]):
        _download(artifact["uri"])
    outputs = given["outputs"]
    paths = [parameter["outputFile"] for parameter in outputs["parameters"].values()]
    for path in (*paths, *(_local_path(artifact["uri"]) for artifact in _artifacts(outputs))):
        Path(path).parent.mkdir(parents=True, exist_ok=True)

    is_under_argo = "UNDER_ARGO" in os.environ
    group = None if is_under_argo else 0
    step = subprocess.Popen([part.replace("{{$}}", text) for part in command], process_group=group)
    PROCESS_GROUP.write_text(str(step.pid))

    def end(number: int, frame: FrameType | None) -> None:
        os.killpg(step.pid, number)
        time.sleep(GRACE_S)
        os._exit(128 + number)  # and the kernel kills what is left of PID 1's processes

    if not is_under_argo:
        signal.signal(signal.SIGTERM, end)
    code = step.wait()
    if code:
        cause = f"exit status {code}" if code > 0 else "signal: killed"
        print(f"F launcher: failed to execute component: {cause}", file=sys.stderr, flush=True)
        return 1
    _collect(outputs)
    return 0


def _collect(outputs: dict[str, Any]) -> None:
    """Collect parameters from files, upload artifacts, and write all outputs beside them."""
    executor_output = json.loads(Path(outputs["outputFile"]).read_text())
    parameters = dict(executor_output.get("parameterValues", {}))
    for name, parameter in outputs["parameters"].items():
        if name not in parameters:
            parameters[name] = Path(parameter["outputFile"]).read_text()
    artifacts = {}
    for name, given in outputs["artifacts"].items():
        [artifact] = executor_output.get("artifacts", {}).get(name, {}).get("artifacts", [{}])
        artifacts[name] = {**given["artifacts"][0], **artifact}
        _upload(artifacts[name]["uri"])
    collected = json.dumps({"parameters": parameters, "artifacts": artifacts})
    bucket, key = outputs["outputFile"].removeprefix("/s3/").split("/", 1)
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=collected.encode())


def _artifacts(side: dict[str, Any]) -> list[dict[str, Any]]:
    return [artifact for listed in side["artifacts"].values() for artifact in listed["artifacts"]]


def _local_path(uri: str) -> Path:
    return Path("/s3", uri.removeprefix("s3://"))


def _download(uri: str) -> None:
    s3, (bucket, prefix) = boto3.client("s3"), uri.removeprefix("s3://").split("/", 1)
    for listed in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        path = Path("/s3", bucket, listed["Key"])
        path.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, listed["Key"], str(path))


def _upload(uri: str) -> None:
    """Upload the artifact if there is a file; the job's pods may have written it already."""
    path = _local_path(uri)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        bucket, key = str(file.relative_to("/s3")).split("/", 1)
        boto3.client("s3").upload_file(str(file), bucket, key)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
