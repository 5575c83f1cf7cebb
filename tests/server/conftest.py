"""Two servers that answer over real sockets: `live`, in whose store the tests play the workers, and `served`.

`served` is the whole server: the command in a process of its own, with its worker. Each file of tests has its own.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import wave
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from postgres_server import MISSING, PostgresServer, programs, running
from shallow_base import write_shallow_base
from starlette.types import ASGIApp

from sonolora.ltx.weights.base import BUILT_IN
from sonolora.server.api.app import Services, build_app
from sonolora.server.database.database import Database
from sonolora.server.database.open_database import open_database
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.files.storage import Storage
from sonolora.server.health import Health
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.notifier import Notifier
from sonolora.server.jobs.records import Role
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.logs import JsonLines
from sonolora.server.net.listen import HttpServer, certificate_for, listen
from sonolora.server.net.tunnel import tunnel
from sonolora.server.settings import ServerSettings


@dataclass
class Live:
    settings: ServerSettings
    store: Store
    keys: Keys
    storage: Storage
    app: ASGIApp | None = None
    key: str = ""
    proxy_port: int = 0
    notifier: Notifier = field(default_factory=Notifier)
    health: Health = field(default_factory=Health)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    woken: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    def changed(self, id: str) -> None:
        """What the workers call when a request has changed."""
        self.loop.call_soon_threadsafe(self.notifier.notify, id)


@pytest.fixture(scope="module")
def _serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    http, https = listen("127.0.0.1", 0), listen("127.0.0.1", 0)
    settings = ServerSettings(
        tmp_path_factory.mktemp("server"),
        port=http.getsockname()[1],
        tls_port=https.getsockname()[1],
        queue_limit=5,
        max_body_bytes=100_000,
    )
    database = SqliteDatabase(settings.database_address)
    store, keys = Store(database), Keys(database)
    storage = Storage(settings.folder / "files", database, 200 << 20)
    served = Live(settings, store, keys, storage)
    jwks = {"keys": [{"kty": "OKP"}]}
    retrying = Retrying(served.health)
    services = Services(settings, store, keys, storage, served.notifier, retrying, served.woken.set, jwks)
    served.app = app = build_app(services)
    servers = [HttpServer(app, http), HttpServer(app, https, certificate_for(settings))]
    started = threading.Event()

    async def main() -> None:
        async with tunnel("127.0.0.1", 0, ("127.0.0.1", https.getsockname()[1])) as port:
            served.proxy_port = port
            started.set()
            await asyncio.gather(*(server.run() for server in servers))

    def run() -> None:
        asyncio.set_event_loop(served.loop)
        served.loop.run_until_complete(main())

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(20)
    try:
        yield served
    finally:
        served.loop.call_soon_threadsafe(served.notifier.close)
        for server in servers:
            server.stop()
        thread.join(20)
        served.loop.close()
        database.close()


@pytest.fixture
def live(_serving: Live) -> Live:
    """The server of the module, with a key that has nothing in the queue."""
    _serving.woken.clear()
    return replace(_serving, key=_serving.keys.add("test", role=Role.OPERATOR)[1])


@pytest.fixture
def anonymous(live: Live) -> Iterator[httpx.Client]:
    """At the native paths, without a key."""
    # Loading the authorities, which plain http does not need, would take longer than most tests.
    with httpx.Client(base_url=live.address, timeout=20, trust_env=False, verify=False) as client:
        yield client


@pytest.fixture
def client(live: Live, anonymous: httpx.Client) -> httpx.Client:
    """The same with the key."""
    anonymous.headers["Authorization"] = f"Key {live.key}"
    return anonymous


@pytest.fixture
def log_lines() -> Iterator[Any]:
    """What the server logs as JSON, by line."""
    out, root = io.StringIO(), logging.getLogger("sonolora")
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(before)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Mark tests of it with `xdist_group("postgres")`: one for all of them takes two seconds to start."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'sonolora[postgres]'")
    if (found := programs()) is None:
        pytest.skip(MISSING)
    with running(found) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.xdist_group("postgres"))])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A new database of either dialect."""
    if request.param == "sqlite":
        address: Path | str = tmp_path / "server.db"
    else:
        address = request.getfixturevalue("postgres").emptied()
    with closing(open_database(address)) as database:
        yield database


@pytest.fixture(scope="session")
def wait_until():
    """Waits for a condition, for as long as a busy machine may need."""

    def wait_until(holds: Callable[[], object], seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.02)

    return wait_until


LIMIT = 900  # seconds for anything that trains, on a busy machine


@dataclass(frozen=True)
class Served:
    """`sonolora serve`, by its folder and the banner that it prints."""

    folder: Path
    banner: str
    process: int

    def banner_value(self, name: str) -> str:
        """The value behind a name at the top of the banner, such as `key:`."""
        return re.search(rf"^{name} +(\S+)", self.banner, re.MULTILINE)[1]

    @cached_property
    def address(self) -> str:
        return re.search(r"serves at (\S+)", self.banner)[1]

    @cached_property
    def lines(self) -> dict[str, str]:
        """The examples of the banner by the first words of their titles."""
        blocks = self.banner.partition("\n\npage:")[0].split("\n\n# ")[1:]
        return {block.partition("\n")[0].split()[0].rstrip(":"): block.partition("\n")[2] for block in blocks}

    @cached_property
    def http(self) -> httpx.Client:
        """At the native paths, with the key."""
        head = {"Authorization": f"Key {self.banner_value('key:')}"}
        return httpx.Client(base_url=self.address, headers=head, timeout=60, trust_env=False, verify=False)

    def upload(self, content: bytes, name: str = "clips.zip", content_type: str = "application/zip") -> str:
        """The URL of the stored file."""
        head = {"Content-Type": content_type, "X-Fal-File-Name": name}
        return self.http.post("/cdn/files/upload", content=content, headers=head).json()["access_url"]

    def submit(self, endpoint: str, body: dict[str, object], **query: str) -> str:
        """The id of the request."""
        answer = self.http.post(f"/fal-ai/ltx23-trainer-v2/{endpoint}", json=body, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["request_id"]

    def newest(self) -> str:
        """The id of the newest request."""
        with closing(SqliteDatabase(self.folder / "server.db")) as database:
            return Store(database).requests(limit=1)[0].id

    def result(self, id: str) -> httpx.Response:
        """The result, when the request is done."""
        url, end = f"/fal-ai/ltx23-trainer-v2/requests/{id}", time.monotonic() + LIMIT
        while (status := self.http.get(f"{url}/status").json())["status"] != "COMPLETED":
            assert time.monotonic() < end, status
            time.sleep(0.1)
        return self.http.get(url)

    def processor_seconds(self) -> float:
        """The time that the server itself has used, without its workers."""
        user, system = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def peak_memory(self) -> int:
        """Bytes."""
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) << 10

    def download(self, file: dict[str, object]) -> bytes:
        """Without a key."""
        content = httpx.get(file["url"], trust_env=False, verify=False).content
        assert len(content) == file["file_size"]
        return content


def environment(**more: str) -> dict[str, str]:
    """That of the tests without proxies and without settings of the client."""
    own = {
        name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY") and name[:4] != "FAL_"
    }
    return {**own, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="session")
def run_here():
    """Runs a command in a folder, in an environment that knows nothing of the server; returns its output."""

    def run(command: list[str], folder: Path, **more: str) -> str:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=LIMIT, env=environment(**more)
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def serve():
    """Starts `sonolora serve` in a folder, with options and variables. At its end the log must have no traceback."""

    @contextmanager
    def serve(folder: Path, *options: str, **variables: str) -> Iterator[Served]:
        banner, log = folder / "banner.txt", folder / "log.txt"
        command = [
            sys.executable,
            "-m",
            "sonolora",
            "serve",
            "--folder",
            str(folder / "server"),
            "--port",
            "0",
            "--examples",
        ]
        with banner.open("w") as out, log.open("w") as errors:
            process = subprocess.Popen(
                [*command, "--device", "cpu", *options],
                stdout=out,
                stderr=errors,
                env=environment(**variables),
            )
        try:
            while not re.search(r"^keys?: .*\n", banner.read_text(), re.MULTILINE):  # which comes last
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            server = Served(folder / "server", banner.read_text(), process.pid)
            yield server
            server.http.close()
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
        assert "Traceback" not in log.read_text(), log.read_text()

    return serve


@pytest.fixture(scope="session")
def shallow_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a base with the first layer of `tiny`, which is enough where the wire is tested."""
    return str(write_shallow_base(BUILT_IN / "tiny", tmp_path_factory.mktemp("base") / "shallow"))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, serve, shallow_base: str) -> Iterator[Served]:
    """One for all files of tests that a process runs; each file leaves the queue empty."""
    options = ["--tls-port", "0", "--proxy-port", "0", "--allow-private-webhooks", "--base", shallow_base]
    with serve(tmp_path_factory.mktemp("served"), *options) as served:
        yield served


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: clips.zip with two clips just long enough, and broken.zip, which is not an archive."""
    folder = tmp_path_factory.mktemp("clips")
    with zipfile.ZipFile(folder / "clips.zip", "w") as archive:
        for index in range(2):
            seconds, content = np.arange(round(5.1 * 16000)) / 16000, io.BytesIO()
            with wave.open(content, "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(16000)
                file.writeframes((9000 * np.sin(2 * np.pi * (300 + 200 * index) * seconds)).astype("<i2").tobytes())
            archive.writestr(f"clip{index}.wav", content.getvalue())
            archive.writestr(f"clip{index}.txt", f"a tone, number {index}")
    (folder / "broken.zip").write_bytes(b"no archive")
    return folder


@dataclass(frozen=True)
class Receiver:
    """A receiver of webhooks."""

    url: str
    got: list[tuple[dict[str, str], bytes]]  # headers and raw body

    def wait(self, id: str) -> tuple[dict[str, str], bytes]:
        """The delivery for a request."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for headers, body in self.got:
                if headers["X-Fal-Webhook-Request-Id"] == id:
                    return headers, body
            time.sleep(0.1)
        raise AssertionError(f"no webhook for {id} among {len(self.got)}")


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    got: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield Receiver(f"http://127.0.0.1:{server.server_port}/hook?a=b&c=d", got)
    server.shutdown()
    server.server_close()
    thread.join(20)


@pytest.fixture(scope="session")
def documented() -> dict[str, list[str]]:
    """The code of docs/server.md by the titles of its sections."""
    text = (Path(__file__).parents[2] / "docs" / "server.md").read_text("utf-8")
    sections = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)[1:]
    return {
        title: re.findall(r"^```\w+\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        for title, section in zip(sections[::2], sections[1::2], strict=True)
    }


@pytest.fixture(scope="session")
def exported():
    """The variables that a shell has after some lines."""

    def variables(lines: str) -> dict[str, str]:
        command = ["sh", "-c", f"{lines}\nenv -0"]
        done = subprocess.run(command, capture_output=True, text=True, env={"HOME": "/home/user"}, check=True)
        pairs = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
        return {name: value for name, value in pairs.items() if name not in ("PWD", "_", "HOME", "SHLVL", "OLDPWD")}

    return variables
