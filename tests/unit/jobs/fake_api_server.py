"""A fake of the Kubernetes API server, for tests: real HTTP on loopback, objects in memory.

It exists for what no real server does on request: answers that are lost, connections that go
silent, versions that are forgotten, tokens that expire. tests/cluster uses a real one.

It lists, watches (in chunks, as the real one), creates, patches, deletes and streams logs. There is
no operator behind it: a test changes objects itself.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

Object = dict[str, Any]
COLLECTION = re.compile(
    r"/(?:api/v1|apis/(?P<api>[^/]+/[^/]+))/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)
DEFAULT_KINDS = ("pytorchjobs", "pods", "events")


@dataclass
class Fault:
    """A fault of the next matching requests, instead of an answer or after it."""

    method: str
    path: str
    """A regular expression, searched for in path and query."""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "told to fail"
    lose_answer: bool = False
    """Apply the request, then close the connection without an answer."""
    silent_s: float = 0.0
    """Seconds of silence on an open connection."""
    delay_s: float = 0.0
    """Seconds until the request is applied."""
    times: int = 1


class Refused(Exception):
    """The server answers with a Status."""

    def __init__(self, code: int, reason: str, message: str, name: str = "") -> None:
        super().__init__(message)
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
            "details": {"name": name} if name else {},
        }
        self.code = code


@dataclass
class FakeApiServer:
    """The server's state and settings."""

    token: str = "first"
    """The only accepted token."""
    kinds: tuple[str, ...] = DEFAULT_KINDS
    """The installed kinds."""
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """(verb, plural) that are denied to the caller."""
    faults: list[Fault] = field(default_factory=list)
    on_create: Callable[[Object], None] = lambda job: None
    on_delete: Callable[[Object], None] = lambda job: None
    url: str = ""
    requests: list[str] = field(default_factory=list)
    cut_logs_after: int = 0
    """Lines after which the next log stream ends, in the middle of a line; 0: never."""
    cut_is_clean: bool = False
    """End that stream regularly, not with a broken connection."""
    openapi: Object = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.logs: dict[str, list[tuple[str, str]]] = {}
        self.log_ends: set[str] = set()
        self._uids = count(1)
        self._version = 0
        self._history: list[tuple[int, str, str, Object]] = []
        self._oldest = 0
        self.condition = threading.Condition()
        self.connections: list[socket.socket] = []
        self.is_closing = False

    # what a test does

    def put(self, plural: str, obj: Object, verb: str = "MODIFIED") -> Object:
        """Create or replace an object, as its controller would."""
        with self.condition:
            obj = json.loads(json.dumps(obj))
            key = (plural, obj["metadata"]["name"])
            known = self.objects.get(key)
            if known is None:
                verb = "ADDED"
            metadata = obj["metadata"]
            metadata.setdefault("namespace", "rlvr")
            metadata.setdefault("uid", known["metadata"]["uid"] if known else self.new_uid())
            metadata.setdefault("creationTimestamp", now())
            self._record(verb, plural, obj)
            self.objects[key] = obj
            return obj

    def change(self, plural: str, name: str, **status: Any) -> Object:
        """Merge the fields into an object's status."""
        obj = self.objects[plural, name]
        return self.put(plural, {**obj, "status": {**obj.get("status", {}), **status}})

    def remove(self, plural: str, name: str) -> None:
        """Delete an object; a job's pods are deleted too."""
        with self.condition:
            obj = self.objects.pop((plural, name), None)
            if obj is None:
                return
            self._record("DELETED", plural, obj)
        if plural in ("pytorchjobs", "trainjobs"):
            pods = [pod_name for kind, pod_name in self.objects if kind == "pods"]
            for pod in [pod_name for pod_name in pods if pod_name.startswith(f"{name}-")]:
                self.remove("pods", pod)

    def forget_history(self) -> None:
        """Answer watches from earlier versions with 410, and open ones with ERROR."""
        with self.condition:
            self._version += 1
            self._oldest = self._version
            self._history.clear()
            self.condition.notify_all()

    def drop_connections(self) -> None:
        """Close all connections, as at a restart of the server or of a load balancer."""
        with self.condition:
            for connection in self.connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self.connections.clear()

    def log(self, pod: str, *lines: str, time: str = "") -> None:
        """Write lines into a container's log."""
        with self.condition:
            for line in lines:
                stamp = time or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
                self.logs.setdefault(pod, []).append((stamp, line))
            self.condition.notify_all()

    def end_log(self, pod: str) -> None:
        """End the container's log, and the streams that follow it."""
        with self.condition:
            self.log_ends.add(pod)
            self.condition.notify_all()

    def jobs(self, plural: str = "pytorchjobs") -> list[Object]:
        """Return all jobs in the order of their creation."""
        return [obj for (kind, _), obj in self.objects.items() if kind == plural]

    def num_requests(self, pattern: str) -> int:
        """Count the requests so far whose `METHOD path?query` matches the pattern."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)

    def new_uid(self) -> str:
        return f"00000000-0000-0000-0000-{next(self._uids):012}"

    def _record(self, verb: str, plural: str, obj: Object) -> None:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, verb, plural, json.loads(json.dumps(obj))))
        self.condition.notify_all()

    # what a request does

    def answer(self, method: str, path: str, query: dict[str, str], body: Object) -> Object:
        if path.endswith("/selfsubjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            plural = asked["resource"] + (
                f"/{asked['subresource']}" if asked["subresource"] else ""
            )
            return {"status": {"allowed": (asked["verb"], plural) not in self.forbidden}}
        if path.startswith("/openapi/v3/apis/"):
            return self.openapi
        match = COLLECTION.fullmatch(path)
        if match is None or match["plural"] not in self.kinds:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        plural, name = match["plural"], match["name"]
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method)
        self._authorize(verb or ("get" if name else "list"), plural, match["namespace"])
        if method == "POST":
            return self._create(plural, body)
        if not name:
            return self._list(plural, query)
        with self.condition:
            obj = self.objects.get((plural, name))
        if obj is None:
            raise Refused(404, "NotFound", f'{plural} "{name}" not found', name)
        if method == "PATCH":
            return self._patch(plural, obj, body)
        if method == "DELETE":
            uid = body.get("preconditions", {}).get("uid", obj["metadata"]["uid"])
            if uid != obj["metadata"]["uid"]:
                raise Refused(409, "Conflict", "the UID in the precondition does not match", name)
            assert body["propagationPolicy"] == "Background"
            self.remove(plural, name)
            self.on_delete(obj)
        return obj

    def _authorize(self, verb: str, plural: str, namespace: str) -> None:
        if (verb, plural) in self.forbidden:
            raise Refused(
                403,
                "Forbidden",
                f'{plural} is forbidden: User "system:serviceaccount:rlvr:launcher" cannot {verb} '
                f'resource "{plural}" in API group "" in the namespace "{namespace}"',
            )

    def _create(self, plural: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        if (plural, name) in self.objects:
            raise Refused(409, "AlreadyExists", f'{plural} "{name}" already exists', name)
        created = self.put(plural, body)
        self.on_create(created)
        return created

    def _patch(self, plural: str, obj: Object, patch: Object) -> Object:
        metadata = obj["metadata"]
        if patch["metadata"].get("uid", metadata["uid"]) != metadata["uid"]:
            raise Refused(409, "Conflict", "the UID does not match", metadata["name"])
        annotations = {**metadata.get("annotations", {}), **patch["metadata"]["annotations"]}
        return self.put(plural, {**obj, "metadata": {**metadata, "annotations": annotations}})

    def _list(self, plural: str, query: dict[str, str]) -> Object:
        with self.condition:
            objects = [obj for (kind, _), obj in self.objects.items() if kind == plural]
            version = str(self._version)
        chosen = [obj for obj in objects if selected(obj, query)]
        start = int(query.get("continue", 0))
        end = start + int(query.get("limit", len(chosen)))
        more = {"continue": str(end)} if end < len(chosen) else {}
        return {"metadata": {"resourceVersion": version, **more}, "items": chosen[start:end]}

    def check_version(self, version: str) -> None:
        if int(version) < self._oldest:
            raise Refused(410, "Expired", "too old resource version")

    def watch(self, plural: str, query: dict[str, str]) -> Iterator[bytes]:
        """Yield the lines of a watch until its time-out."""
        version = int(query["resourceVersion"])
        until = time.monotonic() + float(query.get("timeoutSeconds", 60))
        while not self.is_closing and (left := until - time.monotonic()) > 0:
            with self.condition:
                if version < self._oldest:
                    error = Refused(410, "Expired", "too old resource version").status
                    yield json.dumps({"type": "ERROR", "object": error}).encode() + b"\n"
                    return
                new = [change for change in self._history if change[0] > version]
                if not new:
                    self.condition.wait(min(left, 0.5))
                    continue
            for number, verb, kind, obj in new:
                version = number
                if kind == plural and selected(obj, query):
                    yield json.dumps({"type": verb, "object": obj}).encode() + b"\n"

    def read_log(self, pod: str, query: dict[str, str]) -> Iterator[bytes]:
        """Yield a container's lines from a whole second on, as the kubelet does."""
        since = query.get("sinceTime", "")
        is_stamped = query.get("timestamps") == "true"
        sent, given = 0, 0
        while not self.is_closing:
            with self.condition:
                lines = self.logs.get(pod, [])[sent:]
                sent += len(lines)
                is_over = pod in self.log_ends or query.get("follow") != "true"
                if not lines and not is_over:
                    self.condition.wait(0.5)
                    continue
            for stamp, line in lines:
                if stamp[:19] < since[:19]:
                    continue
                given += 1
                if self.cut_logs_after and given > self.cut_logs_after:
                    self.cut_logs_after = 0
                    yield f"{stamp} {line}"[:-1].encode()
                    if self.cut_is_clean:
                        return
                    raise ConnectionResetError
                yield (f"{stamp} {line}\n" if is_stamped else f"{line}\n").encode()
            if is_over and sent == len(self.logs.get(pod, [])):
                return


def selected(obj: Object, query: dict[str, str]) -> bool:
    """Match labelSelector (`a=b`, `a`), and metadata.name or type in fieldSelector."""
    labels = obj["metadata"].get("labels", {})
    for selector in filter(None, query.get("labelSelector", "").split(",")):
        key, equals, value = selector.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    for selector in filter(None, query.get("fieldSelector", "").split(",")):
        key, _, value = selector.partition("=")
        if {"metadata.name": obj["metadata"]["name"], "type": obj.get("type")}[key] != value:
            return False
    return True


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextmanager
def serving(fake: FakeApiServer) -> Iterator[FakeApiServer]:
    """Serve the fake on loopback within the context; its address is `fake.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            fake.connections.append(self.connection)

        def do_GET(self) -> None:
            self._answer()

        do_POST = do_PATCH = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query))
            fake.requests.append(f"{self.command} {self.path}")
            fault = self._fault()
            try:
                if fault:
                    pause(fault.silent_s)
                    if fault.status:
                        raise Refused(fault.status, "", fault.message)
                    pause(fault.delay_s)
                if self.headers.get("authorization") != f"Bearer {fake.token}":
                    raise Refused(401, "Unauthorized", "Unauthorized")
                stream = self._stream(parts.path, query)
                if stream is not None:
                    self._send_chunks(stream)
                    return
                answer = fake.answer(
                    self.command, parts.path, query, json.loads(body) if body else {}
                )
                if fault and fault.lose_answer:
                    self.close_connection = True
                    return
                self._send(201 if self.command == "POST" else 200, answer)
            except Refused as refusal:
                self._send(refusal.code, refusal.status, fault.headers if fault else {})
            except (ConnectionError, TimeoutError):
                self.close_connection = True

        def _fault(self) -> Fault | None:
            for fault in fake.faults:
                if (
                    fault.times
                    and fault.method == self.command
                    and re.search(fault.path, self.path)
                ):
                    fault.times -= 1
                    return fault
            return None

        def _stream(self, path: str, query: dict[str, str]) -> Iterator[bytes] | None:
            match = COLLECTION.fullmatch(path)
            if match and match["sub"] == "log":
                if ("pods", match["name"]) not in fake.objects:
                    raise Refused(404, "NotFound", "pod not found", match["name"])
                return fake.read_log(match["name"], query)
            if match and query.get("watch") == "true":
                fake.check_version(query["resourceVersion"])
                return fake.watch(match["plural"], query)
            return None

        def _send(self, status: int, answer: Object, headers: dict[str, str] | None = None) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _send_chunks(self, lines: Iterator[bytes]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in lines:
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    def pause(seconds: float) -> None:
        until = time.monotonic() + seconds
        while not fake.is_closing and time.monotonic() < until:
            time.sleep(0.02)

    class Server(ThreadingHTTPServer):
        daemon_threads = False
        request_queue_size = 256

        def handle_error(self, *_: Any) -> None:
            pass  # a client may close its streams

    server = Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        fake.is_closing = True
        server.shutdown()
        thread.join()
        fake.drop_connections()
        with fake.condition:
            fake.condition.notify_all()
        server.server_close()  # and joins the threads of all connections


def write_kubeconfig(path: Path, fake: FakeApiServer, token_file: Path | None = None) -> Path:
    """Write a kubeconfig for the fake and return its path."""
    user = {"tokenFile": str(token_file)} if token_file else {"token": fake.token}
    tree = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "contexts": [
            {"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": "rlvr"}}
        ],
        "clusters": [{"name": "fake", "cluster": {"server": fake.url}}],
        "users": [{"name": "me", "user": user}],
    }
    path.write_text(yaml.safe_dump(tree))
    return path
