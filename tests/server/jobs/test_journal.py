"""What a run tells is written to the last word."""

from __future__ import annotations

import asyncio
import threading

from sonolora.server.jobs.journal import Journal
from sonolora.server.jobs.records import NewRequest
from sonolora.server.jobs.store import Store


class SlowStore(Store):
    """Each write of log lines waits until it is let go on, as on a busy disk."""

    def __init__(self, path):
        super().__init__(path)
        self.writes, self.go_on = threading.Event(), threading.Event()

    def add_logs(self, id, lines):
        self.writes.set()
        assert self.go_on.wait(20)
        super().add_logs(id, lines)


def test_what_is_told_during_the_last_write_is_written(tmp_path):
    store = SlowStore(tmp_path / "server.db")
    id = store.add_request(NewRequest(endpoint="t2a", mode="t2a", body={}, key_id="k")).id

    async def run():
        journal = Journal(store, id, lambda _: None)
        journal.log("first")
        keeping = asyncio.create_task(journal.keep())
        assert await asyncio.to_thread(store.writes.wait, 20)
        journal.log("last")
        journal.close()
        store.go_on.set()
        await keeping

    asyncio.run(run())
    assert [line.message for line in store.logs(id)] == ["first", "last"]
    store.close()
