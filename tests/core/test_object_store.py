"""The object store over S3, with boto3 as the oracle, and over a folder."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from s3_server import BUCKET, running_s3

from sonolora.core.errors import SonoloraError
from sonolora.core.object_store import ObjectStore, ObjectStoreError

pytestmark = pytest.mark.xdist_group("s3")
ADDRESS = f"s3://{BUCKET}/some/prefix"


@pytest.fixture(scope="module")
def s3():
    with running_s3() as client:
        yield client


@pytest.fixture(params=["s3", "folder"])
def objects(request, tmp_path):
    if request.param == "folder":
        pytest.importorskip("obstore", reason="obstore is not installed: pip install 'sonolora[s3]'")
        return ObjectStore(f"file://{tmp_path}/objects")
    request.getfixturevalue("s3")
    return ObjectStore(f"{ADDRESS}/{tmp_path.name}")


def test_what_is_put_comes_back(objects, tmp_path):
    content = bytes(range(256)) * 50_000  # 12.8 MB: in several parts
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(content)
    objects.put("x/ü 1.bin", source)
    assert objects.fetch("x/ü 1.bin", target) and target.read_bytes() == content
    assert [(one.name, one.size) for one in objects.list("x")] == [("x/ü 1.bin", len(content))]

    async def part():
        return b"".join([block async for block in objects.stream("x/ü 1.bin", 1000, 1300)])

    assert asyncio.run(part()) == content[1000:1300]
    for _ in range(2):
        objects.delete("x/ü 1.bin")
    assert not objects.fetch("x/ü 1.bin", tmp_path / "none") and not (tmp_path / "none").exists()
    assert objects.read("x/ü 1.bin") is None and not list(objects.list("x"))


def test_of_many_that_claim_one_succeeds(objects):
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda number: objects.create("claim", b"%d" % number), range(8)))
    assert won.count(True) == 1
    assert objects.read("claim") == b"%d" % won.index(True)
    assert objects.create("claim", b"%d" % won.index(True)), "who asks again, since the answer was lost, has it still"


def test_s3_has_it_where_and_as_it_should_be(s3, tmp_path):
    objects = ObjectStore(ADDRESS)
    path = tmp_path / "a"
    path.write_bytes(b"sound")
    headers = {"Content-Type": "audio/wav", "Content-Disposition": "inline"}
    objects.put("a/b.wav", path, headers)
    found = s3.get_object(Bucket=BUCKET, Key="some/prefix/a/b.wav")
    assert (found["Body"].read(), found["ContentType"], found["ContentDisposition"]) == (b"sound", *headers.values())
    answer = httpx.get(objects.signed("a/b.wav", 60), headers={"range": "bytes=1-2"}, trust_env=False)
    assert (answer.status_code, answer.content) == (206, b"ou")


def test_an_address_that_is_none():
    for wrong in ("bucket", "http://bucket/x", "s3://"):
        with pytest.raises(SonoloraError, match="is s3://bucket/prefix, not"):
            ObjectStore(wrong)


def test_a_store_that_is_away(monkeypatch):
    pytest.importorskip("obstore", reason="obstore is not installed: pip install 'sonolora[s3]'")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ObjectStoreError, match="cannot be reached") as caught:
        ObjectStore(ADDRESS, retry_seconds=0.2).read("a")
    assert BUCKET not in caught.value.reason


def test_without_a_key_in_the_environment_the_error_names_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert "AWS_ACCESS_KEY_ID is not set" in ObjectStore("s3://studio/x")._advice()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "k")
    assert not ObjectStore("s3://studio/x")._advice()
