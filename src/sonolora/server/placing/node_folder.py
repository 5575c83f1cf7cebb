"""Where runs work on a node that shares no folder with the server.

In: the id of a request. Out: a folder on this machine, `$SONOLORA_NODE_FOLDER/runs/<id>`, by default below
`sonolora/node` in the user's data folder. What a run makes there is copied to the object store; folders that were left
by runs that moved to another node are removed after days.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from sonolora.core.atomic_files import make_folder
from sonolora.core.errors import SonoloraError
from sonolora.core.user_folders import data_folder
from sonolora.runs.run_folder import exclusive_use

KEEP_SECONDS = 3 * 86_400.0  # a run may come back to this node


def node_run_folder(id: str) -> Path:
    """The folder of a run on this node; it need not exist."""
    return _runs() / id


def make_node_run_folder(id: str) -> Path:
    """The folder of a run, made if need be; removes those that nobody has used for days. Raises `OutputError`."""
    folder = node_run_folder(id)
    make_folder(folder)
    for other in _runs().iterdir():
        if other != folder and time.time() - _last_use(other) > KEEP_SECONDS:
            with suppress(SonoloraError), exclusive_use(other):
                shutil.rmtree(other, ignore_errors=True)
    return folder


def _runs() -> Path:
    return Path(os.environ.get("SONOLORA_NODE_FOLDER") or data_folder() / "node") / "runs"


def _last_use(folder: Path) -> float:
    """Unix seconds."""
    with suppress(OSError):
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    return time.time()
