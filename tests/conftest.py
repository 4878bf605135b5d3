from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from tests.small_model import save_tiny_llama

from rlvr_trainer.recipe.schema import ModelSection

if TYPE_CHECKING:
    from tests.fakes.fake_sagemaker import FakeSageMaker

if "PYTEST_XDIST_WORKER" in os.environ:
    # Worker processes share the cores; two threads each would wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST_FIRST = (
    *("test_shared_prefix_trainer.py", "test_launch.py", "test_training.py", "test_run.py"),
    "test_pipeline_local.py",
)
"""Integration tests that take minutes: if one of them began last, it would run alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the unit tests before the integration tests, and among these the longest first."""

    def rank(item: pytest.Item) -> int:
        if "integration" not in item.path.parts:
            return -1
        name = item.path.name
        return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    """Return the embedded model's folder, converted once into the user's cache as by a run."""
    from rlvr_trainer.models import locate_model

    return Path(locate_model(ModelSection(name="embedded:smollm2-135m-instruct")))


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory, smollm2_dir: Path) -> Path:
    """Save a random Llama of two layers with the embedded model's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-model"), tokenizer)


@pytest.fixture
def full_disk() -> Path:
    """Return /dev/full, on which every write fails with ENOSPC; skip the test without it."""
    path = Path("/dev/full")
    if not path.exists():
        pytest.skip("this system has no /dev/full")
    return path


@pytest.fixture
def events_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Send this test's events to a file of its own and return the path."""
    path = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("RLVR_EVENTS", str(path))
    return path


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Serve moto's S3, a fake, on loopback and return its URL."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it logs every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Configure boto3 for the fake S3 and return the URI of a fresh prefix in it."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": "fake",
        "AWS_SECRET_ACCESS_KEY": "fake",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="fake-bucket")
    return f"s3://fake-bucket/{uuid4().hex}"


@pytest.fixture
def sagemaker(
    s3: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeSageMaker]:
    """Serve our fake of SageMaker, with moto's S3 and CloudWatch Logs; configure boto3 for it."""
    from tests.fakes.fake_sagemaker import fake_service  # a GPU machine may have no boto3

    yield from fake_service(tmp_path / "hosts", endpoint, monkeypatch.setenv)
