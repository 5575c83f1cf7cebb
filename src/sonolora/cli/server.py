"""`sonolora keys`, `requests`, `nodes` and `ledger`: the server's data, in a terminal beside it.

Several processes may open the job store, so these work whether the server runs or not.
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

from sonolora.cli.help_pages import add_command, make_group
from sonolora.core.errors import SonoloraError

if TYPE_CHECKING:
    from sonolora.server.database.database import Database
    from sonolora.server.jobs.records import Request, Role
    from sonolora.server.jobs.store import Store

Folder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The server's folder. [default: $SONOLORA_SERVER or the user's data folder]"),
]
Owner = Annotated[
    str | None, typer.Option(metavar="OWNER", help="The person or team that it is of, who may have several keys.")
]
KeyRole = Annotated[str | None, typer.Option(metavar="member|operator", help="What it may do.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The id of a key, as `keys list` shows it.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The id of a request, or its first characters.")]
_SHOWN_ID = 8
_LINE_COLUMNS = 160  # where the output is no terminal
_TIMES = {"created", "started", "finished", "start_deadline", "time", "next_try", "estimated_end"}


def add_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will use it, such as a person or a machine.")],
    owner: Owner = None,
    role: KeyRole = None,
    folder: Folder = None,
) -> None:
    """Create a key and print it.

    A member's key reaches what keys of its owner have made, an operator's everything. By default the owner is NAME, the
    first key is an operator's, and later ones are members'. Only a hash of it is stored, so it cannot be shown again.
    """
    from sonolora.server.jobs.keys import Keys

    with _database(folder, new=True) as database:
        print(Keys(database).add(name, owner=owner, role=_role(role))[1])


def change_key(id: KeyId, owner: Owner = None, role: KeyRole = None, folder: Folder = None) -> None:
    """Give a key another owner, with all that was made with it, or another role."""
    from sonolora.server.jobs.keys import Keys

    if owner is None and role is None:
        raise SonoloraError("nothing to change: give --owner, --role or both")
    with _database(folder) as database:
        keys, id = Keys(database), id.partition(":")[0]
        if not keys.change(id, owner=owner, role=_role(role)) or (key := keys.find(id)) is None:
            raise SonoloraError(f"there is no key with the id {id!r}; `sonolora keys list` shows them")
    print(f"{key.name}: {key.role} of {key.owner}")


def list_keys(folder: Folder = None) -> None:
    """List the keys: id, when it was made, whether it is valid, role, name, and owner where that is another."""
    from sonolora.server.jobs.keys import Keys

    with _database(folder) as database:
        keys = Keys(database).all()
    for key in keys:
        standing = f"{'revoked' if key.revoked else 'valid  '}  {key.role:<8}"
        print(f"{key.id}  {_when(key.created)}  {standing}  {key.name}{f' ({key.owner})' * (key.owner != key.name)}")


def revoke_key(
    id: KeyId,
    folder: Folder = None,
) -> None:
    """Revoke a key, with immediate effect."""
    from sonolora.server.jobs.keys import Keys

    id = id.partition(":")[0]  # a whole key in place of its id is an easy mistake
    with _database(folder) as database:
        if not Keys(database).revoke(id):
            raise SonoloraError(f"there is no valid key with the id {id!r}; `sonolora keys list` shows them")


def list_requests(
    state: Annotated[
        str | None, typer.Option(metavar="queued|running|done", help="Only requests in this state.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="How many, the newest first.")] = 20,
    folder: Folder = None,
) -> None:
    """List requests, one a line: the first characters of its id, when it was made, its mode, and its status."""
    from sonolora.server.folder_lock import is_served
    from sonolora.server.jobs.records import State
    from sonolora.server.settings import default_folder

    if state is not None and state not in tuple(State):
        raise SonoloraError(f"--state {state!r} is not one of {', '.join(State)}")
    with _store(folder) as store:
        requests = store.requests(state=State(state) if state else None, limit=limit)
        served = is_served(folder or default_folder())
    for request in requests:
        # The first characters of an id are enough for every command here.
        line = f"{request.id[:_SHOWN_ID]}  {_when(request.created)[:-3]}  {request.endpoint:<22}  "
        print((line + _standing(request, served))[: _width()])


def show_request(id: Id, folder: Folder = None) -> None:
    """Show everything about a request, as JSON.

    Its report, previews and metrics are in the run folder that `folder` names.
    """
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


def show_logs(
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the request is done.")] = False,
    folder: Folder = None,
) -> None:
    """Print the log of a request."""
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


def cancel_request(id: Id, folder: Folder = None) -> None:
    """Cancel a request: remove it from the queue, or stop it after the current step."""
    from sonolora.server.jobs.records import State

    with _store(folder) as store:
        request = _known(store, id)
        if request.state == State.DONE or store.request_cancel(request.id) == State.DONE:
            raise SonoloraError(f"request {request.id} is already done")
    print(f"request {request.id} will be cancelled")


def ledger(
    by: Annotated[str, typer.Option(metavar="mode|key|owner", help="What the lines are about.")] = "mode",
    folder: Folder = None,
) -> None:
    """Show what completed requests would have cost at the published prices, or what each key or owner has used."""
    from sonolora.server.settings import default_folder, load_settings

    if by in ("key", "owner"):
        return _usage(folder, by_owner=by == "owner")
    if by != "mode":
        raise SonoloraError(f"--by {by!r} is not one of mode, key, owner")
    prices = load_settings(folder or default_folder()).prices
    with _store(folder) as store:
        billed = store.billed()
    total = 0.0
    print(f"{'mode':<20} {'requests':>9} {'billed steps':>13} {'$/step':>9} {'$':>11}")
    for mode, number, units in billed:
        total += units * prices[mode]
        print(f"{mode:<20} {number:>9} {units:>13} {prices[mode]:>9.4f} {units * prices[mode]:>11.2f}")
    print(f"{'':<20} {'':>9} {'':>13} {'':>9} {total:>11.2f}")
    return None


def _usage(folder: Path | None, *, by_owner: bool) -> None:
    with _store(folder) as store:
        keys = {key.id: key for key in store.keys.all()}
        used = store.used()
    figures = f"{'requests':>9} {'billed steps':>13} {'device hours':>13}"
    print(f"{'owner':<20} {figures}" if by_owner else f"{'key':<16}  {'name':<20} {'owner':<20} {figures}")
    lines: dict[str, list[float]] = {}
    for id, *amounts in used:
        key = keys.get(id)
        owner, name = (key.owner, key.name) if key else (id, "")
        line = f"{owner:<20}" if by_owner else f"{id:<16}  {name:<20} {owner:<20}"
        lines[line] = [sum(pair) for pair in zip(lines.get(line, (0, 0, 0.0)), amounts, strict=True)]
    for line, (number, units, seconds) in sorted(lines.items()):
        print(f"{line} {number:>9} {units:>13} {seconds / 3600:>13.2f}")


def list_drained(folder: Folder = None) -> None:
    """List the nodes and devices that are given no more runs."""
    with _store(folder) as store:
        for drain in store.drains.all():
            print(f"{_when(drain.since)}  {drain.name}{'  (its runs move)' if drain.move else ''}")


def drain_node(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A node, or a device, as the queue's page shows it.")],
    move: Annotated[bool, typer.Option("--move", help="Its runs save their state and go on elsewhere.")] = False,
    folder: Folder = None,
) -> None:
    """Give a node or a device no more runs; those that it has end there."""
    with _store(folder) as store:
        store.drains.add(name, move=move)
    print(f"{name} is given no more runs{', and its runs move' if move else ''}")


def undrain_node(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `nodes list` shows it.")], folder: Folder = None
) -> None:
    """Give a node or a device runs again."""
    with _store(folder) as store:
        if not store.drains.remove(name):
            raise SonoloraError(f"{name!r} is not drained; `sonolora nodes list` shows what is")
    print(f"{name} is given runs again")


def _role(name: str | None) -> Role | None:
    from sonolora.server.jobs.records import Role

    if name is not None and name not in tuple(Role):
        raise SonoloraError(f"--role {name!r} is not one of {', '.join(Role)}")
    return None if name is None else Role(name)


@contextmanager
def _database(folder: Path | None, *, new: bool = False) -> Iterator[Database]:
    """The database of the server in the folder; `new`: created if there is none."""
    from sonolora.server.database.open_database import open_database
    from sonolora.server.settings import default_folder, load_settings

    settings = load_settings(folder or default_folder())
    address = settings.database_address
    if not new and isinstance(address, Path) and not address.exists():
        raise SonoloraError(
            f"there is no server in {settings.folder}: give its --folder, or start one with `sonolora serve`"
        )
    with closing(open_database(address)) as database:
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
        raise SonoloraError(f"{len(ids)} requests have ids that begin with {id!r}: give more characters")
    if not ids or (request := store.request(ids[0])) is None:
        raise SonoloraError(f"there is no request {id!r}; `sonolora requests list` shows them")
    return request


def _standing(request: Request, served: bool) -> str:
    """In one line; `served`: whether a server is running that will work on it."""
    result, progress = request.result, request.progress
    if result is not None:
        why = " ".join((result.error or result.error_type or "").split())
        return f"{result.outcome}: {why}" if result.outcome.startswith("failed") else result.outcome
    standing = str(request.state)
    if request.started is not None and "steps" in progress:
        standing += f", {progress.get('phase', '')} {progress.get('step', 0)}/{progress['steps']}"
    return standing if served else f"{standing} (no server is running; start it with `sonolora serve`)"


def _with_times(record: Any) -> dict[str, Any]:
    """The fields of a record or dictionary, with readable local times in place of Unix times."""
    fields = record if isinstance(record, dict) else vars(record)
    return {name: _when(value) if name in _TIMES and value else value for name, value in fields.items()}


def _width() -> int:
    """Of a line: that of the terminal, if there is one. All of an error is in `requests show`."""
    return get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else _LINE_COLUMNS


def _when(seconds: float) -> str:
    """Local time."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError):  # a client may set any deadline
        return "never"


keys_app = make_group("Manage the server's API keys.")
for _name, _command in (("add", add_key), ("list", list_keys), ("change", change_key), ("revoke", revoke_key)):
    add_command(keys_app, _name, _command)

requests_app = make_group("List, follow and cancel the server's requests.")
add_command(requests_app, "list", list_requests)
add_command(requests_app, "show", show_request)
add_command(requests_app, "logs", show_logs)
add_command(requests_app, "cancel", cancel_request)

nodes_app = make_group("Take nodes and devices out of service, and back.")
add_command(nodes_app, "list", list_drained)
add_command(nodes_app, "drain", drain_node)
add_command(nodes_app, "undrain", undrain_node)
