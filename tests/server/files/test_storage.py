"""Files on disk: whole or not there, whatever happens while they come."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import pytest
from sqlalchemy import select

from sonolora.server import clock
from sonolora.server.database.database import Database
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.database.tables import files
from sonolora.server.files.incoming import UploadError, Written
from sonolora.server.files.records import StoredFile
from sonolora.server.files.storage import ABANDONED_SECONDS, Storage

DAY = 86_400.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = SqliteDatabase(tmp_path / "server.db")
    yield database
    database.close()


@pytest.fixture
def storage(tmp_path: Path, database: Database) -> Storage:
    return Storage(tmp_path / "files", database, max_bytes=100_000)


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


def begun(storage: Storage, name: str = "a.zip", **more: Any) -> StoredFile:
    file = storage.new(name, "application/zip", **more)
    storage.begin(file)
    return file


def received(storage: Storage, content: bytes = b"content", **more: Any) -> StoredFile:
    return asyncio.run(storage.receive(storage.new("a.zip", "application/zip", **more), pieces(content)))


def parts_of(storage: Storage, file: StoredFile, contents: Iterable[tuple[int, bytes]]) -> dict[int, str]:
    return {number: asyncio.run(storage.receive_part(file, number, pieces(content))) for number, content in contents}


def on_disk(storage: Storage) -> set[str]:
    """All files, and all folders but those that are always there."""
    return {str(path.relative_to(storage.folder)) for path in storage.folder.glob("*/**/*")}


def test_whole_file(storage: Storage) -> None:
    content = random.Random(1).randbytes(50_000)
    file = storage.new("ключ.zip", "application/zip", key_id="k")
    stored = asyncio.run(storage.receive(file, pieces(content[:7], b"", content[7:30_000], content[30_000:])))
    assert storage.find(file.id) == stored
    assert stored.path.read_bytes() == content
    assert stored.path.name == "ключ.zip"
    assert (stored.size, stored.sha256) == (50_000, hashlib.sha256(content).hexdigest())
    assert (stored.content_type, stored.key_id, stored.request_id) == ("application/zip", "k", None)
    assert stored.expires is None
    assert abs(stored.created - time.time()) < 60


def test_ids_cannot_be_guessed(storage: Storage) -> None:
    ids = {storage.new("a", "").id for _ in range(100)}
    assert len(ids) == 100
    assert {len(id) for id in ids} == {32}


def test_others_of_the_machine_cannot_read(storage: Storage) -> None:
    received(storage)
    assert storage.folder.stat().st_mode & 0o077 == 0


def test_survives_a_restart(tmp_path: Path, storage: Storage, database: Database) -> None:
    stored = received(storage)
    assert Storage(tmp_path / "files", database, 10).find(stored.id) == stored


def test_new_content_replaces_the_old(storage: Storage) -> None:
    file = begun(storage)
    first = asyncio.run(storage.receive(file, pieces(b"first")))
    reader = first.path.open("rb")
    second = asyncio.run(storage.receive(file, pieces(b"second one")))
    assert storage.find(file.id) == second
    assert second.path.read_bytes() == b"second one"
    assert reader.read() == b"first"  # who reads the old one reads it to its end
    reader.close()


def test_content_that_comes_twice_at_once_is_one_of_them(storage: Storage) -> None:
    file = begun(storage)

    async def race() -> None:
        await asyncio.gather(*(storage.receive(file, pieces(bytes([n]) * n * 100)) for n in range(1, 20)))

    asyncio.run(race())
    found = storage.find(file.id)
    assert found
    content = found.path.read_bytes()
    assert found.size == len(content)
    assert found.sha256 == hashlib.sha256(content).hexdigest()


def test_size_limit_holds_while_content_comes(storage: Storage) -> None:
    asked = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(100):
            asked += 1
            yield bytes(10_000)

    with pytest.raises(UploadError, match="100000 bytes") as refused:
        asyncio.run(storage.receive(storage.new("a", ""), long()))
    assert refused.value.status == 413
    assert asked == 11
    assert on_disk(storage) == set()
    assert received(storage, bytes(100_000)).size == 100_000


def test_sender_that_goes_away_leaves_nothing(storage: Storage) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionAbortedError

    file = begun(storage)
    for receive in (storage.receive(file, broken()), storage.receive_part(file, 1, broken())):
        with pytest.raises(UploadError):
            asyncio.run(receive)
        assert on_disk(storage) == set()
    assert storage.find(file.id) is None


def test_full_disk(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    file = begun(storage)
    etags = parts_of(storage, file, [(1, b"one")])
    before = on_disk(storage)

    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    calls = (
        storage.receive(storage.new("b", ""), pieces(b"b")),
        storage.receive_part(file, 2, pieces(b"two")),
        storage.complete(file, etags),
    )
    for call in calls:
        with pytest.raises(UploadError, match="No space left") as refused:
            asyncio.run(call)
        assert refused.value.status == 507
        assert on_disk(storage) == before
    monkeypatch.undo()
    assert asyncio.run(storage.complete(file, etags)).path.read_bytes() == b"one"


@pytest.mark.parametrize("seed", range(5))
def test_parts_in_any_order_at_once_and_repeated(storage: Storage, seed: int) -> None:
    chance = random.Random(seed)
    contents = {number: chance.randbytes(chance.randrange(5000)) for number in chance.sample(range(1, 10_001), 12)}
    file = begun(storage)

    async def send() -> dict[int, str]:
        order = [*contents, *chance.sample([*contents], 5)]
        chance.shuffle(order)
        etags = await asyncio.gather(*(storage.receive_part(file, n, pieces(contents[n])) for n in order))
        return dict(zip(order, etags, strict=True))

    etags = asyncio.run(send())
    stored = asyncio.run(storage.complete(file, etags))
    whole = b"".join(content for _, content in sorted(contents.items()))
    assert stored.path.read_bytes() == whole
    assert (stored.size, stored.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert storage.find(file.id) == stored
    assert on_disk(storage) == {f"content/{file.id}", f"content/{file.id}/a.zip"}


def test_the_etag_says_which_of_the_parts_with_a_number_is_meant(storage: Storage) -> None:
    file = begun(storage)
    first = parts_of(storage, file, [(1, b"wrong"), (2, b"!")])
    second = parts_of(storage, file, [(1, b"right")])
    assert asyncio.run(storage.complete(file, first | second)).path.read_bytes() == b"right!"


def test_parts_that_are_not_listed_are_left_out(storage: Storage) -> None:
    file = begun(storage)
    etags = parts_of(storage, file, [(1, b"one"), (2, b"two"), (3, b"three")])
    del etags[2]
    assert asyncio.run(storage.complete(file, etags)).path.read_bytes() == b"onethree"


@pytest.mark.parametrize("wrong", ["", "0" * 64, "../../../../etc/passwd", "*"])
def test_complete_waits_for_missing_parts(storage: Storage, wrong: str) -> None:
    file = begun(storage)
    etags = parts_of(storage, file, [(1, b"one"), (2, b"two")])
    with pytest.raises(UploadError, match="part 2, 7") as refused:
        asyncio.run(storage.complete(file, {1: etags[1], 2: wrong, 7: etags[1]}))
    assert refused.value.status == 400
    assert storage.find(file.id) is None
    etags |= parts_of(storage, file, [(3, b"three")])
    assert asyncio.run(storage.complete(file, etags)).path.read_bytes() == b"onetwothree"


def test_complete_can_be_asked_for_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    file = begun(storage)
    etags = parts_of(storage, file, [(1, b"one"), (2, b"two")])
    published = []
    publish = storage._publish

    def counted(file: StoredFile, written: Written) -> StoredFile:
        time.sleep(0.05)
        published.append(file)
        return publish(file, written)

    monkeypatch.setattr(storage, "_publish", counted)

    async def impatient() -> list[StoredFile]:
        return await asyncio.gather(*(storage.complete(file, etags) for _ in range(5)))

    results = asyncio.run(impatient())
    results.append(asyncio.run(storage.complete(file, etags)))
    assert len(published) == 1
    assert {result.sha256 for result in results} == {hashlib.sha256(b"onetwo").hexdigest()}
    with pytest.raises(UploadError, match="is complete") as refused:
        asyncio.run(storage.receive_part(results[0], 3, pieces(b"late")))
    assert refused.value.status == 400


def test_size_limit_counts_all_parts(storage: Storage) -> None:
    file = begun(storage)
    etags = parts_of(storage, file, [(1, bytes(60_000)), (1, bytes(60_000)), (2, bytes(40_000))])
    with pytest.raises(UploadError) as refused:
        asyncio.run(storage.receive_part(file, 3, pieces(b"x")))
    assert refused.value.status == 413
    assert asyncio.run(storage.complete(file, etags)).size == 100_000


def test_parts_that_came_at_once_do_not_outwit_the_limit(storage: Storage) -> None:
    file = begun(storage)

    async def send() -> list[str]:
        both_begun = asyncio.Barrier(2)

        async def content(number: int) -> AsyncIterator[bytes]:
            await both_begun.wait()
            yield bytes([number]) * 60_000

        return await asyncio.gather(*(storage.receive_part(file, n, content(n)) for n in (1, 2)))

    etags = asyncio.run(send())
    with pytest.raises(UploadError) as refused:
        asyncio.run(storage.complete(file, dict(enumerate(etags, 1))))
    assert refused.value.status == 413


def test_adopt_takes_no_room(storage: Storage, tmp_path: Path) -> None:
    output = tmp_path / "lora.safetensors"
    output.write_bytes(b"weights")
    stored = storage.adopt(output, "lora.safetensors", "application/octet-stream", request_id="r", expires=None)
    assert storage.find(stored.id) == stored
    assert stored.path.samefile(output)
    assert (stored.size, stored.sha256) == (7, hashlib.sha256(b"weights").hexdigest())
    assert stored.request_id == "r"
    output.unlink()
    assert stored.path.read_bytes() == b"weights"


def test_adopt_copies_where_it_cannot_link(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "audio.wav"
    output.write_bytes(b"sound")

    def other_disk(*_: object) -> NoReturn:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", other_disk)
    expires = time.time() + 60
    stored = storage.adopt(output, "audio.wav", "audio/wav", request_id="r", expires=expires)
    assert stored.path.read_bytes() == b"sound"
    assert not stored.path.samefile(output)
    assert stored.expires == expires


def test_adopt_again_replaces(storage: Storage, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    output.write_bytes(b"1")
    first = storage.adopt(output, "out.json", "application/json", request_id="r", expires=None)
    other = storage.adopt(output, "out.json", "application/json", request_id="s", expires=None)
    again = storage.adopt(output, "out.json", "application/json", request_id="r", expires=None)
    assert [storage.find(file.id) for file in (first, other, again)] == [None, other, again]
    assert not first.path.parent.exists()


def test_adopt_of_nothing(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.adopt(tmp_path / "missing", "a", "", request_id="r", expires=None)
    assert on_disk(storage) == set()


def test_what_is_not_found(storage: Storage) -> None:
    assert storage.find("") is None
    assert storage.find("../../server.db") is None
    assert storage.find(begun(storage).id) is None
    assert storage.find(received(storage, lifetime=-1).id) is None
    lost = received(storage)
    lost.path.unlink()
    assert storage.find(lost.id) is None


def test_lifetime_counts_from_when_the_content_is_here(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(clock, "now", lambda: now)
    file = begun(storage, lifetime=60)
    now += 500
    stored = asyncio.run(storage.receive(file, pieces(b"slow")))
    assert stored.expires == now + 60
    now += 59
    assert storage.find(file.id) == stored
    now += 1
    assert storage.find(file.id) is None


def test_own_addresses_lead_to_files(storage: Storage) -> None:
    file = asyncio.run(storage.receive(storage.new("a b/ж #1?.zip", ""), pieces(b"x")))
    assert file.address == f"/files/{file.id}/%D0%B6%20%231_.zip"
    for base in ("http://127.0.0.1:8000", "https://v3.fal.media", "HTTPS://user@[::1]:8443", "http://x/cdn"):
        assert storage.local(base + file.address) == file.path
        assert storage.local(base + file.address + "?download=1#top") == file.path
    for url in (
        file.address,
        f"file://{file.address}",
        f"http://h/files/{file.id}",
        f"http://h/elsewhere{file.address}",
        f"http://h{file.address}/more",
        "http://h/files/unknown/a.zip",
        "http://[bad/files/x/y",
        "data:,/files/",
        "https://v3.fal.media/files/b/rabbit/x.zip",
    ):
        assert storage.local(url) is None


def test_clean_removes_what_has_expired(storage: Storage) -> None:
    now = time.time()
    short, long, ever = received(storage, lifetime=10), received(storage, lifetime=100), received(storage)
    assert storage.clean(now) == 0
    assert storage.clean(now + 50) == 1
    assert [storage.begun(file.id) for file in (short, long, ever)] == [None, long, ever]
    assert not short.path.parent.exists()
    assert storage.clean(now + 50) == 0


def test_clean_gives_up_uploads_after_a_day_without_a_part(storage: Storage) -> None:
    now = time.time()
    idle, active = begun(storage), begun(storage)
    parts_of(storage, active, [(1, b"one")])
    assert storage.clean(now + ABANDONED_SECONDS - 60) == 0
    os.utime(storage.folder / "parts" / active.id, (now + DAY / 2, now + DAY / 2))
    assert storage.clean(now + ABANDONED_SECONDS + 60) == 1
    assert [storage.begun(file.id) for file in (idle, active)] == [None, active]
    assert storage.clean(now + ABANDONED_SECONDS + DAY / 2 + 60) == 1
    assert on_disk(storage) == set()
    with pytest.raises(UploadError) as refused:
        asyncio.run(storage.complete(active, {1: "x"}))
    assert refused.value.status == 404


def test_clean_removes_what_a_killed_server_was_writing(storage: Storage) -> None:
    kept = received(storage)
    late, half = storage.folder / "parts" / kept.id / "9-late", storage.folder / "incoming" / "half"
    for path in (late, half):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left")
    assert storage.clean(time.time()) == 2
    assert on_disk(storage) == {f"content/{kept.id}", f"content/{kept.id}/a.zip"}


def test_content_without_a_record_is_kept_for_weeks(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    """As when the database was lost and a new one taken: nothing of what it knew may be deleted at once."""
    now, id = time.time(), "x" * 32
    for folder in ("content", "parts"):
        (storage.folder / folder / id).mkdir()
        (storage.folder / folder / id / "a.zip").write_bytes(folder.encode())
    assert storage.clean(now) == 0
    assert on_disk(storage) == {
        f"unknown/{folder}-{id}{end}" for folder in ("content", "parts") for end in ("", "/a.zip")
    }
    assert caplog.text.count("is in no record of the database") == 2
    assert storage.clean(now + 29 * DAY) == 0
    assert storage.clean(now + 31 * DAY) == 2
    assert on_disk(storage) == set()


def test_content_returns_when_the_database_that_knows_it_is_back(
    tmp_path: Path, storage: Storage, database: Database
) -> None:
    whole, parted = received(storage), begun(storage)
    etags = parts_of(storage, parted, [(1, b"one")])
    before = on_disk(storage)
    with closing(SqliteDatabase(tmp_path / "new" / "server.db")) as other:
        Storage(storage.folder, other, 1000).clean(time.time())
        assert not any(path.startswith(("content", "parts")) for path in on_disk(storage))
        Storage(storage.folder, other, 1000).clean(time.time())
    restarted = Storage(storage.folder, database, 1000)
    restarted.clean(time.time())
    assert on_disk(storage) == before
    assert restarted.find(whole.id) == whole
    assert asyncio.run(restarted.complete(parted, etags)).path.read_bytes() == b"one"


def test_two_that_are_set_aside_from_one_place(storage: Storage) -> None:
    for _ in range(2):
        (storage.folder / "content" / "x").mkdir()
        storage.clean(time.time())
    assert on_disk(storage) == {"unknown/content-x", "unknown/content-x.2"}


def test_a_clock_that_is_set_does_not_delete_what_was_set_aside(storage: Storage) -> None:
    (storage.folder / "content" / "x").mkdir()
    storage.clean(time.time())
    later = time.time() + 365 * DAY
    storage.restart_waiting(later)
    assert storage.clean(later) == 0
    assert on_disk(storage) == {"unknown/content-x"}


def test_a_record_without_its_content_stays_until_it_expires(storage: Storage) -> None:
    """The disk with the content may not be mounted."""
    lost = received(storage, lifetime=100)
    away = storage.folder / "away"
    lost.path.rename(away)
    assert storage.clean(time.time()) == 0
    assert storage.find(lost.id) is None
    away.rename(lost.path)
    assert storage.find(lost.id) == lost
    assert storage.clean(time.time() + 101) == 1


@pytest.mark.parametrize("change", ["same size", "other size", "same time"])
def test_content_that_was_changed_on_the_disk_is_not_given_out(
    storage: Storage, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    stored, other = received(storage, b"content"), received(storage, b"content")
    stat = stored.path.stat()
    stored.path.write_bytes(b"CONTENT" if change == "same size" else b"cut")
    if change == "same time":
        os.utime(stored.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert storage.local(f"http://here{stored.address}") is None
    assert storage.find(stored.id) is None and storage.begun(stored.id) is None
    assert storage.find(other.id) == other
    assert f"unknown/content-{stored.id}/a.zip" in on_disk(storage), "whoever runs the server may want it"
    assert caplog.text.count("was changed on the disk") == 1


def test_content_that_was_only_touched_is_given_out(storage: Storage) -> None:
    """Such as when it was put back from a copy; a record of an older version has no time at all."""
    touched, old = received(storage), received(storage)
    os.utime(touched.path)
    storage._records.save(replace(old, mtime_ns=None))
    for file in (touched, old):
        found = storage.find(file.id)
        assert found == replace(file, mtime_ns=file.path.stat().st_mtime_ns)
        with mock.patch("hashlib.file_digest") as hashing:
            assert storage.find(file.id) == found
        assert not hashing.called, "hashed once"


def test_clean_leaves_alone_what_is_being_written(storage: Storage) -> None:
    whole, parted = begun(storage, lifetime=1), begun(storage)

    async def scenario() -> StoredFile:
        go_on = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"first "
            await go_on.wait()
            yield b"second"

        new = storage.new("new.zip", "")
        receiving = [
            asyncio.create_task(storage.receive(whole, slow())),
            asyncio.create_task(storage.receive_part(parted, 1, slow())),
            asyncio.create_task(storage.receive(new, slow())),
        ]
        while len(on_disk(storage)) < 3:
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(storage.clean, time.time() + 10 * DAY) == 0
        go_on.set()
        first, etag, second = await asyncio.gather(*receiving)
        assert first.path.read_bytes() == second.path.read_bytes() == b"first second"
        return await storage.complete(parted, {1: str(etag)})

    assert asyncio.run(scenario()).path.read_bytes() == b"first second"


def test_clean_all_the_time_does_no_harm(storage: Storage) -> None:
    """Files that come while a cleaning that sees them as old runs again and again are all there in the end."""

    async def scenario() -> list[StoredFile]:
        done = asyncio.Event()

        async def cleaning() -> None:
            while not done.is_set():
                await asyncio.to_thread(storage.clean, time.time())

        cleaner = asyncio.create_task(cleaning())
        stored = await asyncio.gather(
            *(storage.receive(storage.new(f"{n}", ""), pieces(bytes(n), bytes(n))) for n in range(60))
        )
        done.set()
        await cleaner
        return stored

    stored = asyncio.run(scenario())
    assert [storage.find(file.id) for file in stored] == stored


def _kill_at(monkeypatch: pytest.MonkeyPatch, storage: Storage, step: int) -> None:
    """Let the process 'die' at the step-th thing that it does to the disk or to the database."""
    left = [step]

    def counted(do: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:  # the dead do not clean up either
                raise KeyboardInterrupt
            return do(*args, **named)

        return wrapped

    for thing, name in ((Path, "open"), (Path, "replace"), (Path, "mkdir"), (Path, "unlink"), (Path, "hardlink_to")):
        monkeypatch.setattr(thing, name, counted(getattr(thing, name)))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    monkeypatch.setattr(storage._records, "save", counted(storage._records.save))


@pytest.mark.parametrize("what", ["receive", "adopt", "complete"])
def test_killed_at_any_moment(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """What a killed server leaves is either a file as it should be or is cleaned away; then all can be done again."""
    output = tmp_path / "out"
    output.write_bytes(b"content")
    for step in range(100):
        folder = tmp_path / f"files{step}"
        storage = Storage(folder, database, max_bytes=1000)
        file = begun(storage)
        etags = parts_of(storage, file, [(1, b"con"), (2, b"tent")])

        def work(storage: Storage, file: StoredFile = file, etags: dict[int, str] = etags) -> StoredFile:
            if what == "receive":
                return asyncio.run(storage.receive(file, pieces(b"content")))
            if what == "complete":
                return storage._join(file.id, etags)
            return storage.adopt(output, "a.zip", "", request_id="r", expires=None)

        killed = False
        with monkeypatch.context() as patch:
            _kill_at(patch, storage, step)
            try:
                work(storage)
            except KeyboardInterrupt:
                killed = True
        restarted = Storage(folder, database, max_bytes=1000)
        restarted.clean(time.time())
        shutil.rmtree(folder / "unknown" / f"content-{file.id}", ignore_errors=True)  # moved, not recorded yet
        rows = database.read(select(files.c.id, files.c.complete))
        for id, complete in rows:
            found = restarted.find(id)
            assert (found is not None) == bool(complete)
            assert found is None or found.path.read_bytes() == b"content"
        assert not list((folder / "incoming").iterdir())
        assert {path.name for path in (folder / "content").iterdir()} <= {id for id, _ in rows}
        stored = work(restarted)
        assert stored.path.read_bytes() == b"content"
        restarted.clean(time.time() + 32 * DAY)
        assert restarted.find(stored.id) == stored
        assert on_disk(restarted) == {f"content/{stored.id}", f"content/{stored.id}/a.zip"}
        restarted._discard(stored.id)
        if not killed:
            break
    assert 6 <= step < 20
