"""Requests to AWS: one session, renewed when its credentials expire; patience with its faults."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from rlvr_components.sagemaker.aws_errors import explain, is_expired, is_passing
from rlvr_trainer.errors import ConfigError

logger = logging.getLogger(__name__)

PATIENCE_S = 600.0
"""Time for which a request is repeated that AWS throttles or does not answer."""
MIN_DELAY_S, MAX_DELAY_S = 0.5, 20.0
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 60
PAUSE_S = 0.2
NUM_CONNECTIONS = 10


class AwsApi:
    """The clients of one session, for one region; empty: that of the environment or the profile.

    A request that is throttled, or met a server's error or a lost connection, is repeated for
    `patience_s`, or until `is_stopped`. Not for several threads.
    """

    def __init__(
        self,
        region: str = "",
        *,
        patience_s: float = PATIENCE_S,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        # boto3 itself does not read AWS_REGION, which other tools of AWS set and read
        variables = ("AWS_DEFAULT_REGION", "AWS_REGION")
        named = [region, *(os.environ.get(name, "") for name in variables)]
        self._region = next(filter(None, named), None)
        self._patience_s = patience_s
        self._is_stopped = is_stopped
        self._session: Any = None
        self._clients: dict[str, Any] = {}

    @property
    def region(self) -> str:
        """Return the region. Raises ConfigError if none is set."""
        region = self._region or self._open_session().region_name
        if not region:
            raise ConfigError(
                "no region is set; set `region` in SageMaker's settings, or AWS_DEFAULT_REGION"
            )
        return str(region)

    def prepare(self, *services: str) -> None:
        """Create the clients of these services now, for requests of a signal handler."""
        for service in services:
            self._client(service)

    def call(self, service: str, operation: str, subject: str, **request: Any) -> dict[str, Any]:
        """Return the answer to a request; `subject` is what it is about, for messages.

        Raises ConfigError (JobMissing, NameTaken, WrongState), PlatformError.
        """
        action = f"{service}:{operation}"
        deadline, delays, is_renewed = time.monotonic() + self._patience_s, _delays(), False
        while True:
            try:
                return self._send(service, operation, request)
            except Exception as error:
                if not _is_of_botocore(error):
                    raise
                if is_expired(error) and not is_renewed:
                    # a file or a token may hold newer credentials than the session has read
                    is_renewed, self._session = True, None
                    self._clients.clear()
                    continue
                delay_s = next(delays)
                has_time = time.monotonic() + delay_s < deadline and not self._is_stopped()
                if not is_passing(error) or not has_time:
                    raise explain(action, subject, error) from error
                logger.warning("%s: %s; trying again", action, error)
                pause(delay_s, self._is_stopped)

    def pages(self, service: str, operation: str, subject: str, **request: Any) -> Iterator[Any]:
        """Yield the answers to a request with `nextToken` or `NextToken`.

        Raises as `call`.
        """
        field = "NextToken" if service == "sagemaker" else "nextToken"
        token: dict[str, str] = {}
        while True:
            answer = self.call(service, operation, subject, **request, **token)
            yield answer
            if not answer.get(field) or answer[field] == token.get(field):
                return
            token = {field: answer[field]}

    def _send(self, service: str, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        from botocore import xform_name

        send = getattr(self._client(service), xform_name(operation))
        answer: dict[str, Any] = send(**request)
        return answer

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            from botocore.config import Config

            config = Config(
                # patience is ours: it sees when it is stopped, and knows what was accepted
                retries={"mode": "standard", "total_max_attempts": 1},
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                max_pool_connections=NUM_CONNECTIONS,
            )
            self._clients[service] = self._open_session().client(
                service, region_name=self.region, config=config
            )
        return self._clients[service]

    def _open_session(self) -> Any:
        if self._session is None:
            try:
                import boto3
                import botocore.session
            except ImportError as error:
                raise ConfigError("SageMaker needs boto3; pip install 'rlvr[s3]'") from error
            try:
                session = botocore.session.Session()
                session.register_component("data_loader", _service_models())
                self._session = boto3.Session(botocore_session=session)
            except Exception as error:
                if not _is_of_botocore(error):
                    raise
                raise explain("sts:GetCallerIdentity", "AWS", error) from error
        return self._session


def pause(seconds: float, is_stopped: Callable[[], bool]) -> None:
    """Sleep, or return soon after a stop."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not is_stopped():
        time.sleep(min(left, PAUSE_S))


@cache
def _service_models() -> Any:
    """Return botocore's loader of service models, of which SageMaker's takes half a second."""
    from botocore.loaders import create_loader

    return create_loader()


def _delays() -> Iterator[float]:
    """Yield growing delays with jitter, in seconds."""
    delay_s = MIN_DELAY_S
    while True:
        yield delay_s * random.uniform(0.5, 1.0)
        delay_s = min(2 * delay_s, MAX_DELAY_S)


def _is_of_botocore(error: Exception) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    return isinstance(error, BotoCoreError | ClientError)
