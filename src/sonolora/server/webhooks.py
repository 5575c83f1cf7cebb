"""Webhooks: results posted to the URLs that their requests named, signed so that receivers can verify the sender.

In: the deliveries that are due. Out: POST requests of the published protocol, and in the database the outcome of each.
At least once: a delivery whose answer was lost is repeated, with the same `request_id`. Nothing is kept in memory that
a restart would lose. The key is this server's own: receivers verify with the key set of `jwks` at this server's
address, not with fal's.

A signature is Ed25519 over four lines: request id, user id, unix time, hexadecimal SHA-256 of the raw body.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from sonolora import __version__
from sonolora.core.atomic_files import atomic_write
from sonolora.core.errors import SonoloraError
from sonolora.core.public_addresses import AsyncPublicTransport, PrivateAddressError, check_public
from sonolora.core.web_address import AddressError, parse_web_address
from sonolora.server import clock
from sonolora.server.jobs.deliveries import Deliveries
from sonolora.server.jobs.records import Delivery, Request
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.logs import begin_notes

ATTEMPT_SECONDS = 15.0
RETRY_AFTER = (10, 20, 40, 80, 160, 320, 640, 1280, 1920, 2500)  # seconds; with the attempts themselves under two hours
POLL_SECONDS = 1.0
MAX_CONCURRENT = 10

logger = logging.getLogger(__name__)
# httpx logs every request at INFO with the whole URL, whose query may hold secrets.
logging.getLogger("httpx").setLevel(logging.WARNING)


class WebhookError(SonoloraError):
    """A URL to which nothing can be sent."""


def load_signing_key(folder: Path) -> Ed25519PrivateKey:
    """The key in `folder/webhook_key.pem`, created if there is none, readable by its owner alone.

    One that cannot be read raises SonoloraError and is not replaced: receivers may know it.
    """
    path = folder / "webhook_key.pem"
    if not path.exists():
        with atomic_write(path) as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600))
            temporary.write_bytes(
                Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            )
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SonoloraError(f"{path} cannot be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SonoloraError(f"{path} is not an Ed25519 key. Move it away, and a new one is created.")
    return key


def jwks(key: Ed25519PrivateKey) -> dict[str, Any]:
    """The public key as a JSON Web Key Set (RFC 8037).

    `x` keeps the padding that the standard omits: the published Python verifier needs it, others ignore it.
    """
    x = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).decode("ascii")
    return {"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "x": x}]}


def sign(key: Ed25519PrivateKey, request_id: str, user_id: str, body: bytes, timestamp: int) -> dict[str, str]:
    """The four headers of a delivery of `body` at unix second `timestamp`."""
    message = "\n".join([request_id, user_id, str(timestamp), hashlib.sha256(body).hexdigest()])
    return {
        "X-Fal-Webhook-Request-Id": request_id,
        "X-Fal-Webhook-User-Id": user_id,
        "X-Fal-Webhook-Timestamp": str(timestamp),
        "X-Fal-Webhook-Signature": key.sign(message.encode("utf-8")).hex(),
    }


def check_webhook(url: str, *, allow_private: bool) -> None:
    """Raise for a URL to which no delivery can ever be sent.

    WebhookError when it is no http URL with a possible host and port; PrivateAddressError when it names this machine
    or a private address and those are not allowed. Names are not resolved: what they lead to may change.
    """
    try:
        host = parse_web_address(url).raw_host.decode("ascii")
    except AddressError as error:
        raise WebhookError(f"the webhook is not a valid URL: {error}") from error
    if allow_private:
        return
    if host.rstrip(".").lower().rpartition(".")[2] == "localhost":
        raise PrivateAddressError(host)
    with suppress(OSError):  # a name
        numeric = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        check_public(host, [str(address[4][0]) for address in numeric])


class Deliverer:
    """`run` delivers until it is cancelled.

    `payload_of` returns the body of a finished request's result as its client should see it. Targets that are not on
    the public internet are refused unless `allow_private`; redirects are never followed.
    """

    def __init__(
        self,
        store: Store,
        deliveries: Deliveries,
        retrying: Retrying,
        signing_key: Ed25519PrivateKey,
        user_id: str,
        *,
        allow_private: bool,
        payload_of: Callable[[Request], Any],
    ) -> None:
        self._store = store
        self._deliveries = deliveries
        self._retrying = retrying
        self._signing_key = signing_key
        self._user_id = user_id
        self._allow_private = allow_private
        self._payload_of = payload_of
        self._in_progress: set[int] = set()
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def run(self) -> None:
        # An explicit transport also ignores the environment's proxy, which may be our own tunnel.
        transport = httpx.AsyncHTTPTransport() if self._allow_private else AsyncPublicTransport()
        headers = {"User-Agent": f"sonolora/{__version__}", "Connection": "close"}
        client = httpx.AsyncClient(transport=transport, headers=headers, timeout=ATTEMPT_SECONDS)
        async with client, asyncio.TaskGroup() as attempts:
            while True:
                # Copied before the query: a delivery that ends in between is still in its answer.
                in_progress = frozenset(self._in_progress)
                for delivery in await self._retrying(self._deliveries.due, clock.now(), 2 * RETRY_AFTER[-1]):
                    if delivery.id not in in_progress:
                        self._in_progress.add(delivery.id)
                        attempts.create_task(self._attempt(client, delivery))
                await asyncio.sleep(POLL_SECONDS)

    async def _attempt(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        """Post once and record the outcome."""
        begin_notes(run=delivery.request_id)
        delivered = False
        again = delivery.attempts < len(RETRY_AFTER)
        try:
            async with self._slots, asyncio.timeout(ATTEMPT_SECONDS):
                status = await self._post(client, delivery)
            outcome = f"answered with status {status}"
            delivered = 200 <= status < 300
            again = again and not 300 <= status < 400
        except (PrivateAddressError, WebhookError) as error:
            outcome, again = str(error), False
        except (httpx.HTTPError, TimeoutError) as error:
            outcome = str(error) or f"no answer within {ATTEMPT_SECONDS:g} s"
        except Exception:  # one delivery should not stop the others
            logger.exception("the webhook of request %s could not be sent", delivery.request_id)
            outcome = "could not be sent"

        next_try = clock.now() + RETRY_AFTER[delivery.attempts] if again and not delivered else None
        await self._retrying(self._deliveries.record_attempt, delivery.id, outcome, next_try)
        self._in_progress.discard(delivery.id)
        if not delivered:
            then = f"again in {RETRY_AFTER[delivery.attempts]} s" if again else "abandoned"
            logger.warning("the webhook of request %s: %s; %s", delivery.request_id, outcome, then)

    async def _post(self, client: httpx.AsyncClient, delivery: Delivery) -> int:
        """The status of the answer, whose body is not read."""
        check_webhook(delivery.url, allow_private=self._allow_private)  # the settings may have changed
        request = await asyncio.to_thread(self._store.request, delivery.request_id)
        if request is None or request.result is None:
            raise LookupError(f"there is no result of request {delivery.request_id}")
        content = _notice(request.id, request.result.status, self._payload_of(request))
        headers = sign(self._signing_key, request.id, self._user_id, content, int(time.time()))
        headers["Content-Type"] = "application/json"
        async with client.stream("POST", delivery.url, content=content, headers=headers) as answer:
            return answer.status_code


def _notice(request_id: str, status: int, payload: Any) -> bytes:
    """The body of a delivery."""
    notice: dict[str, Any] = {"request_id": request_id, "gateway_request_id": request_id}
    if status < 400:
        notice["status"] = "OK"
    else:
        notice |= {"status": "ERROR", "error": f"Invalid status code: {status}"}
    return json.dumps({**notice, "payload": payload}, separators=(",", ":"), allow_nan=False).encode("ascii")
