"""Bodies with data: URIs: their content is stored while they arrive, however they are cut and spelt."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import time

import pytest

from sonolora.core.errors import InputError
from sonolora.server.api.inline_data import KEPT_SECONDS, MAX_TEXT_BYTES, InlineData
from sonolora.server.api.request_body import BodyMemory
from sonolora.server.api.responses import RejectedError

CONTENT = random.Random(0).randbytes(100_001)
ENCODED = base64.b64encode(CONTENT).decode()
URI = f"data:application/zip;base64,{ENCODED}"
BASE = "http://here"


def read(storage, text, sizes=(65536,), memory=None):
    """The object in a body that comes in chunks of these sizes, in turn."""
    content = text if isinstance(text, bytes) else text.encode()

    async def chunks():
        start = 0
        for size in itertools.cycle(sizes):
            if start >= len(content):
                return
            yield content[start : start + size]
            start += size

    async def run():
        with (memory or BodyMemory()).account() as account:
            inline = InlineData(storage, "k", BASE, account)
            return inline, inline.parse(await inline.read(chunks()))

    return asyncio.run(run())


def content_of(storage, url):
    assert url.startswith(f"{BASE}/files/")
    return storage.local(url).read_bytes()


SPELLINGS = {
    "plain": json.dumps(URI),
    "slashes escaped": json.dumps(URI).replace("/", "\\/"),
    "by code": json.dumps(URI).replace("A", "\\u0041").replace("/", "\\u002f"),
    "percent": json.dumps(URI.replace("B", "%42").replace("+", "%2B").replace("=", "%3d")),
    "lines": json.dumps("data:;base64,\n" + base64.encodebytes(CONTENT).decode()),
    "not padded": json.dumps(URI.rstrip("=")),
    "capitals": json.dumps("DATA:Application/ZIP;charset=x;BASE64," + ENCODED),
}


@pytest.mark.parametrize("sizes", [(65536,), (1_000_000,), (4097, 3), (701, 1, 2, 16384)])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_content_is_stored(live, spelling, sizes):
    text = f'{{"a_url": {SPELLINGS[spelling]}, "b": [1, {{"c_url": "data:,x", "d": "\\\\\\"data:"}}]}}'
    _, body = read(live.storage, text, sizes)
    assert content_of(live.storage, body.pop("a_url")) == CONTENT
    assert body == {"b": [1, {"c_url": "data:,x", "d": '\\"data:'}]}


def test_names_and_types(live):
    body = {"a_url": f"data:audio/x-wav;base64,{ENCODED}", "b": [{"c_url": f"data:x/../y;base64,{ENCODED}"}]}
    inline, parsed = read(live.storage, json.dumps(body))
    files = [live.storage.find(url.split("/")[4]) for url in (parsed["a_url"], parsed["b"][0]["c_url"])]
    assert [(file.name, file.content_type) for file in files] == [
        ("inline.wav", "audio/x-wav"),
        ("inline", "application/octet-stream"),
    ]
    assert all(0 < file.expires - time.time() <= 3600 for file in files), "unless the request is accepted"
    inline.accepted()
    for file in files:
        assert live.storage.find(file.id).expires == pytest.approx(time.time() + KEPT_SECONDS, abs=60)


def test_what_has_no_long_data_is_parsed_as_it_is(live):
    """Cut anywhere, with every kind of token."""
    chance = random.Random(1)
    words = ["", "data:,x", 'a"b', "\\", "data:\\", "\n\t", "é\U0001f600", "x" * 6000, '"' * 5000, "\\" * 5000]
    for _ in range(20):
        body = {"k" + word[:50]: [chance.choice(words), {"data:": chance.random()}, None] for word in words}
        sizes = [chance.choice([1, 2, 5, 100, 5000]) for _ in range(50)]
        assert read(live.storage, json.dumps(body, ensure_ascii=chance.random() < 0.5), sizes)[1] == body


def test_long_data_that_cannot_be_decoded_is_a_fault_of_its_field(live):
    bad = {
        "a_url": f"data:application/zip,{ENCODED}",
        "b": [{"c_url": URI[:50_000] + "=AAA" + URI[50_000:]}, {"c_url": URI[:50_000] + "*" + URI[50_000:]}],
        "d_url": "data:;base64," + "A" * 50_001,
        "trigger_phrase": URI,
        "e_url": "data:" + "x" * 50_000,
        "good_url": URI,
    }
    before = sorted((live.storage.folder / "incoming").iterdir())
    with pytest.raises(InputError) as caught:
        read(live.storage, json.dumps(bad))
    faults = {item.loc: item.msg for item in caught.value.items}
    assert [loc[1:] for loc in faults] == [
        ("a_url",), ("b", 0, "c_url"), ("b", 1, "c_url"), ("d_url",), ("trigger_phrase",), ("e_url",)
    ]  # fmt: skip
    assert "is not base64" in faults["body", "a_url"] and "is not base64" in faults["body", "e_url"]
    assert all("damaged base64" in faults[loc] for loc in faults if loc[-1] in ("c_url", "d_url"))
    assert "longer than" in faults["body", "trigger_phrase"]
    assert sorted((live.storage.folder / "incoming").iterdir()) == before


@pytest.mark.parametrize(
    "text",
    [
        f'{{"a_url": "{URI}',
        f'{{"a_url": "{URI[:60_000]}\n{URI[60_000:]}"}}',
        f'{{"a_url": "{URI[:60_000]}\\x{URI[60_000:]}"}}',
        f'{{"a_url": "{URI[:60_000]}\\u00g0{URI[60_000:]}"}}',
        f'{{"a_url": "{URI}\\',
        f'{{"a_url": "{URI}"',
        f'{{"a_url": "{URI}" x}}',
        '{"a": "' + "x" * 50_000,
        '{"a": "' + "x" * 50_000 + "\\u00g0" + "x" * 50_000 + '"}',
        '"' * 60_001,
    ],
    ids=range(10),
)
@pytest.mark.parametrize("sizes", [(65536,), (5000, 7)])
def test_what_is_not_json(live, text, sizes):
    with pytest.raises(InputError, match="Invalid JSON") as caught:
        read(live.storage, text, sizes)
    assert [item.type for item in caught.value.items] == ["json_invalid"]


@pytest.mark.parametrize(
    "text",
    [
        "[" + "0," * MAX_TEXT_BYTES,
        '{"a": "' + "x" * MAX_TEXT_BYTES + '"}',
        '{"a": "' + "\\\\" * MAX_TEXT_BYTES + '"}',
        "{" + ",".join(f'"{n}": "data:,"' for n in range(20_000)) + "}",
        '{"a": "\\u0064ata:' + "x" * MAX_TEXT_BYTES + '"}',
        " " * (MAX_TEXT_BYTES + 1),
    ],
    ids=range(6),
)
def test_everything_else_is_small(live, text):
    with pytest.raises(RejectedError) as caught:
        read(live.storage, text, (200_000,))
    assert caught.value.response.status_code == 413


def test_the_memory_of_all_bodies_is_limited(live):
    memory = BodyMemory(100_000)
    small, large = json.dumps({"a": "x" * 10_000}), json.dumps({"a": "x" * 90_000})
    with memory.account() as account:
        account.resize(110_000)
        with pytest.raises(RejectedError) as caught:
            read(live.storage, large, memory=memory)
        assert (caught.value.response.status_code, caught.value.response.headers["x-fal-needs-retry"]) == (429, "1")
        read(live.storage, small, memory=memory)
    read(live.storage, large, memory=memory)
    read(live.storage, json.dumps({"a_url": "data:;base64," + "AAAA" * 100_000}), memory=memory)


def test_single_bytes_make_no_quadratic_work(live):
    for text in ("x" * 60_000, "data:;base64," + "AAAA" * 15_000, "\\" * 30_000):
        began = time.process_time()
        read(live.storage, json.dumps({"a_url": text}), (1,))
        assert time.process_time() - began < 3
