"""An S3 of its own for tests, in this process: moto's server, with boto3 as the oracle beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET = "studio"


@contextmanager
def running_s3() -> Iterator[Any]:
    """boto3's client of an empty bucket; the variables lead every object store of this process there."""
    reason = "{} is not installed: pip install 'sonolora[dev]'"
    pytest.importorskip("obstore", reason=reason.format("obstore"))
    moto = pytest.importorskip("moto.server", reason=reason.format("moto[server]"))
    boto3 = pytest.importorskip("boto3", reason=reason.format("boto3"))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "studio",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "NO_PROXY": "127.0.0.1",
        }.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client
        client.close()
    server.stop()
