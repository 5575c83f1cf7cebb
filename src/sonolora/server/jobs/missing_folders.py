"""Folders of runs that are over and that another server had: fetched from the object store, for those who look at them.

In: the finished requests. Out: their run folders on this machine, the newest first, without what only a run needs.
"""

from __future__ import annotations

import asyncio

from sonolora.core.errors import SonoloraError
from sonolora.server import clock
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.records import Kind, Request, State
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.settings import ServerSettings

_RUNS = 1000  # the newest ones
_AGAIN_SECONDS = 600.0


async def keep_folders(settings: ServerSettings, store: Store, storage: Storage, retrying: Retrying) -> None:
    """Fetch what is missing, and look again from time to time: another server may have been active meanwhile."""
    looked_at: set[str] = set()
    while True:
        since = clock.now() - settings.keep_days * 86400
        for request in await retrying(store.requests, state=State.DONE, kind=Kind.TRAIN, limit=_RUNS):
            if request.id not in looked_at and (request.finished or 0.0) > since:
                if not await asyncio.to_thread(_fetch, request, settings, storage):
                    break
                looked_at.add(request.id)
        await asyncio.sleep(_AGAIN_SECONDS)


def _fetch(request: Request, settings: ServerSettings, storage: Storage) -> bool:
    """False when it cannot be fetched now."""
    folder, copy = settings.run_folder(request.id), storage.run_copy(request.id, request.starts)
    if copy is None or folder.exists():
        return True
    unfinished = folder.with_name(f".{request.id}")
    try:
        copy.collect(unfinished)
    except (SonoloraError, OSError):
        return False
    if any(unfinished.iterdir()):
        unfinished.rename(folder)
    else:
        unfinished.rmdir()
    return True
