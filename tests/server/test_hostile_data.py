"""Training data and addresses that enemies submit: each has its error, in bounded time, and the same worker lives on.

`house` is the whole server in a process of its own, in a network of our own: it can only look up the names of `NAMES`,
and connections to `PUBLIC` reach our site.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import time
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

pytestmark = pytest.mark.xdist_group("hostile-data")
APP = "/fal-ai/ltx23-trainer-v2"
PUBLIC = "93.184.215.14"

# Read by every Python process that has its folder in PYTHONPATH, so workers have it, too.
NETWORK = """
import socket

NAMES = {{
    "public.example": [["{public}"]],
    "private.example": [["10.0.0.7"]],
    "mixed.example": [["{public}", "127.0.0.1"]],
    "rebinding.example": [["{public}"], ["127.0.0.1"]],
}}
look_up, connect = socket.getaddrinfo, socket.create_connection

def ours(host, port, *arguments, **more):
    if more.get("flags", 0) & socket.AI_NUMERICHOST:
        return look_up(host, port, *arguments, **more)
    answers = NAMES.get(host, [[host]])
    answer = answers.pop(0) if len(answers) > 1 else answers[0]
    return [found for address in answer for found in look_up(address, port, *arguments, **more)]

def connected(address, *arguments, **more):
    return connect(("127.0.0.1", {port}) if address[0] == "{public}" else address, *arguments, **more)

socket.getaddrinfo, socket.create_connection = ours, connected
"""


class Site(BaseHTTPRequestHandler):
    """`/to?ADDRESS` redirects there; everything else is a page."""

    seen: list[str]

    def do_GET(self):
        self.seen.append(self.headers["Host"] + self.path)
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.send_header("Content-Length", "0")
        else:
            self.send_response(200)
            self.send_header("Content-Length", "6")
        self.end_headers()
        if not self.path.startswith("/to?"):
            self.wfile.write(b"<html>")

    do_POST = do_GET

    def log_message(self, *_): ...


class House:
    """A server and the site that its network leads to."""

    def __init__(self, served, site):
        self.served, self.site = served, site
        self.http = served.http

    def ends(self, body, endpoint="t2a", **query):
        """The request's id and its result."""
        id = self.served.submit(endpoint, body, **query)
        return id, self.served.result(id)

    def refuses(self, url):
        """The only fault of training data from there."""
        id, result = self.ends({"training_data_url": url})
        assert (result.status_code, result.headers["x-fal-billable-units"]) == (422, "0"), result.text
        (fault,) = result.json()["detail"]
        assert fault["loc"] == ["body", "training_data_url"]
        left = [path.name for path in (self.served.folder / "runs" / id).iterdir()]
        assert set(left) <= {"report.json", "report.html", "report"}
        return fault

    @property
    def foreign_paths(self):
        """What came to the site that should not have."""
        seen = self.site.RequestHandlerClass.seen
        return [path for path in seen if not path.startswith(("public.", "rebinding."))]


@pytest.fixture(scope="module")
def house(tmp_path_factory, serve):
    site = ThreadingHTTPServer(("127.0.0.1", 0), type("OurSite", (Site,), {"seen": []}))
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    folder = tmp_path_factory.mktemp("house")
    (folder / "sitecustomize.py").write_text(NETWORK.format(public=PUBLIC, port=site.server_port))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    with serve(folder, PYTHONPATH=path) as served:
        yield House(served, site)
    site.shutdown()
    site.server_close()
    thread.join(20)
    # One worker has lived through all of it, without an unexpected error.
    log = (folder / "log.txt").read_text()
    assert "ERROR" not in log, log
    assert not list(folder.parent.rglob("*escaped.wav"))


# Archives


def zipped(*members, method=zipfile.ZIP_DEFLATED, **changes):
    """An archive of (name, content), with fields of its members changed to what enemies set them to."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in members:
            member = zipfile.ZipInfo(name)
            member.compress_type = method
            for field, value in changes.items():
                setattr(member, field, value)
            archive.writestr(member, content)
    return made.getvalue()


def overlapping(count, size):
    """`count` members that are all the same few bytes, and `size` bytes each when they are unpacked."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.wav", bytes(size))
        for number in range(1, count):
            twin = zipfile.ZipInfo(f"{number}.wav")
            for field in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(twin, field, getattr(archive.filelist[0], field))
            archive.filelist.append(twin)
    return made.getvalue()


def empty_files(count=100_001):
    """An archive of empty files; takes more than a second to make."""
    return zipped(*[(f"{number}.txt", b"") for number in range(count)])


def encrypted(content):
    """With the flag for that on its member, in both places where it stands."""
    changed = bytearray(content)
    changed[6] |= 1
    changed[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


CLIP = ("escaped.wav", b"RIFF" + bytes(1000))
GOOD = zipped(CLIP)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(partial(overlapping, 100, 10 << 20), "unpacks to more than", id="a bomb by its ratio"),
        pytest.param(empty_files, "100,001 files", id="a bomb by its count"),
        pytest.param(zipped(("../../escaped.wav", b"x")), "has '..' in its path", id="a path out of the folder"),
        pytest.param(zipped(("/tmp/escaped.wav", b"x")), "has an absolute path", id="an absolute path"),
        pytest.param(zipped(("C:\\escaped.wav", b"x")), "has an absolute path", id="a path of Windows"),
        pytest.param(zipped(("a/" * 40 + "escaped.wav", b"x")), "more than 32 folders deep", id="deep folders"),
        pytest.param(
            zipped(("escaped.wav", b"/etc/passwd"), external_attr=(stat.S_IFLNK | 0o777) << 16, create_system=3),
            "is a symbolic link",
            id="a symbolic link",
        ),
        pytest.param(
            zipped(("escaped.wav", b""), external_attr=(stat.S_IFCHR | 0o666) << 16, create_system=3),
            "is a device",
            id="a device",
        ),
        pytest.param(encrypted(GOOD), "is encrypted", id="encrypted"),
        pytest.param(zipped(CLIP, method=zipfile.ZIP_LZMA), "compressed with LZMA", id="compressed otherwise"),
        pytest.param(zipped(("a.wav", b"x"), ("A.wav", b"y")), "differ only by letter case", id="two of one name"),
        pytest.param(GOOD[: len(GOOD) // 2], "without its end", id="truncated"),
        pytest.param(zipped(CLIP, method=zipfile.ZIP_STORED).replace(b"RIFF", b"EVIL"), "damaged", id="damaged"),
        pytest.param(b"<!doctype html><html>Sign in", "a web page", id="a web page"),
        pytest.param(b"\x1f\x8b" + bytes(100), "a gzip file", id="a gzip file"),
        pytest.param(b"", "an empty file", id="nothing"),
    ],
)
def test_archives_that_are_none_or_worse(house, content, words):
    fault = house.refuses(house.served.upload(content() if callable(content) else content))
    assert (fault["type"], fault["ctx"]) == ("invalid_archive", {"supported_extensions": [".zip"]})
    assert words in fault["msg"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param([], "no audio clips found", id="empty"),
        pytest.param([("clips.zip", GOOD)], "no audio", id="an archive in an archive"),
        pytest.param([CLIP, ("escaped.txt", b"\xff\xfe\xfd")], "", id="no sound in a sound file"),
        pytest.param([("__MACOSX/._escaped.wav", b"x"), (".escaped.wav", b"x")], "no audio", id="hidden files alone"),
    ],
)
def test_archives_without_a_clip(house, members, words):
    fault = house.refuses(house.served.upload(zipped(*members)))
    assert words in fault["msg"]


# URLs that lead where a stranger must not look


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/secret",
        "http://localhost:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "http://169.254.169.254/latest/meta-data/",
        "http://private.example/secret",
        "http://mixed.example/secret",
        "http://public.example/to?http://127.0.0.1:{port}/secret",
        "http://public.example/to?http://private.example/secret",
        "http://public.example/to?http://public.example/to?http://[::1]:{port}/secret",
    ],
)
def test_private_addresses_by_name_and_by_redirect(house, url):
    fault = house.refuses(url.format(port=house.site.server_port))
    assert fault["type"] == "file_download_error"
    assert "not on the public internet" in fault["msg"]
    assert house.foreign_paths == []


@pytest.mark.parametrize("host", ["xn--a", "a..b", "a" * 64, "..."])
def test_redirects_to_hosts_that_cannot_exist(house, host):
    fault = house.refuses(f"http://public.example/to?http://{host}/x.zip")
    assert (fault["type"], "SECRET" in str(fault)) == ("file_download_error", False)


def test_a_name_that_changes_its_address(house):
    """It is resolved once, and the address that was checked is the one that is used."""
    fault = house.refuses("http://rebinding.example/page")
    assert (fault["type"], "a web page" in fault["msg"]) == ("invalid_archive", True)
    assert "rebinding.example/page" in house.site.RequestHandlerClass.seen


def test_redirects_without_an_end_and_to_files(house):
    round_about = "http://public.example/to?" * 8 + "http://public.example/page"
    assert "redirects more than 5 times" in house.refuses(round_about)["msg"]
    assert house.refuses("http://public.example/to?file:///etc/passwd")["type"] == "file_download_error"


def test_files_for_previews_follow_the_same_rules(house):
    port = house.site.server_port
    wanted = [{"prompt": "a", "reference_audio_url": f"http://127.0.0.1:{port}/secret"}]
    body = {"training_data_url": house.served.upload(GOOD), "validation": wanted}
    _, result = house.ends(body, "a2a")
    (fault,) = result.json()["detail"]
    assert (fault["loc"], fault["type"]) == (["body", "validation", 0, "reference_audio_url"], "file_download_error")


def test_private_webhooks_are_refused(house):
    body, port = {"training_data_url": house.served.upload(b"")}, house.site.server_port
    for url in (f"http://127.0.0.1:{port}/secret", f"http://[::1]:{port}/secret", f"http://2130706433:{port}/secret"):
        answer = house.http.post(f"{APP}/t2a", json=body, params={"fal_webhook": url})
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", "fal_webhook"])
    assert house.foreign_paths == []


# Bodies that take long to read


def _body(field, value):
    return b'{"training_data_url": "https://a.example/a.zip", "%s": %s}' % (field, value)


def _array(item, size):
    return b"[" + b",".join([item] * (size // (len(item) + 1))) + b"]"


@pytest.mark.parametrize(
    ("make_body", "status"),
    [
        pytest.param(lambda: _body(b"validation", _array(b"{}", 100_000)), 422, id="empty entries"),
        pytest.param(lambda: _body(b"validation", _array(b"{}", 1 << 20)), 413, id="1 MiB of empty entries"),
        pytest.param(lambda: _body(b"x", _array(b'{"a":{}}', 100_000)), 200, id="objects"),
        pytest.param(lambda: _body(b"x", _array(b'{"a":{}}', 16 << 20)), 413, id="16 MiB of objects"),
        pytest.param(lambda: _body(b"x", _array(b"0", 16 << 20)), 413, id="16 MiB of numbers"),
        pytest.param(lambda: _body(b"x", b'"' + b"x" * (16 << 20) + b'"'), 413, id="16 MiB of text"),
        pytest.param(lambda: _body(b"x_url", b'"data:;base64,' + b"AAAA" * (4 << 20) + b'"'), 200, id="16 MiB of data"),
    ],
)  # fmt: skip
def test_large_bodies_hold_up_nobody(house, make_body, status):
    """Neither in the server's processor nor in its memory, and the answer is small."""
    body, longest, done = make_body(), 0.0, threading.Event()

    def watch():
        nonlocal longest
        with httpx.Client(base_url=house.served.address, trust_env=False, verify=False, timeout=60) as client:
            while not done.wait(0.01):
                began = time.monotonic()
                client.get("/health")
                longest = max(longest, time.monotonic() - began)

    watching = threading.Thread(target=watch)
    watching.start()
    before = house.served.processor_seconds(), house.served.peak_memory()
    try:
        answer = house.http.post(f"{APP}/t2a", content=body)
    except httpx.TransportError:  # the answer came before the end of the body, and the connection was closed
        assert status == 413
    else:
        assert answer.status_code == status, answer.text
        assert len(answer.content) < 10_000
        if status == 200:
            house.http.put(answer.json()["cancel_url"])
    done.set()
    watching.join(60)
    assert house.served.processor_seconds() - before[0] < 5
    assert house.served.peak_memory() - before[1] < 100 << 20
    assert longest < 5
