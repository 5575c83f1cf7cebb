"""What servers of one object store sign with: the secrets of the one that was there first.

So sessions, upload URLs and the signatures of webhooks stay valid when another server takes over.
"""

from __future__ import annotations

from pathlib import Path

from sonolora.core.atomic_files import atomic_write
from sonolora.core.object_store import ObjectStore
from sonolora.server.files.secret import load_secret
from sonolora.server.webhooks import load_signing_key

_SECRETS = ("files/secret", "webhook_key.pem")


def share_secrets(objects: ObjectStore, folder: Path) -> None:
    """Make the secrets in the server's folder those of the object store, which gets these if it has none."""
    (folder / "files").mkdir(mode=0o700, parents=True, exist_ok=True)
    load_secret(folder / _SECRETS[0])
    load_signing_key(folder)
    for name in _SECRETS:
        path = folder / name
        own, stored = path.read_bytes(), f"secrets/{path.name}"
        if objects.create(stored, own):
            continue
        content = objects.read(stored)
        if content is not None and content != own:
            with atomic_write(path) as temporary:
                temporary.touch(mode=0o600)
                temporary.write_bytes(content)
