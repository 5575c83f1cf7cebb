"""The commands about the server: `serve`, and what looks after keys and requests in a terminal beside it.

Thin, as all commands: the job store may be opened by several processes, so that these work with the server running or
not. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonolora.core.errors import SonoloraError

if TYPE_CHECKING:
    from sonolora.server.database.database import Database
    from sonolora.server.jobs.records import Request
    from sonolora.server.jobs.store import Store

keys_app = typer.Typer(rich_markup_mode=None, help="Who may use the server.", no_args_is_help=True)
requests_app = typer.Typer(rich_markup_mode=None, help="What the server was asked for.", no_args_is_help=True)

Folder = Annotated[
    Path | None, typer.Option(help="The server's folder. [default: $SONOLORA_SERVER or the user's data folder]")
]
Id = Annotated[str, typer.Argument(help="The request's id, or its first characters.")]


_TIMES = {"created", "started", "finished", "start_deadline", "time", "next_try", "estimated_end"}


def add_server_commands(app: typer.Typer) -> None:
    """Make these commands of `sonolora`."""
    app.command()(serve)
    app.command()(ledger)
    app.add_typer(keys_app, name="keys")
    app.add_typer(requests_app, name="requests")


def serve(
    folder: Folder = None,
    host: Annotated[str | None, typer.Option(help="The address to listen at. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="For plain http; 0 takes a free one. [default: 8000]")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Serve https, too, at port 8443.")] = False,
    tls_port: Annotated[int | None, typer.Option(help="Serve https, too, at this port.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="For https: a chain in PEM, in place of our own.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="The key of the certificate.")] = None,
    proxy: Annotated[
        bool, typer.Option("--proxy", help="Be an HTTPS proxy for the published hosts at port 8001; with --tls.")
    ] = False,
    proxy_port: Annotated[int | None, typer.Option(help="The same at this port.")] = None,
    public_url: Annotated[str | None, typer.Option(help="What addresses in answers start with.")] = None,
    base: Annotated[str | None, typer.Option(help="The base model: a name or a folder. [default: tiny]")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="auto, cpu, cuda or cuda:1; one worker for each. [default: auto]")
    ] = None,
    allow_private_urls: Annotated[
        bool | None,
        typer.Option("--allow-private-urls", help="Fetch training data from private networks and this machine, too."),
    ] = None,
    allow_private_webhooks: Annotated[
        bool | None, typer.Option("--allow-private-webhooks", help="Send results there, too.")
    ] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between saved states. [default: 250]")] = None,
    accept_database: Annotated[
        bool,
        typer.Option(
            "--accept-database", help="Start also where the database is new or another than the folder had before."
        ),
    ] = False,
) -> None:
    """Serve the six trainings over fal's queue protocol. Options can stand in FOLDER/server.toml, too."""
    import logging

    from sonolora.server.serve import serve as run_server
    from sonolora.server.settings import default_folder, load_settings

    settings = load_settings(
        folder or default_folder(),
        host=host,
        port=port,
        tls_port=tls_port if tls_port is not None else 8443 if tls or proxy or proxy_port is not None else None,
        certificate=certificate,
        private_key=private_key,
        proxy_port=proxy_port if proxy_port is not None else 8001 if proxy else None,
        public_url=public_url,
        base=base,
        devices=tuple(device) if device else None,
        allow_private_urls=allow_private_urls,
        allow_private_webhooks=allow_private_webhooks,
        checkpoint_every=checkpoint_every,
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    run_server(settings, accept_database=accept_database)


@keys_app.command("add")
def add_key(name: Annotated[str, typer.Argument(help="Whose it is.")], folder: Folder = None) -> None:
    """Make a key and print it. It is not kept, so it cannot be shown again."""
    from sonolora.server.jobs.keys import Keys

    with _database(folder, new=True) as database:
        print(Keys(database).add(name)[1])


@keys_app.command("list")
def list_keys(folder: Folder = None) -> None:
    """The keys' ids and names."""
    from sonolora.server.jobs.keys import Keys

    with _database(folder) as database:
        keys = Keys(database).all()
    for key in keys:
        print(f"{key.id}  {_when(key.created)}  {'revoked' if key.revoked else 'valid  '}  {key.name}")


@keys_app.command("revoke")
def revoke_key(
    id: Annotated[str, typer.Argument(help="As `keys list` shows it: what stands before the colon.")],
    folder: Folder = None,
) -> None:
    """Make a key invalid, at once."""
    from sonolora.server.jobs.keys import Keys

    id = id.partition(":")[0]  # a whole key in place of its id is an easy mistake
    with _database(folder) as database:
        if not Keys(database).revoke(id):
            raise SonoloraError(f"there is no valid key with the id {id!r}; see: sonolora keys list")


@requests_app.command("list")
def list_requests(
    state: Annotated[str | None, typer.Option(help="Only those queued, running or done.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    folder: Folder = None,
) -> None:
    """The requests and how they stand."""
    from sonolora.server.folder_lock import is_served
    from sonolora.server.jobs.records import State
    from sonolora.server.settings import default_folder

    if state is not None and state not in tuple(State):
        raise SonoloraError(f"--state {state!r} is not one of {', '.join(State)}")
    with _store(folder) as store:
        found = store.requests(state=State(state) if state else None, limit=limit)
        served = is_served(folder or default_folder())
    for request in found:
        line = f"{request.id}  {_when(request.created)}  {request.endpoint:<19}  {_standing(request, served)}"
        print(line[: _width()])


@requests_app.command("show")
def show_request(id: Id, folder: Folder = None) -> None:
    """All that is known of a request, as JSON; its report, previews and metrics are in `folder`."""
    from sonolora.server.folder_lock import is_served
    from sonolora.server.jobs.records import State
    from sonolora.server.settings import default_folder, load_settings

    with _store(folder) as store:
        request = _known(store, id)
        run_folder = load_settings(folder or default_folder()).run_folder(request.id)
        about: dict[str, Any] = {
            **_with_times(request),
            "standing": _standing(request, is_served(folder or default_folder())),
            "folder": str(run_folder) if run_folder.exists() else None,
            "attempts": request.attempts + (request.state != State.QUEUED and request.started is not None),
            "progress": _with_times(request.progress) if request.state == State.RUNNING else None,
            "body": store.body(request.id),
            "result": vars(request.result) if request.result else None,
            "events": [_with_times(event) for event in store.events(request.id)],
            "deliveries": [_with_times(delivery) for delivery in store.deliveries(request.id)],
        }
    print(json.dumps(about, indent=2))


@requests_app.command("logs")
def show_logs(
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the request is done.")] = False,
    folder: Folder = None,
) -> None:
    """The lines of a request's log."""
    last = 0
    with _store(folder) as store:
        id = _known(store, id).id
        while True:
            done = _known(store, id).result is not None
            for line in store.logs(id, last):
                print(f"{_when(line.time)}  {line.level:<5}  {line.message}", flush=True)
                last = line.number
            if done or not follow:
                return
            time.sleep(0.5)


@requests_app.command("cancel")
def cancel_request(id: Id, folder: Folder = None) -> None:
    """Take a request out of the queue, or stop it at the next step."""
    from sonolora.server.jobs.records import State

    with _store(folder) as store:
        request = _known(store, id)
        if request.state == State.DONE or store.request_cancel(request.id) == State.DONE:
            raise SonoloraError(f"request {request.id} is over already")
    print("it will be stopped")


def ledger(folder: Folder = None) -> None:
    """What the same runs would have cost at the published prices."""
    from sonolora.server.settings import default_folder, load_settings

    prices = load_settings(folder or default_folder()).prices
    with _store(folder) as store:
        billed = store.billed()
    total = 0.0
    print(f"{'mode':<20} {'requests':>9} {'billed steps':>13} {'$ a step':>9} {'$':>11}")
    for mode, number, units in billed:
        total += units * prices[mode]
        print(f"{mode:<20} {number:>9} {units:>13} {prices[mode]:>9.4f} {units * prices[mode]:>11.2f}")
    print(f"{'':<20} {'':>9} {'':>13} {'':>9} {total:>11.2f}")


@contextmanager
def _database(folder: Path | None, *, new: bool = False) -> Iterator[Database]:
    """The database of the server in the folder; `new`: created if there is none."""
    from sonolora.server.database.database import Database
    from sonolora.server.settings import default_folder, load_settings

    settings = load_settings(folder or default_folder())
    if not new and not settings.database.exists():
        raise SonoloraError(f"there is no server in {settings.folder}; say --folder, or start one: sonolora serve")
    with closing(Database(settings.database)) as database:
        yield database


@contextmanager
def _store(folder: Path | None) -> Iterator[Store]:
    """Its job store."""
    from sonolora.server.jobs.store import Store

    with _database(folder) as database:
        yield Store(database)


def _known(store: Store, id: str) -> Request:
    """The request of that id, or the only one whose id begins so."""
    if (request := store.request(id)) is not None:
        return request
    ids = store.ids(id) if id else []
    if len(ids) > 1:
        raise SonoloraError(f"{len(ids)} requests have ids that begin with {id!r}; give more of it")
    if not ids or (request := store.request(ids[0])) is None:
        raise SonoloraError(f"there is no request {id!r}; see: sonolora requests list")
    return request


def _standing(request: Request, served: bool) -> str:
    """In a line; `served`: whether there is a server to get on with it."""
    result, progress = request.result, request.progress
    if result is not None:
        why = " ".join((result.error or result.error_type or "").split())
        return f"{result.outcome}: {why}" if result.outcome.startswith("failed") else result.outcome
    standing = str(request.state)
    if request.started is not None and "steps" in progress:
        standing += f", {progress.get('phase', '')} {progress.get('step', 0)}/{progress['steps']}"
    return standing if served else f"{standing} (no server is up; start it: sonolora serve)"


def _with_times(record: Any) -> dict[str, Any]:
    """The fields of a record, or a dictionary, with local times for people in place of seconds since 1970."""
    fields = record if isinstance(record, dict) else vars(record)
    return {name: _when(value) if name in _TIMES and value else value for name, value in fields.items()}


def _width() -> int | None:
    """Of a line; None: as long as it is, for a file or a pipe."""
    return get_terminal_size().columns if sys.stdout.isatty() else None


def _when(seconds: float) -> str:
    """Local time."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError):  # a deadline that a client has set
        return "never"
