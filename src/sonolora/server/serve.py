"""`sonolora serve`: the whole server in one event loop, until it is stopped.

In: settings. Out: http and https, the tunnel, the workers, the webhooks and the cleaning, and on standard output how
to reach them. SIGINT, SIGTERM or SIGHUP (a terminal that closes, unless `nohup` is used) stops it in order: waiting
answers end, runs save their state and return to the queue. A second SIGINT or SIGTERM ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sonolora.core.atomic_files import writing
from sonolora.core.errors import SonoloraError
from sonolora.core.object_store import ObjectStore
from sonolora.ltx.weights.registry import stored_record
from sonolora.server import clock
from sonolora.server.api.app import Services, build_app, make_rest
from sonolora.server.api.serializers import result_body
from sonolora.server.banner import banner
from sonolora.server.database.database import Database
from sonolora.server.database.deadlines import shift_deadlines
from sonolora.server.database.open_database import open_database
from sonolora.server.database.sqlite import MAX_LOG_BYTES, SqliteDatabase
from sonolora.server.files.remote import RemoteFiles
from sonolora.server.files.storage import Storage
from sonolora.server.folder_lock import single_instance
from sonolora.server.health import Health
from sonolora.server.jobs.assistant_process import Assistant
from sonolora.server.jobs.base_fingerprints import fingerprint_of
from sonolora.server.jobs.deliveries import Deliveries
from sonolora.server.jobs.fair_share import ShareRules
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.memory_needs import MemoryNeeds
from sonolora.server.jobs.missing_folders import keep_folders
from sonolora.server.jobs.notifier import Notifier
from sonolora.server.jobs.records import Role, State
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.jobs.workers import Workers
from sonolora.server.net.listen import HttpServer, certificate_for, listen, loopback_of
from sonolora.server.net.tunnel import tunnel
from sonolora.server.net.urls import own_address
from sonolora.server.placing.attempt_folders import id_of, remove_run_folder
from sonolora.server.placing.local_placer import LocalPlacer
from sonolora.server.placing.placer import Placer
from sonolora.server.placing.ray_placer import check_ray
from sonolora.server.placing.remote_placer import RemotePlacer
from sonolora.server.placing.slurm_placer import check_slurm
from sonolora.server.settings import EMBEDDED_BASE, RAY, SLURM, ServerSettings
from sonolora.server.shared_secrets import share_secrets
from sonolora.server.webhooks import Deliverer, jwks, load_signing_key

CLEANING_SECONDS = 600.0
RESTART_SECONDS = 1.0
CLOCK_SECONDS = 1.0
CHECKPOINT_SECONDS = 120.0
IDENTITY_SECONDS = 2.0
_OPEN_FILES = 65536

T = TypeVar("T")

# Sets what is called, in a thread, with the id of a request that another process has changed, and when another server
# has become the active one.
ListenToOthers = Callable[[Callable[[str], None], Callable[[SonoloraError], None]], None]

logger = logging.getLogger(__name__)


def serve(settings: ServerSettings, *, accept_database: bool = False, with_examples: bool = False) -> None:
    """Run until a signal. Raises `SonoloraError` when it cannot start or is ended at once, by a second signal.

    `accept_database`: start also with a new or another database than the one that belongs to the folder;
    `with_examples`: print examples for clients, too.
    """
    if sys.platform == "win32":
        raise SonoloraError("the server does not run on Windows; run it in WSL")
    import resource

    import uvloop

    with writing(settings.folder):
        settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Every waiting client is an open file, and the usual limit is low.
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard_limit, _OPEN_FILES), hard_limit))
    with single_instance(settings.folder), _opened(settings, accept_database) as database:
        for folder in (settings.folder, settings.folder / "runs"):
            _check_writable(folder)
        if settings.placer == RAY:
            check_ray()
        if settings.placer == SLURM:
            check_slurm(settings.slurm_options or "")
        _check_base(settings.base)
        objects = None
        if settings.files is not None:
            objects = ObjectStore(settings.files)
            share_secrets(objects, settings.folder)
            if settings.nodes_share_nothing:
                _tell_of_missing_base(objects, settings.base)
        with _turn(database) as listen_to_others:
            try:
                uvloop.run(_serve(settings, database, objects, listen_to_others, with_examples))
            except KeyboardInterrupt:
                raise SonoloraError("stopped at once; the workers save what they can by themselves") from None


@contextmanager
def _opened(settings: ServerSettings, accept_database: bool) -> Iterator[Database]:
    address = settings.database_address
    if isinstance(address, str):
        with closing(open_database(address)) as database:
            yield database
        return
    with closing(SqliteDatabase(address, accept=accept_database, thorough=True)) as file:
        file.checkpoint()
        yield file
        file.note_identity()


@contextmanager
def _turn(database: Database) -> Iterator[ListenToOthers]:
    """While this server is the active one of its database. A file, whose folder is locked, has no other."""
    if isinstance(database, SqliteDatabase):
        yield lambda changed, lost: None  # noqa: ARG005
        return
    from sonolora.server.database.active_server import ActiveServer
    from sonolora.server.database.postgres import PostgresDatabase

    assert isinstance(database, PostgresDatabase)
    waiting = f"another server works on {database.name}: this one waits, and takes over when it is gone"
    with closing(ActiveServer(database, lambda: print(waiting, flush=True))) as active:
        yield active.listen


def _check_writable(folder: Path) -> None:
    """Make the folder if there is none. Raises `OutputError` if no file can be made in it."""
    with writing(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def _placer(settings: ServerSettings, changed: Callable[[], None]) -> Placer[Any]:
    if settings.placer == RAY:
        return RemotePlacer(("ray", str(settings.ray_address)), changed)
    if settings.placer == SLURM:
        options = ("--jobs", str(settings.slurm_jobs), "--options", settings.slurm_options or "")
        return RemotePlacer(("slurm", str(settings.folder / "slurm"), "--base", settings.base, *options), changed)
    return LocalPlacer(settings.base, settings.devices, changed)


def _check_base(base: str) -> None:
    """Raise `SonoloraError` for a base that workers could not load.

    In a process of its own, whose standard error says why: this process does not load the networks.
    """
    if base == EMBEDDED_BASE:
        return
    shown = subprocess.run([sys.executable, "-m", "sonolora", "base", "show", base], stdout=subprocess.DEVNULL)
    if shown.returncode:
        raise SonoloraError(f"the server does not start without its base, '{base}'")


def _tell_of_missing_base(objects: ObjectStore, base: str) -> None:
    """Where nodes would have to have the base themselves."""
    if base == EMBEDDED_BASE or (fingerprint := fingerprint_of(base)) is None:
        return
    if objects.read(stored_record(fingerprint)) is None:
        print(
            f"note: nodes that lack the base {base} cannot fetch it from {objects.address}. To put it there: "
            f"sonolora base publish {base} --files {objects.address}",
            flush=True,
        )


def _first_key(keys: Keys, settings: ServerSettings) -> str | None:
    """A first key, if only this machine can reach the server; None when there are keys already."""
    if _valid_keys(keys):
        return None
    if not settings.on_loopback:
        raise SonoloraError(
            f"other machines can reach {settings.host}, and there is no key yet. "
            f"Make one first: sonolora keys add NAME --folder {settings.folder}"
        )
    return keys.add("first", role=Role.OPERATOR)[1]


def _valid_keys(keys: Keys) -> int:
    return sum(key.revoked is None for key in keys.all())


async def _serve(
    settings: ServerSettings,
    database: Database,
    objects: ObjectStore | None,
    listen_to_others: ListenToOthers,
    with_examples: bool,
) -> None:
    stop = _stop_signal()
    loop = asyncio.get_running_loop()
    notifier, health = Notifier(), Health()
    retrying = Retrying(health)
    store = Store(database, ShareRules(settings.fair_share_hours, settings.running_limit))
    keys = store.keys
    remote = None if objects is None else RemoteFiles(objects, redirect=settings.redirect_downloads)
    storage = Storage(settings.folder / "files", database, settings.max_upload_bytes, remote)
    signing_key = load_signing_key(settings.folder)
    async with AsyncExitStack() as stack:
        # Ports first: what cannot start fails before anything runs. From here on the settings have the actual ports.
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

        assistant = Assistant()
        stack.push_async_callback(assistant.stop)
        memory, placer = MemoryNeeds(settings, assistant), partial(_placer, settings)
        workers = Workers(settings, store, storage, retrying, notifier.notify, placer, memory)
        services = Services(
            settings,
            store,
            keys,
            storage,
            notifier,
            retrying,
            wake=workers.wake,
            jwks=jwks(signing_key),
            active=lambda: workers.active,
            slots=lambda: workers.slots,
        )
        rest = make_rest(services)
        stack.push_async_callback(rest.assistant.stop)
        app = build_app(services, rest)
        servers = [HttpServer(app, http)]
        if https is not None:
            servers.append(HttpServer(app, https, certificate_for(settings)))
        deliverer = Deliverer(
            store,
            Deliveries(database),
            retrying,
            signing_key,
            user_id="sonolora",
            allow_private=settings.allow_private_webhooks,
            payload_of=lambda request: result_body(request, own_address(settings), storage),
        )
        # A new key is shown only now, so nothing may fail between making and showing it.
        first_key = _first_key(keys, settings)
        answering = [asyncio.create_task(server.run()) for server in servers]
        keep: list[Callable[[], Awaitable[None]]] = []
        if isinstance(database, SqliteDatabase):
            keep.append(partial(_keep_database, database, retrying))
        if objects is not None:
            keep.append(partial(keep_folders, settings, store, storage, retrying))
        background = [
            asyncio.create_task(_kept_up(work))
            for work in (
                workers.run,
                deliverer.run,
                lambda: _clean(settings, store, storage, retrying),
                lambda: _watch_clock(database, storage, retrying),
                *keep,
            )
        ]
        taken_over: list[SonoloraError] = []

        def changed(id: str) -> None:
            notifier.notify(id)
            workers.wake()

        def lost(error: SonoloraError) -> None:
            taken_over.append(error)
            stop.set()

        listen_to_others(partial(_in_loop, loop, changed), partial(_in_loop, loop, lost))
        link = rest.sessions.new_link() if settings.on_loopback else None
        print(banner(settings, first_key, _valid_keys(keys), link, with_examples=with_examples), flush=True)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, *answering}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()

        print("stopping: runs save their state and resume at the next start", flush=True)
        notifier.close()
        for server in servers:
            server.stop()
        for task in background:
            task.cancel()
        for end in await asyncio.gather(*answering, *background, return_exceptions=True):
            if isinstance(end, Exception):
                logger.error("while stopping: %s", end, exc_info=end)
        if taken_over:
            raise taken_over[0]


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[T], None], value: T) -> None:
    """Called in a thread."""
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(call, value)


def _stop_signal() -> asyncio.Event:
    """Set by the first signal that ends the server; a second SIGINT or SIGTERM has its default effect.

    A closing terminal may send SIGHUP twice, through its shell and by itself; where the caller ignores it, so do we.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def first() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, first)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, first)
    return stop


async def _kept_up(work: Callable[[], Awaitable[None]]) -> None:
    """Restart it whenever it fails: a fault in one part of the server does not end the others."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("a part of the server failed and is started again")
        await asyncio.sleep(RESTART_SECONDS)


async def _keep_database(database: SqliteDatabase, retrying: Retrying) -> None:
    """Checkpoint now and then, and keep the identity beside the database up to date."""
    while True:
        checkpoint_at = time.monotonic() + CHECKPOINT_SECONDS
        while time.monotonic() < checkpoint_at and database.log_bytes < MAX_LOG_BYTES:
            await asyncio.sleep(IDENTITY_SECONDS)
            await retrying(database.note_identity)
        await retrying(database.checkpoint)


async def _watch_clock(database: Database, storage: Storage, retrying: Retrying) -> None:
    """When the system's clock is set, what waits is left as much time as it had."""

    def shift(jump: float, now: float) -> None:
        storage.restart_waiting(now)  # first: it does no harm twice, should the other fail
        shift_deadlines(database, jump, now)

    while True:
        await retrying(clock.adjust, shift)
        await asyncio.sleep(CLOCK_SECONDS)


async def _clean(settings: ServerSettings, store: Store, storage: Storage, retrying: Retrying) -> None:
    """Delete from time to time what has expired or is of no use any more."""
    while True:
        now = clock.now()
        await retrying(storage.clean, now)
        # Days that a clock skipped do not count.
        before = now - clock.forward_jumps() - settings.keep_days * 86400
        await retrying(store.forget, before)
        await retrying(_remove_old_runs, settings.folder / "runs", store, storage, before)
        await asyncio.sleep(CLEANING_SECONDS)


def _remove_old_runs(folder: Path, store: Store, storage: Storage, before: float) -> None:
    """Remove the run folders of requests that finished before then; their outputs are in the file store."""
    for run in list(folder.iterdir()) if folder.is_dir() else ():
        request = store.request(id_of(run))
        if request and request.state == State.DONE and (request.finished or before) < before:
            storage.remove_run_copies(request.id)
            remove_run_folder(run)
