"""The ports that the server listens at, and the HTTP servers on them.

In: hosts, ports and an app. Out: sockets, and servers that run until they are stopped.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp

from sonolora.core.errors import SonoloraError
from sonolora.server.net.certificates import ensure_certificate
from sonolora.server.net.protocol import Protocol
from sonolora.server.net.urls import EVERY_ADDRESS
from sonolora.server.settings import ServerSettings

KEEP_ALIVE_SECONDS = 75  # of a connection between two requests
GRACE_SECONDS = 5  # for answers under way when the server stops
_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A socket there; port 0 takes a free one. Raises `SonoloraError` when it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        # What the socket library adds to the reason is said already; that a name is unknown has no such number.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise SonoloraError(f"cannot listen at {host}, port {port}: {reason}") from error


def loopback_of(host: str) -> str:
    """Where this machine reaches what listens at `host`."""
    return EVERY_ADDRESS.get(host, host)


def certificate_for(settings: ServerSettings) -> tuple[Path, Path]:
    """The certificate and its key: those of the settings, or of our own authority for every name that we know of."""
    if settings.certificate and settings.private_key:
        return settings.certificate, settings.private_key
    names = []
    if settings.public_url and (name := urlsplit(settings.public_url).hostname):
        names.append(name)
    if settings.host in EVERY_ADDRESS:
        name = socket.gethostname()
        names.append(name)
        with suppress(OSError):  # no address that it knows of
            names += {str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(name, None)}
    else:
        names.append(settings.host)
    try:
        certificate, key, _ = ensure_certificate(settings.folder / "tls", names)
    except (ValueError, OSError) as error:
        raise SonoloraError(f"no certificate could be made for {', '.join(names)}: {error}") from error
    return certificate, key


class HttpServer:
    """The app at a socket, by https with a certificate and its key. Raises `SonoloraError` for unusable ones.

    Nothing is logged of a request: its address may hold secrets.
    """

    def __init__(self, app: ASGIApp, at: socket.socket, certificate: tuple[Path, Path] | None = None) -> None:
        self._at = at
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
            ssl_certfile=certificate[0] if certificate else None,
            ssl_keyfile=certificate[1] if certificate else None,
        )
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one, too
            raise SonoloraError(f"the certificate cannot be used: {error}") from error
        self._server = _Uvicorn(config)

    async def run(self) -> None:
        """Until it is stopped and what was under way has ended or its time is over."""
        await self._server.serve([self._at])

    def stop(self) -> None:
        self._server.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Without hands on the signals: there may be several, and more to end than they know of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
