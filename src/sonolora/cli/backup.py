"""`sonolora backup` and `sonolora restore`: copies of a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonolora.cli.server import Folder
from sonolora.core.errors import SonoloraError

if TYPE_CHECKING:
    from sonolora.server.backup import Summary


def backup(
    copy: Annotated[Path, typer.Argument(metavar="DIR", help="The backup: a folder that does not exist yet.")],
    folder: Folder = None,
) -> None:
    """Back up a server's database and files, while it runs."""
    from sonolora.server import backup as server_backup
    from sonolora.server.settings import default_folder

    summary = server_backup.backup(folder or default_folder(), copy, print)
    print(f"{copy}: {_describe(summary)}")
    if summary.missing:
        raise SonoloraError(
            f"the backup is complete except for {len(summary.missing)} files, which are missing or damaged on the "
            f"server's disk: {', '.join(summary.missing)}"
        )


def restore(
    copy: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `sonolora backup` wrote.")],
    folder: Folder = None,
) -> None:
    """Restore a server from a backup into a folder without one."""
    from sonolora.server import backup as server_backup
    from sonolora.server.settings import default_folder

    target = folder or default_folder()
    summary = server_backup.restore(copy, target, print)
    print(f"{target}: {_describe(summary)}")
    if summary.missing:
        print(f"not in the backup: {', '.join(summary.missing)}")
    print(f"start it with: sonolora serve --folder {target}")


def _describe(summary: Summary) -> str:
    return f"{summary.requests} requests, {summary.files} files, {summary.bytes / 1e6:,.1f} MB"
