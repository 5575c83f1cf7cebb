"""A web server on this machine whose answers a test decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Request(BaseHTTPRequestHandler):
    """Hands each request to `server.answer` and keeps its headers."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        self.server.answer(self)  # type: ignore[attr-defined]

    def reply(self, status: int, body: bytes = b"", cut: int | None = None, **headers: str) -> None:
        """`cut`: hang up after so many bytes of the body."""
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


class Site:
    """The server: set `answer`, read `seen`, (path, headers) of each request."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self.host = f"127.0.0.1:{server.server_port}"
        self.url = f"http://{self.host}/data/clips.zip?sig=SECRET"
        self.seen: list[tuple[str, dict[str, str]]] = []
        server.seen = self.seen  # type: ignore[attr-defined]

    @property
    def ranges(self) -> list[str | None]:
        """The Range headers so far."""
        return [headers.get("Range") for _, headers in self.seen]

    def answers(self, answer: Callable[[Request], None]) -> None:
        self._server.answer = answer  # type: ignore[attr-defined]


@contextmanager
def serving(handler: type[Request] = Request) -> Iterator[Site]:
    """A site that answers with `handler` until the end of the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Site(server)
        server.shutdown()
        thread.join()
