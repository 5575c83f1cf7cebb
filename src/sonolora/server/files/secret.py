"""The server's secret, which signs upload addresses, tokens, sessions and addresses of outputs."""

from __future__ import annotations

import hmac
import os
import secrets
import time
from pathlib import Path

from sonolora.core.atomic_files import atomic_write
from sonolora.core.errors import SonoloraError

_SECRET_BYTES = 32


def signature(secret: bytes, *claims: str | int) -> str:
    """64 hexadecimal digits for claims, of which the first is the purpose and the last unix seconds of expiry."""
    return hmac.digest(secret, "\n".join(map(str, claims)).encode("utf-8", "backslashreplace"), "sha256").hex()


def is_signed(secret: bytes, signed: str, *claims: str) -> bool:
    """Whether the signature is ours for these claims, and the time that the last one gives is not over."""
    expected = signature(secret, *claims)
    # Whatever carries our signature has a number there.
    return hmac.compare_digest(signed.encode(), expected.encode()) and int(claims[-1]) > time.time()


def load_secret(path: Path) -> bytes:
    """The server's own, created at the first start; only its user can read it. Raises `SonoloraError`."""
    if not path.exists():
        with atomic_write(path) as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise SonoloraError(f"{path} cannot be read: {error.strerror}") from error
    if len(secret) < _SECRET_BYTES:
        raise SonoloraError(f"{path} is damaged: move it away, and a new one is created; uploads under way start anew")
    return secret
