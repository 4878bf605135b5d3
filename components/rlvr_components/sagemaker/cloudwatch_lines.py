"""Read the lines of all hosts of a job from CloudWatch, none lost and none twice.

Each host (and each restart of it) has a stream `JOB/algo-N-…`, which appears after the job's start
and may get its last lines after the job's end.
"""

from __future__ import annotations

from collections.abc import Iterator

from rlvr_components.sagemaker.aws_api import AwsApi
from rlvr_components.sagemaker.aws_errors import JobMissing

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
SERVICE = "logs"
MAX_PAGES = 100
"""Pages of one stream at a time, so that one host does not hide the others."""


class CloudWatchLines:
    """The log streams of one job, each with the token of the next page."""

    def __init__(self, api: AwsApi, job: str) -> None:
        self._api = api
        self._job = job
        self._tokens: dict[str, str] = {}

    def new_lines(self) -> Iterator[str]:
        """Yield the lines that have arrived since the last call, after the host's name.

        Raises ConfigError, PlatformError.
        """
        for stream in self.streams():
            yield from self._new_lines_of(stream)

    def streams(self) -> list[str]:
        """Return the names of the job's streams; none before the first one appears.

        Raises ConfigError, PlatformError.
        """
        try:
            pages = self._api.pages(
                SERVICE,
                "DescribeLogStreams",
                self._job,
                logGroupName=LOG_GROUP,
                logStreamNamePrefix=f"{self._job}/",
            )
            return [str(stream["logStreamName"]) for page in pages for stream in page["logStreams"]]
        except JobMissing:  # SageMaker creates the group with the account's first job
            return []

    def _new_lines_of(self, stream: str) -> Iterator[str]:
        host = host_of(stream)
        for _ in range(MAX_PAGES):
            token = self._tokens.get(stream)
            try:
                answer = self._api.call(
                    SERVICE,
                    "GetLogEvents",
                    self._job,
                    logGroupName=LOG_GROUP,
                    logStreamName=stream,
                    startFromHead=True,
                    **({"nextToken": token} if token else {}),
                )
            except JobMissing:
                return
            following = str(answer["nextForwardToken"])
            for event in answer["events"]:
                for line in str(event["message"]).splitlines():
                    yield f"[{host}] {line}"
            # noted once the lines are taken; a page may be empty before the last one
            self._tokens[stream] = following
            if following == token:
                return


def host_of(stream: str) -> str:
    """Return `algo-2` of the stream `JOB/algo-2-1795880841`."""
    name = stream.rpartition("/")[2]
    return "-".join(name.split("-")[:2])
