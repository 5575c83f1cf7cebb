"""A reverse proxy that serves a server of this machine below a path, as nginx with `proxy_pass .../` does.

While the server is down it answers 502, and bodies pass as they come, so that server-sent events arrive.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from sonolora.server.net.listen import HttpServer, listen

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


class SubpathProxy:
    """`address`, with the path and a slash at its end, leads to `target`, which may be set later."""

    def __init__(self, path: str, port: int) -> None:
        self.path, self.address, self.target = path, f"http://127.0.0.1:{port}{path}/", ""
        self._client = httpx.AsyncClient(timeout=None, trust_env=False, verify=False)

    async def forward(self, request: Request) -> Response:
        url = self.target + request.url.path.removeprefix(self.path)
        if request.url.query:
            url += f"?{request.url.query}"
        headers = [pair for pair in request.headers.raw if pair[0] != b"connection"]
        try:
            asked = self._client.build_request(request.method, url, headers=headers, content=await request.body())
            answer = await self._client.send(asked, stream=True)
        except httpx.TransportError:
            return PlainTextResponse("Bad Gateway", 502)

        async def content():
            try:
                async for chunk in answer.aiter_raw():
                    yield chunk
            except httpx.TransportError:
                return

        passed = StreamingResponse(content(), answer.status_code, background=BackgroundTask(answer.aclose))
        passed.raw_headers = [pair for pair in answer.headers.raw if pair[0].lower() != b"transfer-encoding"]
        return passed

    async def close(self) -> None:
        """Its connections to the target."""
        await self._client.aclose()


@contextmanager
def below(path: str) -> Iterator[SubpathProxy]:
    """A proxy that serves below the path."""
    listener = listen("127.0.0.1", 0)
    proxy = SubpathProxy(path, listener.getsockname()[1])
    server = HttpServer(Starlette(routes=[Route(path + "/{rest:path}", proxy.forward, methods=METHODS)]), listener)

    async def serve() -> None:
        await server.run()
        await proxy.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield proxy
    finally:
        server.stop()
        thread.join(20)
