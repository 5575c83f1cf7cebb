"""Uploads and downloads over HTTP, as the published clients do them.

In: requests at /rest/storage/..., /cdn/files/... and /files/... (see `faces`). Out: the stored files.

An upload is one of
    POST /files/upload                        the whole file, with a token or a key
    PUT  {upload_url}                         the whole file, to a signed address
    PUT  {address}/multipart/{upload}/{n}     parts 1 to 10,000, then
    POST {address}/multipart/{upload}/complete
and a download is a GET of the file's address, by whoever knows it.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from sonolora.core.atomic_files import atomic_write
from sonolora.modes.request import Body, parse
from sonolora.server.api.answers import Answer, RefusedError, refusal
from sonolora.server.api.file_lifetime import read_lifetime
from sonolora.server.api.submission import read_body, read_object
from sonolora.server.files.incoming import UploadError
from sonolora.server.files.records import StoredFile
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import Key

TOKEN_SECONDS = 3600  # clients get a new one by themselves
UPLOAD_SECONDS = 86_400
IDLE_SECONDS = 60.0  # between two pieces of a body
_LARGEST_LIST = 4 << 20  # bytes; 10,000 parts take a quarter of it
# What a browser may show where it stands; anything else, which may carry a program, it can only save. No '+': to a
# browser whatever ends in +xml is a page.
_SHOWN = re.compile(r"(audio|video)/[\w.-]+|image/(png|jpeg|gif|webp|avif)|text/plain|application/json", re.ASCII)
_SAVED = frozenset({"application/zip", "application/gzip", "application/x-tar"})


class _Initiate(Body):
    file_name: str = ""
    content_type: str = ""


class _Part(BaseModel):
    partNumber: int
    etag: str


class _Complete(Body):
    parts: list[_Part] = Field(min_length=1)


def routes(
    storage: Storage, keys: Keys, authorise: Callable[[Request], Key], base_url: Callable[[Request], str]
) -> list[Route]:
    """The routes of the rest and cdn faces and of /files.

    `authorise` raises for a request without a valid key; `base_url` gives what addresses in an answer start with.
    The application turns `RefusedError` and `InputError` into answers.
    """
    api = _StorageApi(storage, keys, authorise, base_url, _secret(storage.folder / "secret"))
    rest = "/rest/storage"
    made = [
        Route(f"{rest}/auth/token", api.token, methods=["POST"]),
        Route(f"{rest}/upload/initiate", api.initiate, methods=["POST"]),
        Route(f"{rest}/upload/initiate-multipart", api.initiate_multipart, methods=["POST"]),
    ]
    for face in ("", "/cdn"):
        file = f"{face}/files/{{id}}/{{name}}"
        made += [
            Route(f"{face}/files/upload", api.upload, methods=["POST"]),
            Route(f"{face}/files/upload/multipart", api.begin_multipart, methods=["POST"]),
            Route(file, api.put, methods=["PUT"]),
            Route(file, api.get),
            Route(f"{file}/multipart/{{upload}}/complete", api.complete, methods=["POST"]),
            Route(f"{file}/multipart/{{upload}}/{{number}}", api.put_part, methods=["PUT"]),
        ]
    return made


@dataclass(frozen=True)
class _StorageApi:
    storage: Storage
    keys: Keys
    authorise: Callable[[Request], Key]
    base_url: Callable[[Request], str]
    secret: bytes

    async def token(self, request: Request) -> Response:
        """What a client shows to the CDN in place of its key."""
        key, expires = self.authorise(request), int(time.time()) + TOKEN_SECONDS
        return Answer(
            {
                "token": f"{key.id}.{expires}.{self._signature('token', key.id, expires)}",
                "token_type": "Bearer",
                "base_url": self.base_url(request),
                "expires_at": datetime.fromtimestamp(expires, UTC).isoformat(),
            }
        )

    async def initiate(self, request: Request) -> Response:
        file = await self._initiated(request)
        url = self.base_url(request) + file.address
        return Answer({"upload_url": f"{url}?{self._signed_query(file)}", "file_url": url})

    async def initiate_multipart(self, request: Request) -> Response:
        file = await self._initiated(request)
        url = self.base_url(request) + file.address
        return Answer({"upload_url": f"{url}/multipart/{file.id}?{self._signed_query(file)}", "file_url": url})

    async def begin_multipart(self, request: Request) -> Response:
        file = self._announced(request, self._uploader(request))
        await run_in_threadpool(self.storage.begin, file)
        return Answer({"access_url": self.base_url(request) + file.address, "uploadId": file.id})

    async def upload(self, request: Request) -> Response:
        return await self._received(request, self._announced(request, self._uploader(request)))

    async def put(self, request: Request) -> Response:
        return await self._received(request, await self._begun(request))

    async def put_part(self, request: Request) -> Response:
        number = request.path_params["number"]
        if not re.fullmatch("[1-9][0-9]{0,3}|10000", number, re.ASCII):
            raise RefusedError(refusal(400, "part numbers go from 1 to 10000"))
        file = await self._begun(request)
        with _refusing():
            etag = await self.storage.receive_part(file, int(number), _content(request, self.storage.max_bytes))
        # One of the published clients reads the header, the other the body.
        return Answer({"partNumber": int(number), "etag": etag}, headers={"etag": f'"{etag}"'})

    async def complete(self, request: Request) -> Response:
        file = await self._begun(request)
        listed = parse(_Complete, read_object(await read_body(request, _LARGEST_LIST))).parts
        with _refusing():
            await self.storage.complete(file, {part.partNumber: _bare(part.etag) for part in listed})
        return Answer({"access_url": self.base_url(request) + file.address})

    async def get(self, request: Request) -> Response:
        file = await run_in_threadpool(self.storage.find, request.path_params["id"])
        if file is None:
            raise RefusedError(refusal(404, "there is no such file (any more)"))
        shown = _SHOWN.fullmatch(file.content_type) is not None
        kept = shown or file.content_type in _SAVED
        headers = {"etag": f'"{file.sha256}"', "x-content-type-options": "nosniff"}
        if _matches(request.headers.get("if-none-match", ""), f"{file.sha256}"):
            return Response(status_code=304, headers=headers)
        return _Download(
            file.path,
            headers=headers,
            media_type=file.content_type if kept else "application/octet-stream",
            filename=file.name,
            content_disposition_type="inline" if shown else "attachment",
        )

    async def _initiated(self, request: Request) -> StoredFile:
        """A file that has been announced in JSON."""
        key = self.authorise(request)
        asked = parse(_Initiate, read_object(await read_body(request, _LARGEST_LIST)))
        file = self._new(request, asked.file_name, asked.content_type, key.id)
        await run_in_threadpool(self.storage.begin, file)
        return file

    def _announced(self, request: Request, key_id: str) -> StoredFile:
        """The file that is announced in the headers."""
        content_type = request.headers.get("content-type", "")
        return self._new(request, _text(request.headers.get("x-fal-file-name", "")), content_type, key_id)

    def _new(self, request: Request, name: str, content_type: str, key_id: str) -> StoredFile:
        lifetime = read_lifetime(request.headers)
        return self.storage.new(name or "upload.bin", content_type, key_id=key_id, lifetime=lifetime)

    async def _received(self, request: Request, file: StoredFile) -> Response:
        with _refusing():
            received = await self.storage.receive(file, _content(request, self.storage.max_bytes))
        url = self.base_url(request) + file.address
        return Answer({"access_url": url}, headers={"etag": f'"{received.sha256}"'})

    async def _begun(self, request: Request) -> StoredFile:
        """The file that this request, by its signature, token or key, may write to."""
        id, query = request.path_params["id"], request.query_params
        owner = None
        if "signature" in query:
            if not self._is_signed(query["signature"], "upload", id, query.get("expires", "")):
                raise RefusedError(refusal(403, "the signature is wrong or has expired; start another upload"))
        else:
            owner = self._uploader(request)
        file = await run_in_threadpool(self.storage.begun, id)
        if file is None or owner not in (None, file.key_id) or request.path_params.get("upload", id) != id:
            raise RefusedError(refusal(404, "there is no such upload (any more)"))
        if not self.keys.is_valid(file.key_id or ""):
            raise RefusedError(refusal(403, "the key that started this upload has been revoked"))
        return file

    def _uploader(self, request: Request) -> str:
        """The id of the key behind our token, or of the key itself."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        key_id, _, rest = token.strip().partition(".")
        expires, _, signature = rest.partition(".")
        if scheme.lower() == "bearer" and self._is_signed(signature, "token", key_id, expires):
            if not self.keys.is_valid(key_id):
                raise RefusedError(refusal(401, "the key behind this token has been revoked"))
            return key_id
        return self.authorise(request).id

    def _signed_query(self, file: StoredFile) -> str:
        expires = int(time.time()) + UPLOAD_SECONDS
        return urlencode({"expires": expires, "signature": self._signature("upload", file.id, expires)})

    def _signature(self, *claims: str | int) -> str:
        return hmac.digest(self.secret, "\n".join(map(str, claims)).encode(), "sha256").hex()

    def _is_signed(self, signature: str, purpose: str, subject: str, expires: str) -> bool:
        right = self._signature(purpose, subject, expires)
        # The time is digits when it is signed by us.
        return hmac.compare_digest(signature.encode(), right.encode()) and int(expires) > time.time()


class _Download(FileResponse):
    """Also what it refuses, a range that the file does not have, is told in JSON."""

    chunk_size = 1 << 18

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused: Response | None = None

        async def in_json(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] >= 400:
                headers = {
                    name.decode(): value.decode() for name, value in message["headers"] if name == b"content-range"
                }
                refused = refusal(
                    message["status"], "the file does not have the range that is asked for", None, headers
                )
                return
            if refused is None:
                await send(message)

        await super().__call__(scope, receive, in_json)
        if refused is not None:
            await refused(scope, receive, send)


async def _content(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body in the pieces it comes in. Raises `UploadError` for one that is too large or does not go on."""
    said = request.headers.get("content-length", "")
    if said.isascii() and said.isdecimal() and len(said) < 20 and int(said) > limit:
        raise UploadError(413, f"the file is too large: this server takes up to {limit} bytes")
    pieces = request.stream()
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                piece = await anext(pieces, b"")
        except TimeoutError:
            raise UploadError(408, f"nothing came for {IDLE_SECONDS:.0f} seconds") from None
        if not piece:
            return
        yield piece


@contextmanager
def _refusing() -> Iterator[None]:
    """Answer with what is wrong with an upload."""
    try:
        yield
    except UploadError as error:
        raise RefusedError(refusal(error.status, str(error))) from error


def _secret(path: Path) -> bytes:
    """The server's own, made at first start; only its user can read it."""
    if not path.exists():
        with atomic_write(path) as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
    return path.read_bytes()


def _text(header: str) -> str:
    """A header is bytes; most who put more than ASCII there mean UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except ValueError:
        return header


def _bare(etag: str) -> str:
    """Without its quotation marks, and without what a proxy that compresses puts before them."""
    return etag.strip().removeprefix("W/").strip('"')


def _matches(if_none_match: str, etag: str) -> bool:
    return if_none_match.strip() == "*" or etag in map(_bare, if_none_match.split(","))
