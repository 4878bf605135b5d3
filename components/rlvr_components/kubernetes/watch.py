"""Keep a collection of objects up to date: list it once, then watch it in a thread."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from rlvr_components.kubernetes.api_errors import EXPIRED, Outage, Refusal
from rlvr_components.kubernetes.client import (
    KubernetesApi,
    Query,
    Stream,
    delays,
    pause,
    retry_delay,
)
from rlvr_trainer.errors import RLVRError

logger = logging.getLogger(__name__)

WATCH_S = 45
"""Time after which the server ends a watch, and a new watch continues."""
READ_TIMEOUT_S = WATCH_S + 15.0
"""Time of silence after which the peer counts as lost."""


class Expired(Exception):
    """The server no longer has the version to continue from."""


class Collection:
    """The current objects of a list. Its thread calls `changed` after every change."""

    def __init__(
        self,
        api: KubernetesApi,
        path: str,
        query: Query,
        *,
        changed: Callable[[], None],
        is_kept: Callable[[dict[str, Any]], bool] = lambda item: True,
    ) -> None:
        self._api = api
        self._path = path
        self._query = dict(query)
        self._changed = changed
        self._is_kept = is_kept
        self._objects: dict[str, dict[str, Any]] = {}
        self._stream: Stream | None = None
        self._is_closed = False
        self.is_synced = False
        """True once the collection was listed."""
        self.error: RLVRError | None = None
        """The error after which the collection is no longer kept up to date."""
        self.down_since: float | None = None
        """`time.monotonic()` of the first of the present run of failures; None without one."""
        self.trouble: RLVRError | None = None
        """The last of these failures."""
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)

    def start(self) -> None:
        """Start listing and watching."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._is_closed = True
        if self._stream:
            self._stream.close()

    def objects(self) -> list[dict[str, Any]]:
        """Return the current objects."""
        return list(self._objects.values())

    def _run(self) -> None:
        version, delay = "", delays()
        while not self._is_closed:
            try:
                if not version:
                    version = self._list()
                version = self._watch(version)
                self.down_since, delay = None, delays()
            except Expired:
                version = ""
                pause(random.uniform(0.1, 0.5), self._closed)
            except Refusal as error:
                if error.status == EXPIRED:
                    version = ""
                elif (
                    error.status != 401
                ):  # a token that was just replaced may be refused for a while
                    self.error = error
                    self._changed()
                    return
                self._back_off(error, next(delay))
            except Outage as error:
                version = ""
                self._back_off(error, retry_delay(error, next(delay)))
            except RLVRError as error:  # as of a login plugin, which may work later
                if self.down_since is None:
                    logger.warning("%s", error)
                self._back_off(error, next(delay))

    def _back_off(self, error: RLVRError, seconds: float) -> None:
        self.trouble = error
        if self.down_since is None:
            self.down_since = time.monotonic()
        self._changed()
        pause(seconds, self._closed)

    def _closed(self) -> bool:
        return self._is_closed

    def _list(self) -> str:
        listing = self._api.list(self._path, self._query, patience_s=0.0)
        kept = (item for item in listing.get("items") or () if self._is_kept(item))
        self._objects = {item["metadata"]["uid"]: _slim(item) for item in kept}
        self.is_synced, self.down_since = True, None
        self._changed()
        return str(listing["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> str:
        """Follow changes until the server ends the watch; return the version to continue from."""
        query = {
            **self._query,
            "watch": True,
            "allowWatchBookmarks": True,
            "resourceVersion": version,
            "timeoutSeconds": WATCH_S,
        }
        stream = self._api.stream(self._path, query, read_timeout_s=READ_TIMEOUT_S)
        self._stream = stream
        self.down_since = None
        for line in stream.lines():
            if self._is_closed:
                break
            version = self._apply(line) or version
        return version

    def _apply(self, line: bytes) -> str:
        try:
            event = json.loads(line)
            kind, changed = event["type"], event["object"]
        except (ValueError, KeyError, TypeError):
            raise Outage("a watch was cut off in the middle of an event") from None
        if kind == "ERROR":
            if changed.get("code") == EXPIRED:
                raise Expired
            raise Outage(f"the API server ended a watch: {changed.get('message', changed)}")
        metadata = changed["metadata"]
        if kind == "DELETED":
            self._objects = {k: v for k, v in self._objects.items() if k != metadata["uid"]}
            self._changed()
        elif kind != "BOOKMARK" and self._is_kept(changed):
            self._objects = {**self._objects, metadata["uid"]: _slim(changed)}
            self._changed()
        return str(metadata["resourceVersion"])


def _slim(item: dict[str, Any]) -> dict[str, Any]:
    """Return the object without managedFields, often half of its size."""
    item["metadata"].pop("managedFields", None)
    return item
