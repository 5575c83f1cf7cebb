"""Listening sockets and the HTTP servers on them.

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
from sonolora.server.net.protocol import TimedHttpProtocol
from sonolora.server.net.urls import WILDCARD_HOSTS
from sonolora.server.settings import ServerSettings

KEEP_ALIVE_SECONDS = 75  # of a connection between two requests
GRACE_SECONDS = 5  # for responses in progress when the server stops
_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `SonoloraError`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        dual_stack = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual_stack)
    except OSError as error:
        # The library's own text repeats host and port; a name that does not resolve has no number of the system.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise SonoloraError(f"cannot listen at {host}, port {port}: {reason}") from error


def loopback_of(host: str) -> str:
    """The address at which this machine reaches what listens at `host`."""
    return WILDCARD_HOSTS.get(host, host)


def certificate_for(settings: ServerSettings) -> tuple[Path, Path]:
    """The certificate and its key: those of the settings, or our own for every known name of this machine."""
    if settings.certificate and settings.private_key:
        return settings.certificate, settings.private_key
    names = []
    if settings.public_url and (name := urlsplit(settings.public_url).hostname):
        names.append(name)
    if settings.host in WILDCARD_HOSTS:
        name = socket.gethostname()
        names.append(name)
        with suppress(OSError):  # its name does not resolve
            names += {str(answer[4][0]).partition("%")[0] for answer in socket.getaddrinfo(name, None)}
    else:
        names.append(settings.host)
    try:
        certificate, key, _ = ensure_certificate(settings.folder / "tls", names)
    except (ValueError, OSError) as error:
        raise SonoloraError(f"cannot make a certificate for {', '.join(names)}: {error}") from error
    return certificate, key


class HttpServer:
    """The app at a socket; https with a certificate and its key. Raises `SonoloraError` if these cannot be used.

    Requests are not logged: their URLs may hold secrets.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket, certificate: tuple[Path, Path] | None = None) -> None:
        self._listener = listener
        config = uvicorn.Config(
            app,
            http=TimedHttpProtocol,
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
        except OSError as error:  # also ssl.SSLError
            raise SonoloraError(f"the certificate cannot be used: {error}") from error
        self._server = _Uvicorn(config)

    async def run(self) -> None:
        """Serve until `stop`, and until the responses in progress have ended or their time is up."""
        await self._server.serve([self._listener])

    def stop(self) -> None:
        self._server.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Leaves signals alone: there may be several servers, and other tasks to end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
