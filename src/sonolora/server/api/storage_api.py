"""Uploads and downloads over HTTP, with the calls of the published clients.

In: requests at /rest/storage/..., /cdn/files/... and /files/... (see `host_routing`). Out: the stored files.

An upload is one of
    POST /files/upload                        the whole file, with a token or a key
    PUT  {upload_url}                         the whole file, to a signed URL
    PUT  {url}/multipart/{upload}/{n}         parts 1 to 10,000, then
    POST {url}/multipart/{upload}/complete
and a download is a GET of the file's URL, which needs no key.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from sonolora.modes.request import Body, parse
from sonolora.server.api.authorise import access_with
from sonolora.server.api.byte_ranges import byte_ranges
from sonolora.server.api.file_lifetime import read_lifetime
from sonolora.server.api.request_body import BodyMemory, chunks, in_parser_thread, read_object
from sonolora.server.api.responses import JsonResponse, RejectedError, error_response
from sonolora.server.files.names import disposition
from sonolora.server.files.records import StoredFile
from sonolora.server.files.remote import LINK_SECONDS, RemoteFiles
from sonolora.server.files.secret import is_signed, load_secret, signature
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.keys import Access, Keys
from sonolora.server.jobs.records import Key

TOKEN_SECONDS = 3600  # clients get a new one by themselves
UPLOAD_SECONDS = 86_400
IDLE_SECONDS = 60.0  # between two chunks of an upload
_MAX_ANNOUNCEMENT = 256 << 10  # bytes of JSON
_MAX_PARTS = 10_000
_MAX_PART_LIST = 2 << 20  # bytes of JSON; 10,000 parts take half of it


class _Initiate(Body):
    file_name: str = ""
    content_type: str = ""


class _Part(BaseModel):
    partNumber: int
    etag: str


class _Complete(Body):
    parts: list[_Part] = Field(min_length=1, max_length=_MAX_PARTS)


def routes(
    storage: Storage,
    keys: Keys,
    memory: BodyMemory,
    authorise: Callable[[Request], Access],
    base_url: Callable[[Request], str],
) -> list[Route]:
    """The routes below /rest, /cdn and /files.

    `authorise` raises for a request without a valid key; `base_url` is the beginning of URLs in a response. The
    application turns `RejectedError`, `InputError` and `UploadError` into responses.
    """
    api = _StorageApi(storage, keys, memory, authorise, base_url, load_secret(storage.folder / "secret"))
    rest = "/rest/storage"
    routes = [
        Route(f"{rest}/auth/token", api.token, methods=["POST"]),
        Route(f"{rest}/upload/initiate", api.initiate, methods=["POST"]),
        Route(f"{rest}/upload/initiate-multipart", api.initiate_multipart, methods=["POST"]),
    ]
    for prefix in ("", "/cdn"):
        file = f"{prefix}/files/{{id}}/{{name}}"
        routes += [
            Route(f"{prefix}/files/upload", api.upload, methods=["POST"]),
            Route(f"{prefix}/files/upload/multipart", api.begin_multipart, methods=["POST"]),
            Route(file, api.put, methods=["PUT"]),
            Route(file, api.get),
            Route(f"{file}/multipart/{{upload}}/complete", api.complete, methods=["POST"]),
            Route(f"{file}/multipart/{{upload}}/{{number}}", api.put_part, methods=["PUT"]),
        ]
    return routes


@dataclass(frozen=True)
class _StorageApi:
    storage: Storage
    keys: Keys
    memory: BodyMemory
    authorise: Callable[[Request], Access]
    base_url: Callable[[Request], str]
    secret: bytes

    async def token(self, request: Request) -> Response:
        """A token that a client sends to the CDN instead of its key."""
        key, expires = (await self.keys.reading(self.authorise, request)).key, int(time.time()) + TOKEN_SECONDS
        return JsonResponse(
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
        return JsonResponse({"upload_url": f"{url}?{self._signed_query(file)}", "file_url": url})

    async def initiate_multipart(self, request: Request) -> Response:
        file = await self._initiated(request)
        url = self.base_url(request) + file.address
        return JsonResponse({"upload_url": f"{url}/multipart/{file.id}?{self._signed_query(file)}", "file_url": url})

    async def begin_multipart(self, request: Request) -> Response:
        file = self._announced(request, (await self.keys.reading(self._uploader, request)).key)
        await run_in_threadpool(self.storage.begin, file)
        return JsonResponse({"access_url": self.base_url(request) + file.address, "uploadId": file.id})

    async def upload(self, request: Request) -> Response:
        uploader = await self.keys.reading(self._uploader, request)
        return await self._received(request, self._announced(request, uploader.key))

    async def put(self, request: Request) -> Response:
        return await self._received(request, await self._begun(request))

    async def put_part(self, request: Request) -> Response:
        number = request.path_params["number"]
        if not re.fullmatch("[1-9][0-9]{0,3}|10000", number, re.ASCII):
            raise RejectedError(error_response(400, f"part numbers are 1 to {_MAX_PARTS}"))
        file = await self._begun(request)
        etag = await self.storage.receive_part(file, int(number), self._content(request))
        # One of the published clients reads the header, the other the body.
        return JsonResponse({"partNumber": int(number), "etag": etag}, headers={"etag": f'"{etag}"'})

    async def complete(self, request: Request) -> Response:
        file = await self._begun(request)
        body = await read_object(request, _MAX_PART_LIST, self.memory)
        parts = (await in_parser_thread(parse, _Complete, body)).parts
        await self.storage.complete(file, {part.partNumber: _bare(part.etag) for part in parts})
        return JsonResponse({"access_url": self.base_url(request) + file.address})

    async def get(self, request: Request) -> Response:
        file = await run_in_threadpool(self.storage.find, request.path_params["id"])
        if file is None:
            raise RejectedError(error_response(404, "there is no such file (any more)"))
        headers = {"etag": f'"{file.sha256}"', "x-content-type-options": "nosniff"}
        if _matches(request.headers.get("if-none-match", ""), f"{file.sha256}"):
            return Response(status_code=304, headers=headers)
        if not _set_range(request, file.size, headers["etag"]):
            detail = f"the file does not have this range: it has {file.size:,} bytes"
            return error_response(416, detail, headers={"content-range": f"bytes */{file.size}"})
        kind, content_type = disposition(file.content_type)
        if (remote := self.storage.elsewhere(file)) is not None:
            if (link := remote.link(file)) is not None:
                return RedirectResponse(link, headers={"cache-control": f"private, max-age={LINK_SECONDS / 2:.0f}"})
            return _remote_download(request, file, remote, headers, kind, content_type)
        return _Download(
            file.path,
            headers=headers,
            media_type=content_type,
            filename=file.name,
            content_disposition_type=kind,
        )

    async def _initiated(self, request: Request) -> StoredFile:
        """A file that is announced in JSON."""
        key = (await self.keys.reading(self.authorise, request)).key
        announced = parse(_Initiate, await read_object(request, _MAX_ANNOUNCEMENT, self.memory))
        file = self._new(request, announced.file_name, announced.content_type, key)
        await run_in_threadpool(self.storage.begin, file)
        return file

    def _announced(self, request: Request, key: Key) -> StoredFile:
        """A file that is announced in the headers."""
        content_type = request.headers.get("content-type", "")
        return self._new(request, _text(request.headers.get("x-fal-file-name", "")), content_type, key)

    def _new(self, request: Request, name: str, content_type: str, key: Key) -> StoredFile:
        lifetime = read_lifetime(request.headers)
        return self.storage.new(name or "upload.bin", content_type, key_id=key.id, lifetime=lifetime)

    async def _received(self, request: Request, file: StoredFile) -> Response:
        received = await self.storage.receive(file, self._content(request))
        url = self.base_url(request) + file.address
        return JsonResponse({"access_url": url}, headers={"etag": f'"{received.sha256}"'})

    def _content(self, request: Request) -> AsyncIterator[bytes]:
        return chunks(request, self.storage.max_bytes, IDLE_SECONDS)

    async def _begun(self, request: Request) -> StoredFile:
        """The file that the signature, token or key of this request allows it to write."""
        id, query = request.path_params["id"], request.query_params
        uploader = None
        if "signature" in query:
            if not self._is_signed(query["signature"], "upload", id, query.get("expires", "")):
                raise RejectedError(error_response(403, "the signature is wrong or has expired; start another upload"))
        else:
            uploader = await self.keys.reading(self._uploader, request)

        def find() -> StoredFile | None:
            file = self.storage.begun(id)
            if uploader is not None:
                file = uploader.own(file)
            return file if file is not None and file.request_id is None else None  # outputs are not replaced

        file = await run_in_threadpool(find)
        if file is None or request.path_params.get("upload", id) != id:
            raise RejectedError(error_response(404, "there is no such upload (any more)"))
        if not await self.keys.reading(self.keys.is_valid, file.key_id or ""):
            raise RejectedError(error_response(403, "the key that started this upload has been revoked"))
        return file

    def _uploader(self, request: Request) -> Access:
        """By the key, or by the key that a token stands for."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        key_id, _, rest = token.strip().partition(".")
        expires, _, signature = rest.partition(".")
        if scheme.lower() == "bearer" and self._is_signed(signature, "token", key_id, expires):
            return access_with(self.keys, self.keys.valid(key_id), "the key behind this token has been revoked")
        return self.authorise(request)

    def _signed_query(self, file: StoredFile) -> str:
        expires = int(time.time()) + UPLOAD_SECONDS
        return urlencode({"expires": expires, "signature": self._signature("upload", file.id, expires)})

    def _signature(self, *claims: str | int) -> str:
        return signature(self.secret, *claims)

    def _is_signed(self, signed: str, purpose: str, subject: str, expires: str) -> bool:
        return is_signed(self.secret, signed, purpose, subject, expires)


def _remote_download(
    request: Request, file: StoredFile, remote: RemoteFiles, headers: dict[str, str], kind: str, content_type: str
) -> Response:
    """From the object store, through this server. Of several ranges, which no player asks for, the whole file."""
    start, end, status = 0, file.size, 200
    if match := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", "")):
        start, end, status = int(match[1]), int(match[2]) + 1, 206
        headers["content-range"] = f"bytes {start}-{end - 1}/{file.size}"
    headers |= {"content-length": str(end - start), "accept-ranges": "bytes"}
    headers["content-disposition"] = f"{kind}; filename*=utf-8''{quote(file.name, safe='')}"
    if request.method == "HEAD":
        return Response(headers=headers, media_type=content_type)
    return StreamingResponse(remote.stream(file, start, end), status, headers, content_type)


class _Download(FileResponse):
    chunk_size = 1 << 18


def _set_range(request: Request, size: int, etag: str) -> bool:
    """Replace the header `Range` by what it means for this file, or remove it. False if it lies outside the file."""
    headers = request.headers.mutablecopy()
    ranges = byte_ranges(headers.get("range", ""), size)
    if request.method != "GET" or headers.get("if-range", etag) != etag:
        ranges = None
    del headers["range"]
    del headers["if-range"]
    if ranges:
        headers["range"] = "bytes=" + ",".join(f"{first}-{last}" for first, last in ranges)
    request.scope["headers"] = headers.raw
    return ranges != []


def _text(header: str) -> str:
    """A header is bytes; beyond ASCII most clients send UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except ValueError:
        return header


def _bare(etag: str) -> str:
    """Without its quotation marks, and without the `W/` that a compressing proxy adds."""
    return etag.strip().removeprefix("W/").strip('"')


def _matches(if_none_match: str, etag: str) -> bool:
    return if_none_match.strip() == "*" or etag in map(_bare, if_none_match.split(","))
