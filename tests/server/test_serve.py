"""The server as it is started, what it says, the commands beside it, and the lines to paste, as they are."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from sonolora.cli import server as cli_server
from sonolora.cli.main import app
from sonolora.core.errors import SonoloraError
from sonolora.planning.prices import PUBLISHED_PRICES
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.files.storage import Storage
from sonolora.server.folder_lock import single_instance
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import NewRequest, Result, State
from sonolora.server.jobs.results import CANCELLED
from sonolora.server.jobs.store import Store
from sonolora.server.net.urls import own_address
from sonolora.server.serve import _stop_signal
from sonolora.server.settings import ServerSettings, load_settings

FILE = {"url": "/files/abc/lora.safetensors", "content_type": None, "file_name": "lora", "file_size": 3}
DONE = Result(status=200, body={"lora_file": FILE, "config_file": FILE, "audio": None}, billable_units=100)


class Server:
    """`sonolora serve` in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "sonolora", "serve", "--folder", str(folder), "--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        self.said = ""

    def until(self, pattern: str) -> re.Match[str]:
        while not (found := re.search(pattern, self.said)):
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            self.said += line
        return found

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        out, errors = self.process.communicate(timeout=40)
        self.said += out
        return self.process.returncode, errors


def environment(**more: str) -> dict[str, str]:
    """Ours without what may lead requests elsewhere."""
    mine = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    return {**mine, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture
def start():
    started = []

    def begin(*arguments: object) -> Server:
        server = Server(*arguments)
        started.append(server)
        return server

    yield begin
    for server in started:
        if server.process.poll() is None:
            server.stop()


def keys(folder: Path) -> list[object]:
    """All that were made."""
    with closing(SqliteDatabase(folder / "server.db")) as database:
        return list(Keys(database).all())


def refused(*arguments: object) -> str:
    """Why a server does not start."""
    done = CliRunner().invoke(app, ["serve", "--port", "0", *map(str, arguments)])
    assert isinstance(done.exception, SonoloraError), done.output
    return str(done.exception)


def test_first_and_second_start(start, tmp_path):
    first = start(tmp_path, "--examples")
    address = first.until(r"serves at (http://127\.0\.0\.1:\d+)")[1]
    first.until(r"\n# curl\n")
    key = first.until(r"key: +(\S+)")[1]
    head = {"Authorization": f"Key {key}"}
    body = {"training_data_url": "https://192.0.2.1/clips.zip"}
    answer = httpx.post(f"{address}/fal-ai/ltx23-trainer-v2/t2a", json=body, headers=head)
    assert answer.json()["status"] == "IN_QUEUE"
    # Everybody who waits is let go when the server stops, and nothing that was asked for is lost.
    with httpx.stream("GET", f"{answer.json()['status_url']}/stream", headers=head) as response:
        assert response.status_code == 200
        began = time.monotonic()
        code, errors = first.stop()
    assert code == 0
    (line,) = [line for line in errors.splitlines() if "submitted" in line]
    assert line.endswith(f"INFO request {answer.json()['request_id']}: submitted, t2a")
    assert all(" INFO request " in line for line in errors.splitlines()), errors
    assert time.monotonic() - began < 30
    assert key not in "".join(path.read_text("latin-1") for path in tmp_path.rglob("*") if path.is_file())
    with closing(SqliteDatabase(tmp_path / "server.db")) as database:
        assert Store(database).request(answer.json()["request_id"]).state == State.QUEUED

    second = start(tmp_path)
    second.until(r"keys: +1; see")
    assert "# curl" not in second.said
    assert key not in second.said
    code, errors = second.stop(signal.SIGINT)
    assert (code, [line for line in errors.splitlines() if " INFO request " not in line]) == (0, [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_that_stop_it_in_order(number):
    async def stopped():
        stop = _stop_signal()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), 20)
        os.kill(os.getpid(), signal.SIGHUP)  # the second of a closing terminal
        await asyncio.sleep(0)

    asyncio.run(stopped())


def test_nohup_keeps_it_running_when_its_terminal_closes():
    async def goes_on():
        stop = _stop_signal()
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.05)
        return not stop.is_set()

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert asyncio.run(goes_on())
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_servers_in_one_folder(start, tmp_path):
    start(tmp_path).until("serves at")
    assert (
        refused("--folder", tmp_path) == f"another server is running in {tmp_path}: stop it, or choose another folder"
    )


def test_what_cannot_start_says_why(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = refused("--folder", tmp_path, "--port", port)
    assert words == f"cannot listen at 127.0.0.1, port {port}: Address already in use"
    assert keys(tmp_path) == [], "the first key is not lost"
    assert "cannot listen at no.such.invalid" in refused("--folder", tmp_path, "--host", "no.such.invalid")
    (tmp_path / "bad.pem").write_text("nothing")
    bad = ["--tls", "--tls-port", "0", "--certificate", tmp_path / "bad.pem", "--private-key", tmp_path / "bad.pem"]
    assert "certificate cannot be used" in refused("--folder", tmp_path, *bad)
    assert keys(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "Not a directory"),
        ("server.lock", "server.lock cannot be opened: Is a directory"),
        ("server.db", "server.db: it is not a file"),
        ("runs", "runs could not be written: File exists"),
        ("files", "files could not be written: File exists"),
        ("files/incoming", "files could not be written: File exists"),
        ("files/secret", "files/secret cannot be read: Is a directory"),
        ("webhook_key.pem", "webhook_key.pem cannot be read"),
    ],
)
def test_what_cannot_be_used_is_said_at_the_start(tmp_path, name, words):
    """Something else in the place of what the server needs: also for a user who may write everywhere."""
    folder = tmp_path / "server"
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if "Is a directory" in words or name in ("server.db", "webhook_key.pem"):
        place.mkdir()
    else:
        place.write_text("something else")
    assert words in refused("--folder", folder)


def test_a_secret_that_is_cut_off_is_said_at_the_start(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "secret").write_bytes(b"short")
    assert "files/secret is damaged: move it away" in refused("--folder", tmp_path)


@pytest.mark.parametrize("name", [".", "server.db", "files", "files/incoming", "runs"])
def test_what_may_not_be_written_is_said_at_the_start(tmp_path, name):
    with closing(SqliteDatabase(tmp_path / "server.db")) as database:
        Storage(tmp_path / "files", database, 1)
    (tmp_path / "runs").mkdir()
    mode = (tmp_path / name).stat().st_mode
    (tmp_path / name).chmod(mode & ~0o222)
    if os.access(tmp_path / name, os.W_OK):
        pytest.skip("this user may write everywhere")
    try:
        assert re.search("not writable|not permitted|cannot be opened|Permission denied", refused("--folder", tmp_path))
    finally:
        (tmp_path / name).chmod(mode)


def test_a_lost_database_is_said_at_the_start(tmp_path):
    """As when it was moved away: its files and keys are not forgotten in silence."""
    with closing(SqliteDatabase(tmp_path / "server.db")) as database:
        Keys(database).add("laptop")
        database.note_identity()
    (tmp_path / "server.db").rename(tmp_path / "away.db")
    assert "there is no database, but there is server.identity.json" in refused("--folder", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "cannot listen" in refused("--folder", tmp_path, "--accept-database", "--port", port)
    assert keys(tmp_path) == []


def test_without_its_base_it_does_not_start(tmp_path, capfd):
    assert "without its base, 'nope'" in refused("--folder", tmp_path, "--base", "nope")
    assert "no base 'nope'; known bases: tiny" in capfd.readouterr().err
    assert keys(tmp_path) == []


def test_other_machines_need_a_key(tmp_path):
    assert "sonolora keys add NAME" in refused("--folder", tmp_path, "--host", "0.0.0.0")


class TestSettings:
    def test_options_win_over_the_file(self, tmp_path):
        (tmp_path / "server.toml").write_text('port = 1\nbase = "big"\ndevices = ["cpu", "cpu"]\n[prices]\nt2a = 0.5\n')
        settings = load_settings(tmp_path, port=2, host=None)
        assert (settings.port, settings.host, settings.base, settings.devices) == (
            2,
            "127.0.0.1",
            "big",
            ("cpu", "cpu"),
        )
        assert settings.prices == {**PUBLISHED_PRICES, "t2a": 0.5}

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("port = 70000", "port must be 0 to 65535, not 70000"),
            ('port = "x"', "server.toml: port: .*valid integer"),
            ('devices = "cpu"', "devices"),
            ("speed = 3", "server.toml: unknown settings speed; known are "),
            ("port =", "server.toml cannot be read"),
            ("queue_limit = 0", "server.toml: queue_limit: must be at least 1, not 0"),
            ('weights = "int4"', "server.toml: weights: 'int4' is not one of full, int8, fp8, nf4"),
            ("proxy_port = 3", "proxy_port needs tls_port"),
            ("slurm_jobs = 4", "need placer slurm"),
            ('slurm_options = "gpus_per_node=1"', "need placer slurm"),
            ("redirect_downloads = true", "redirect_downloads needs files"),
            ('certificate = "a.pem"', "certificate and private_key go together"),
            ('public_url = "example.com"', "public_url must start with"),
            ("[prices]\nt2v = 1", "prices are by mode"),
            ('[prices]\nt2a = "x"', "prices.t2a"),
        ],
    )
    def test_faults_are_named(self, tmp_path, text, words):
        (tmp_path / "server.toml").write_text(text)
        with pytest.raises(SonoloraError, match=words):
            load_settings(tmp_path)

    @pytest.mark.parametrize(
        ("host", "loopback"),
        [
            ("127.0.0.1", True),
            ("localhost", True),
            ("::1", True),
            ("127.9.9.9", True),
            ("0.0.0.0", False),
            ("::", False),
        ],
    )
    def test_loopback(self, host, loopback):
        assert ServerSettings(Path(), host=host).on_loopback == loopback

    def test_own_address(self):
        assert own_address(ServerSettings(Path(), host="::1", port=80)) == "http://[::1]:80"
        assert own_address(ServerSettings(Path(), public_url="https://x.example/")) == "https://x.example"


class TestCommands:
    @pytest.fixture
    def run(self, tmp_path):
        def run(*arguments, code=0):
            done = CliRunner().invoke(app, [*arguments, "--folder", str(tmp_path)])
            if code:
                assert isinstance(done.exception, SonoloraError), done.output
                return str(done.exception)
            assert done.exit_code == 0, done.exception
            return done.output

        return run

    @pytest.fixture
    def database(self, tmp_path):
        database = SqliteDatabase(tmp_path / "server.db")
        yield database
        database.close()

    @pytest.fixture
    def store(self, database):
        return Store(database)

    @staticmethod
    def add(store, **more):
        return store.add_request(NewRequest(endpoint="t2a", mode="t2a", body={"rank": 8}, key_id="k", **more)).id

    def test_keys(self, run, database):
        keys = Keys(database)
        secret = run("keys", "add", "Jo's laptop").strip()
        assert keys.check(secret).name == "Jo's laptop"
        id = secret.partition(":")[0]
        listed = run("keys", "list")
        assert id in listed and "valid" in listed and secret not in listed
        run("keys", "revoke", id)
        assert keys.check(secret) is None
        assert "revoked" in run("keys", "list")
        assert "no valid key" in run("keys", "revoke", secret, code=1)

    def test_owners_and_roles(self, run):
        run("keys", "add", "desk", "--owner", "Ada")
        id = run("keys", "add", "laptop", "--owner", "Jo").partition(":")[0]
        assert run("keys", "change", id, "--role", "operator", "--owner", "Kim") == "laptop: operator of Kim\n"
        run("keys", "add", "Sam")
        listed = [line.split(maxsplit=4)[3:] for line in run("keys", "list").splitlines()]
        assert listed == [
            ["valid", "operator  desk (Ada)"],
            ["valid", "operator  laptop (Kim)"],
            ["valid", "member    Sam"],
        ]
        assert "--role 'boss' is not one of member, operator" in run("keys", "add", "x", "--role", "boss", code=1)
        assert "needs a name" in run("keys", "add", "x", "--owner", " ", code=1)
        assert "no key with the id 'nope'" in run("keys", "change", "nope", "--role", "member", code=1)
        assert "give --owner, --role or both" in run("keys", "change", id, code=1)

    def test_requests(self, run, store, tmp_path):
        first, second = self.add(store), self.add(store, webhook="https://x/y")
        store.claim()
        store.record(first, progress={"phase": "training", "step": 7, "steps": 100})
        store.add_logs(first, [(0.0, "INFO", "hello")])
        store.add_event(first, "started")
        listed = run("requests", "list").splitlines()
        assert [line.split()[0] for line in listed] == [second[:8], first[:8]]
        assert listed[1].endswith("running, training 7/100 (no server is running; start it with `sonolora serve`)")
        with single_instance(tmp_path):
            assert run("requests", "list").splitlines()[1].endswith("running, training 7/100")
        assert run("requests", "list", "--state", "queued").split()[0] == second[:8]
        assert json.loads(run("requests", "show", first))["folder"] is None
        folder = tmp_path / "runs" / first
        folder.mkdir(parents=True)
        shown = json.loads(run("requests", "show", first[:13]))
        assert (shown["id"], shown["folder"]) == (first, str(folder))
        assert (shown["state"], shown["body"], shown["events"][0]["kind"]) == ("running", {"rank": 8}, "started")
        assert (shown["attempts"], shown["progress"]["step"]) == (1, 7)
        today = datetime.now().strftime("%Y-%m-%d ")
        assert shown["created"].startswith(today) and shown["events"][0]["time"].startswith(today)
        assert run("requests", "logs", first).endswith("INFO   hello\n")
        assert "will be cancelled" in run("requests", "cancel", second)
        assert [request.id for request in store.to_cancel()] == [second]
        store.finish(second, Result(status=422, body={}, error="no clips"))
        assert "failed with 422: no clips" in run("requests", "list")
        assert "already done" in run("requests", "cancel", second, code=1)
        store.finish(first, CANCELLED)
        assert run("requests", "list").splitlines()[1].endswith("t2a                     cancelled")
        over = json.loads(run("requests", "show", first))
        assert (over["standing"], over["progress"], over["attempts"]) == ("cancelled", None, 1)
        assert "there is no request" in run("requests", "show", "x", code=1)
        assert "queued, running, done" in run("requests", "list", "--state", "x", code=1)

    def test_a_beginning_of_an_id_must_be_that_of_one(self, run, store):
        ids = [self.add(store) for _ in range(17)]
        twice = next(id[0] for id in ids if sum(other[0] == id[0] for other in ids) > 1)
        assert f"requests have ids that begin with '{twice}'" in run("requests", "show", twice, code=1)
        assert "there is no request '%'" in run("requests", "logs", "%", code=1)

    def test_a_line_is_no_longer_than_the_terminal_is_wide(self, run, store, monkeypatch):
        store.finish(self.add(store), Result(status=422, body={}, error="no clips\n" * 100))
        assert len(run("requests", "list").splitlines()) == 1
        monkeypatch.setattr(cli_server, "_width", lambda: 70)
        assert [len(line) for line in run("requests", "list").splitlines()] == [70]

    def test_logs_are_followed_to_the_end(self, run, store):
        id = self.add(store)
        store.add_logs(id, [(0.0, "INFO", "one")])
        threading.Timer(0.3, lambda: (store.add_logs(id, [(0.0, "INFO", "two")]), store.finish(id, DONE))).start()
        assert [line.split()[-1] for line in run("requests", "logs", id, "-f").splitlines()] == ["one", "two"]

    def test_ledger(self, run, store):
        for units, status in ((1000, 200), (2000, 200), (0, 422)):
            store.finish(self.add(store), Result(status=status, body={}, billable_units=units))
        lines = run("ledger").splitlines()
        # 3,000 steps at the published 0.0022 dollars.
        assert lines[1].split() == ["t2a", "3", "3000", "0.0022", "6.60"]
        assert lines[-1].split() == ["6.60"]

    def test_ledger_by_key(self, run, store):
        for units in (1000, 2000):
            result = Result(status=200, body={}, billable_units=units, inference_time=1800.0)
            store.finish(self.add(store), result)
        assert run("ledger", "--by", "key").splitlines()[1].split()[-3:] == ["2", "3000", "1.00"]
        assert "--by 'day' is not one of mode, key, owner" in run("ledger", "--by", "day", code=1)

    def test_ledger_by_owner(self, run, store):
        for name in ("laptop", "ci"):
            id = store.keys.add(name, owner="Jo Doe")[0]
            queued = store.add_request(NewRequest(endpoint="t2a", mode="t2a", body={}, key_id=id)).id
            store.finish(queued, Result(status=200, body={}, billable_units=500, inference_time=1800.0))
        store.finish(self.add(store), Result(status=200, body={}, billable_units=100))
        lines = [line.split() for line in run("ledger", "--by", "owner").splitlines()[1:]]
        assert lines == [["Jo", "Doe", "2", "1000", "1.00"], ["k", "1", "100", "0.00"]]
        assert len(run("ledger", "--by", "key").splitlines()) == 4

    def test_a_node_is_drained_and_comes_back(self, run, store):
        assert run("nodes", "drain", "box-a", "--move") == "box-a is given no more runs, and its runs move\n"
        assert store.drains.all()[0].covers("box-a/gpu0")
        assert run("nodes", "list").endswith("  box-a  (its runs move)\n")
        assert run("nodes", "undrain", "box-a") == "box-a is given runs again\n"
        assert "'box-a' is not drained" in run("nodes", "undrain", "box-a", code=1)

    def test_without_a_server(self, run):
        assert "there is no server in" in run("requests", "list", code=1)
