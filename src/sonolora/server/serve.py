"""`sonolora serve`: everything that the server does, in one event loop, until it is told to stop.

In: settings. Out: http and https, the tunnel, the workers, the webhooks and the cleaning, and on standard output how
to reach them. SIGINT or SIGTERM ends it in order: answers that wait are let go, runs save their state and go back to
the queue. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from sonolora.core.errors import SonoloraError
from sonolora.server.api.app import Services, build_app
from sonolora.server.banner import banner
from sonolora.server.files.storage import Storage
from sonolora.server.folder_lock import alone
from sonolora.server.jobs.notifier import Changes
from sonolora.server.jobs.records import Request, State
from sonolora.server.jobs.store import Store
from sonolora.server.jobs.workers import Workers
from sonolora.server.net.listen import HttpServer, certificate_for, listen, loopback_of
from sonolora.server.net.tunnel import tunnel
from sonolora.server.net.urls import absolute_urls, own_address
from sonolora.server.settings import EMBEDDED_BASE, ServerSettings
from sonolora.server.webhooks import Deliverer, jwks, load_signing_key

CLEANING_SECONDS = 600.0
RESTART_SECONDS = 1.0
_OPEN_FILES = 65536

logger = logging.getLogger(__name__)


def serve(settings: ServerSettings) -> None:
    """Run until a signal. Raises `SonoloraError` when it cannot start or is ended at once, by a second signal."""
    settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Every client that waits is an open file, and the usual limit is low.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _OPEN_FILES), most))
    with alone(settings.folder), closing(Store(settings.database)) as store:
        _check_base(settings.base)
        try:
            uvloop.run(_serve(settings, store))
        except KeyboardInterrupt:
            raise SonoloraError("stopped at once; the workers save what they can by themselves") from None


def _check_base(base: str) -> None:
    """Raise `SonoloraError` for a base that workers could not load.

    In a process of its own, whose standard error says why, since this one does without the networks.
    """
    if base == EMBEDDED_BASE:
        return
    shown = subprocess.run([sys.executable, "-m", "sonolora", "base", "show", base], stdout=subprocess.DEVNULL)
    if shown.returncode:
        raise SonoloraError(f"the server does not start without its base, '{base}'")


def _first_key(store: Store, settings: ServerSettings) -> str | None:
    """A key to begin with, where this machine alone can reach us; None when there is one, which nobody can show."""
    if _valid_keys(store):
        return None
    if not settings.on_loopback:
        raise SonoloraError(
            f"other machines can reach {settings.host}, and there is no key yet. "
            f"Make one first: sonolora keys add NAME --folder {settings.folder}"
        )
    return store.add_key("first")[1]


def _valid_keys(store: Store) -> int:
    keys = store.keys()
    return sum(key.revoked is None for key in keys)


async def _serve(settings: ServerSettings, store: Store) -> None:
    stop = _stop_signal()
    changes = Changes()
    storage = Storage(settings.folder / "files", store, settings.max_upload_bytes)
    signing_key = load_signing_key(settings.folder)
    async with AsyncExitStack() as stack:
        # Ports first: what cannot start says so before anything runs. From here on the settings have the real ones.
        http = stack.enter_context(closing(listen(settings.host, settings.port)))
        settings = replace(settings, port=http.getsockname()[1])
        https = None
        if settings.tls_port is not None:
            https = stack.enter_context(closing(listen(settings.host, settings.tls_port)))
            settings = replace(settings, tls_port=https.getsockname()[1])
        if settings.proxy_port is not None and settings.tls_port is not None:
            to = (loopback_of(settings.host), settings.tls_port)
            port = await stack.enter_async_context(tunnel(settings.host, settings.proxy_port, to))
            settings = replace(settings, proxy_port=port)

        workers = Workers(settings, store, storage, changes.changed)
        app = build_app(Services(settings, store, storage, changes, workers.wake, jwks(signing_key)))
        servers = [HttpServer(app, http)]
        if https is not None:
            servers.append(HttpServer(app, https, certificate_for(settings)))
        deliverer = Deliverer(
            store,
            signing_key,
            "sonolora",
            allow_private=settings.allow_private_webhooks,
            payload_of=lambda request: _payload(request, own_address(settings)),
        )
        # A new key is shown this once, so that nothing may fail between making and showing it.
        first_key = _first_key(store, settings)
        answering = [asyncio.create_task(server.run()) for server in servers]
        behind = [
            asyncio.create_task(_kept_up(work))
            for work in (workers.run, deliverer.run, lambda: _clean(settings, store, storage))
        ]
        print(banner(settings, first_key, _valid_keys(store)), flush=True)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, *answering}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()

        print("stopping: runs save their state and go on at the next start", flush=True)
        changes.close()
        for server in servers:
            server.stop()
        for task in behind:
            task.cancel()
        for end in await asyncio.gather(*answering, *behind, return_exceptions=True):
            if isinstance(end, Exception):
                logger.error("while stopping: %s", end, exc_info=end)


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM; after it they do again what they do to any program."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def first() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, first)
    return stop


async def _kept_up(work: Callable[[], Awaitable[None]]) -> None:
    """Do it for ever: a fault in one part of the server does not end the others."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("a part of the server broke off; it is started again")
        await asyncio.sleep(RESTART_SECONDS)


async def _clean(settings: ServerSettings, store: Store, storage: Storage) -> None:
    """From time to time, what has expired or is of no use any more goes."""
    while True:
        now = time.time()
        await asyncio.to_thread(storage.clean, now)
        before = now - settings.keep_days * 86400
        await asyncio.to_thread(store.forget, before)
        await asyncio.to_thread(_remove_old_runs, settings.folder / "runs", store, before)
        await asyncio.sleep(CLEANING_SECONDS)


def _remove_old_runs(folder: Path, store: Store, before: float) -> None:
    """The run folders of requests that finished before then; their outputs are in the storage."""
    for run in folder.iterdir() if folder.is_dir() else ():
        request = store.request(run.name)
        if request and request.state == State.DONE and (request.finished or before) < before:
            shutil.rmtree(run, ignore_errors=True)


def _payload(request: Request, base: str) -> Any:
    """What a webhook gets: the result as its client would, with addresses that lead here."""
    return None if request.result is None else absolute_urls(request.result.body, base)
