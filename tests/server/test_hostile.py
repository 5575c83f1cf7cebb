"""What enemies send: each has its answer, in bounded time, and the server lives on.

`house` is the whole server in a process of its own, in a network of our own: the names of `NAMES` are all it can look
up, and what it connects to at `PUBLIC` is our site. `live` answers in this process, where limits can be made short.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from sonolora.server.api import storage_api
from sonolora.server.database.database import Database
from sonolora.server.jobs.store import Store
from sonolora.server.net import protocol

APP = "/fal-ai/ltx23-trainer-v2"
PUBLIC = "93.184.215.14"
LIMIT = 300  # seconds for anything to happen, on a busy machine

# Read by every Python process that has its folder in PYTHONPATH, so that workers have it too.
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
    def __init__(self, folder, site):
        self.folder, self.site, self.log = folder, site, folder / "log.txt"
        (folder / "sitecustomize.py").write_text(NETWORK.format(public=PUBLIC, port=site.server_port))
        mine = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
        command = [sys.executable, "-m", "sonolora", "serve", "--folder", str(folder / "server"), "--port", "0"]
        with (folder / "said.txt").open("w") as out, self.log.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, "--device", "cpu"],
                stdout=out,
                stderr=errors,
                env={**mine, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
            )
        wait_until(lambda: "\n# curl\n" in (folder / "said.txt").read_text() or self.process.poll() is not None)
        said = (folder / "said.txt").read_text()
        assert self.process.poll() is None, self.log.read_text()
        head = {"Authorization": "Key " + re.search(r"^key: +(\S+)", said, re.MULTILINE)[1]}
        address = re.search(r"serves at (\S+)", said)[1]
        self.http = httpx.Client(base_url=address, headers=head, timeout=60, trust_env=False, verify=False)
        self.database = Database(folder / "server" / "server.db")
        self.store = Store(self.database)

    def end(self):
        self.http.close()
        self.database.close()
        self.process.terminate()
        try:
            assert self.process.wait(60) == 0
        finally:
            self.process.kill()

    def upload(self, content):
        head = {"Content-Type": "application/zip", "X-Fal-File-Name": "clips.zip"}
        return self.http.post("/files/upload", content=content, headers=head).json()["access_url"]

    def ends(self, body, endpoint="t2a", **query):
        """The request's id and its result."""
        id = self.http.post(f"{APP}/{endpoint}", json=body, params=query).raise_for_status().json()["request_id"]
        wait_until(lambda: self.http.get(f"{APP}/requests/{id}/status").json()["status"] == "COMPLETED")
        return id, self.http.get(f"{APP}/requests/{id}")

    def refuses(self, url):
        """The only fault of training data from there."""
        id, result = self.ends({"training_data_url": url})
        assert (result.status_code, result.headers["x-fal-billable-units"]) == (422, "0"), result.text
        (fault,) = result.json()["detail"]
        assert fault["loc"] == ["body", "training_data_url"]
        left = [path.name for path in (self.folder / "server" / "runs" / id).iterdir()]
        assert set(left) <= {"report.json", "report.html"}
        return fault


def wait_until(holds, seconds=LIMIT):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    site = ThreadingHTTPServer(("127.0.0.1", 0), type("OurSite", (Site,), {"seen": []}))
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    made = House(tmp_path_factory.mktemp("house"), site)
    yield made
    made.end()
    site.shutdown()
    site.server_close()
    thread.join(20)
    # One worker has lived through all of it, and nothing came that nobody foresaw.
    assert made.log.read_text().count("ERROR") == made.log.read_text().count("Traceback") == 0, made.log.read_text()
    assert not list(made.folder.parent.rglob("*escaped.wav"))


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
        pytest.param(overlapping(100, 10 << 20), "unpacks to more than", id="a bomb by its ratio"),
        pytest.param(zipped(*[(f"{n}.txt", b"") for n in range(100_001)]), "100,001 files", id="a bomb by its count"),
        pytest.param(zipped(("../../escaped.wav", b"x")), "has '..' in its path", id="a path out of the folder"),
        pytest.param(zipped(("/tmp/escaped.wav", b"x")), "has an absolute path", id="an absolute path"),
        pytest.param(zipped(("C:escaped.wav", b"x")), "has an absolute path", id="a path of Windows"),
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
    fault = house.refuses(house.upload(content))
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
    fault = house.refuses(house.upload(zipped(*members)))
    assert words in fault["msg"]


# Addresses that lead where a stranger may not look


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
    assert all(path.startswith(("public.", "rebinding.")) for path in house.site.RequestHandlerClass.seen)


def test_a_name_that_changes_its_address(house):
    """It is looked up once, and what was checked is what is asked."""
    fault = house.refuses("http://rebinding.example/page")
    assert (fault["type"], "a web page" in fault["msg"]) == ("invalid_archive", True)
    assert "rebinding.example/page" in house.site.RequestHandlerClass.seen


def test_redirects_without_an_end_and_to_files(house):
    round_about = "http://public.example/to?" * 8 + "http://public.example/page"
    assert "redirects more than 5 times" in house.refuses(round_about)["msg"]
    assert house.refuses("http://public.example/to?file:///etc/passwd")["type"] == "file_download_error"


def test_what_previews_are_given_goes_by_the_same_rules(house):
    port = house.site.server_port
    wanted = [{"prompt": "a", "reference_audio_url": f"http://127.0.0.1:{port}/secret"}]
    body = {"training_data_url": house.upload(GOOD), "validation": wanted}
    _, result = house.ends(body, "a2a")
    (fault,) = result.json()["detail"]
    assert (fault["loc"], fault["type"]) == (["body", "validation", 0, "reference_audio_url"], "file_download_error")


def test_webhooks_at_home_are_not_called(house):
    port = house.site.server_port
    hook = f"http://127.0.0.1:{port}/secret"
    with pytest.raises(httpx.HTTPStatusError) as refused:
        house.ends({"training_data_url": house.upload(b"")}, fal_webhook=hook)
    assert refused.value.response.status_code == 422
    assert "public" in refused.value.response.text
    assert all(path.startswith(("public.", "rebinding.")) for path in house.site.RequestHandlerClass.seen)


# Requests


@pytest.fixture
def raw(live):
    """Sends bytes; returns the answer's head and body. Afterwards the server still answers others."""

    def send(content, seconds=20.0):
        with socket.create_connection(("127.0.0.1", live.settings.port), timeout=seconds) as connection:
            connection.sendall(content)
            with connection.makefile("rb") as answer:
                head = b"".join(iter(answer.readline, b"\r\n") if answer.peek(1) else [])
                length = re.search(rb"content-length: (\d+)", head)
                return head, answer.read(int(length[1])) if length else b""

    yield send
    assert httpx.get(f"{live.address}/health", trust_env=False, verify=False, timeout=20).json() == {"status": "ok"}


def status(head):
    return int(head.split(b" ")[1])


@pytest.mark.parametrize("path", [f"{APP}/t2a", "/rest/storage/upload/initiate", "/files/upload"])
@pytest.mark.parametrize("length", [10**8, 10**18])
def test_a_size_that_is_announced_is_enough(live, raw, path, length):
    head, body = raw(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Key {live.key}\r\nContent-Length: {length}\r\n\r\n".encode()
    )
    assert (status(head), "detail" in json.loads(body)) == (413, True)


@pytest.mark.parametrize("path", [f"{APP}/t2a", "/files/upload"])
def test_a_body_without_an_end(live, raw, monkeypatch, path):
    """It is refused when it is too long, read on only for a while, so that the answer is heard, and nothing is kept."""
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.5)
    before, began = sorted(live.storage.folder.rglob("*")), time.monotonic()

    def pieces():
        while time.monotonic() - began < 60:
            yield b" " * 65536

    with httpx.Client(trust_env=False, verify=False, timeout=60) as client, suppress(httpx.TransportError):
        answer = client.post(live.address + path, content=pieces(), headers={"Authorization": f"Key {live.key}"})
        assert answer.status_code == 413
    assert time.monotonic() - began < 30
    wait_until(lambda: sorted(live.storage.folder.rglob("*")) == before, 20)
    raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: -1",
        "Content-Length: 1, 2",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 99999999999999999999999999",
    ],
)
def test_two_lengths_are_no_request(live, raw, framing):
    head, _ = raw(
        f"POST {APP}/t2a HTTP/1.1\r\nHost: x\r\nAuthorization: Key {live.key}\r\n{framing}\r\n\r\nhello".encode()
    )
    assert status(head) == 400


@pytest.mark.parametrize("depth", [63, 64, 500, 900, 5_000, 45_000])
@pytest.mark.parametrize("path", [f"{APP}/t2a", "/rest/storage/upload/initiate"])
def test_deep_json(raw, client, path, depth):
    """Shallow enough to be taken is shallow enough for whatever handles it later, on every Python."""
    nested = "[" * depth + "]" * depth
    text = f'{{"training_data_url": "https://a.example/a.zip", "file_name": "a", "more": {nested}}}'
    answer = client.post(path, content=text)
    assert answer.status_code == (200 if depth == 63 else 422), answer.text
    if depth > 63:
        assert answer.json()["detail"][0]["msg"] == "Invalid JSON: nested too deeply"
    raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")


@pytest.mark.parametrize(
    "value",
    ["9" * 10_000, "1e999", "NaN", '"\\ud800"', '{"a": 1, "a": 2}', '"\\u0000"', "-0", '"' + "x" * 90_000 + '"'],
)
@pytest.mark.parametrize("field", ["number_of_steps", "trigger_phrase", "training_data_url", "not_known"])
def test_odd_values(client, field, value):
    answer = client.post(
        f"{APP}/t2a", content=f'{{"training_data_url": "https://a.example/a.zip", "{field}": {value}}}'
    )
    assert answer.status_code in (200, 422)
    assert len(answer.content) < 10_000


# Slow clients


def test_slow_clients_hold_up_nobody_and_are_let_go(live, raw, monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 2.0)
    monkeypatch.setattr(storage_api, "IDLE_SECONDS", 2.0)
    key = f"Authorization: Key {live.key}\r\n"
    beginnings = (
        b"",
        b"GET / HTTP/1.1\r\nX: ",
        f"POST /files/upload HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 1000\r\n\r\nx".encode(),
    )
    began = time.monotonic()
    slow = [socket.create_connection(("127.0.0.1", live.settings.port), timeout=20) for _ in range(150)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(beginnings[number % 3])
        asked = time.monotonic()
        head, _ = raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status(head), time.monotonic() - asked < 2) == (200, True)
        for number, connection in enumerate(slow):
            said = connection.recv(65536)
            assert said.startswith(b"HTTP/1.1 408") if number % 3 == 2 else said == b""
        assert time.monotonic() - began < 20
    finally:
        for connection in slow:
            connection.close()
    wait_until(lambda: not list((live.storage.folder / "incoming").iterdir()), 20)


# Names and paths


@pytest.mark.parametrize(
    "name",
    ['a"\r\nSet-Cookie: x=1\r\n\r\n<script>.zip', "a\r\n\tb.zip", "a\x00b.zip", "a\x85\u2028b.zip", 'a";evil="1.zip',
     "a\u202ebiz.zip", "\U0001f600.zip", "%0d%0aSet-Cookie:%20x=1.zip", "../../../../etc/passwd", "..", "."],
)  # fmt: skip
@pytest.mark.parametrize("content_type", ["audio/wav", "audio/wav\r\nSet-Cookie: x=1", "text/html", 'a/b";evil="1'])
def test_names_and_types_add_no_header(live, client, raw, name, content_type):
    asked = {"file_name": name, "content_type": content_type}
    answer = client.post("/rest/storage/upload/initiate", json=asked)
    urls = answer.json()
    assert "\r" not in urls["file_url"] and "\n" not in urls["file_url"]
    assert client.put(urls["upload_url"], content=b"<script>").status_code == 200
    path = urls["file_url"].removeprefix(live.address)
    head, body = raw(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode("ascii"))
    assert (status(head), body) == (200, b"<script>")
    lines = head.decode("ascii").split("\r\n")[1:-1]
    assert [line.partition(":")[0] for line in lines if line.startswith(("set-cookie", "content-disposition"))] == [
        "content-disposition"
    ]
    assert all(re.fullmatch(r"[a-z0-9-]+: [ -~]*", line) for line in lines)
    said = next(line for line in lines if line.startswith("content-disposition"))
    assert re.fullmatch(r'content-disposition: (inline|attachment); filename(="[^"\\]*"|\*=utf-8\'\'[^";,\s]*)', said)
    file = live.storage.find(path.split("/")[2])
    assert file.path.parent.parent == live.storage.folder / "content"


@pytest.fixture
def stored(live, client):
    """The path of a file of ours; and nothing outside comes in, goes or changes."""

    def outside():
        return {
            path: path.stat().st_mtime_ns for path in live.settings.folder.glob("*") if "server.db" not in path.name
        }

    before = outside()
    url = client.post("/files/upload", content=b"ours", headers={"X-Fal-File-Name": "a.wav"}).json()["access_url"]
    yield url.removeprefix(live.address)
    assert set(outside()) == set(before)
    assert client.get(url).content == b"ours"


TRICKS = [
    "/files/../server.db", "/files/..%2f..%2fserver.db/x", "/files/%2e%2e/%2e%2e/server.db",
    "/files/..%252fserver.db/x", "/files/%2e%2e%5c%2e%2e%5cserver.db/x", "/files//etc/passwd",
    "/files/%2fetc%2fpasswd/x", "/files/./x", "/files/%00/x", "/files/secret/x", "/files/content/x", "/files/*/x",
    "/files/{id}%00/a.wav", "/files/{id}/", "/files/{id}", "/files/{id}/../../../server.db",
    "/cdn/files/../../server.db", "/cdn/files/{id}%2f..%2f../x", "/files/" + "x" * 5000 + "/x",
    "//files/../server.db", "/files/%ff%fe/x", "/rest/../files/../server.db",
]  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_paths_lead_nowhere_else(live, raw, stored, trick, method):
    path = trick.format(id=stored.split("/")[2])
    key = f"Authorization: Key {live.key}\r\n"
    head, body = raw(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 4\r\n\r\nevil".encode())
    assert status(head) in (400, 404, 405), head
    assert b"SQLite" not in body and b"root:" not in body


@pytest.mark.parametrize("number", ["0", "-1", "10001", "1e3", "..%2f1", "%2e%2e", "1%00", "\u0661"])
def test_parts_have_numbers(live, client, number):
    began = client.post("/files/upload/multipart", headers={"X-Fal-File-Name": "a.wav"}).json()
    answer = client.put(f"{began['access_url']}/multipart/{began['uploadId']}/{number}", content=b"evil")
    assert answer.status_code in (400, 404)
    other = client.put(f"{began['access_url']}/multipart/..%2f..%2fx/1", content=b"evil")
    assert other.status_code == 404
    assert not list((live.storage.folder / "parts").iterdir())


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("https://queue.fal.run.evil.example/x", 412),
        ("https://queue.fal.run@evil.example/x", 412),
        ("https://evil.example/?https://queue.fal.run", 412),
        ("http://[::1", 412),
        ("", 412),
        ("https://v3.fal.media/files/../../server.db", 404),
        ("https://rest.fal.ai/%2e%2e/%2e%2e/files/..%2fserver.db", 404),
    ],
)
def test_the_proxy_leads_nowhere_else(client, target, code):
    answer = client.get("/proxy", headers={"x-fal-target-url": target})
    assert answer.status_code == code
    assert b"SQLite" not in answer.content
