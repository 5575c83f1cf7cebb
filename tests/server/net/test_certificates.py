"""Certificates as clients see them: Python's ssl, httpx, openssl and node."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import certifi
import httpcore
import httpx
import pytest
from cryptography import x509

from sonolora.core.public_addresses import AsyncPublicTransport, PublicTransport
from sonolora.server.net import certificates
from sonolora.server.net.certificates import ensure_certificate
from sonolora.server.net.urls import HOST_ALIASES

NAMES = ["trainer.example", "192.0.2.7", "Büro.example"]
LOCAL = ["localhost", "127.0.0.1", "::1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What clients do with it does not change it."""
    folder = tmp_path_factory.mktemp("tls")
    ensure_certificate(folder, NAMES)
    return folder


def trusting(ca: Path) -> ssl.SSLContext:
    """As strict as Python is from 3.13 on."""
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def shake_hands(folder: Path, client: ssl.SSLContext, host: str) -> None:
    """A TLS handshake in memory with the server's certificate, by a client that wants `host`."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server_key.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(5):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


@contextmanager
def https_server(folder: Path) -> Iterator[int]:
    """Answers every request with the name the client asked for; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server_key.pem")
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(5)
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(65536)
                    name = str(asked[-1] if asked else None).encode()
                    secure.sendall(
                        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name)
                    )
            except OSError:
                pass
            finally:
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("host", [*LOCAL, *HOST_ALIASES, "trainer.example", "192.0.2.7", "xn--bro-hoa.example"])
def test_the_certificate_is_good_for_each_name(folder: Path, host: str) -> None:
    shake_hands(folder, trusting(folder / "ca.pem"), host)


@pytest.mark.parametrize("host", ["other.example", "api.fal.run", "fal.ai", "192.0.2.8", "sub.localhost"])
def test_another_host_is_refused(folder: Path, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(folder, trusting(folder / "ca.pem"), host)


def test_without_our_authority_it_is_refused(folder: Path, tmp_path: Path) -> None:
    ensure_certificate(tmp_path, NAMES)
    for context in (ssl.create_default_context(cafile=certifi.where()), trusting(tmp_path / "ca.pem")):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(folder, context, "localhost")


def test_the_bundle_adds_ours_to_the_usual_authorities(folder: Path) -> None:
    bundle, usual = (ssl.create_default_context(cafile=str(file)) for file in (folder / "bundle.pem", certifi.where()))
    assert bundle.cert_store_stats()["x509_ca"] == usual.cert_store_stats()["x509_ca"] + 1
    shake_hands(folder, bundle, "localhost")


def test_httpx_takes_it_from_ssl_cert_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with https_server(folder) as port:
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "bundle.pem"))
        assert httpx.get(f"https://localhost:{port}/", trust_env=True).text == "localhost"
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"https://localhost:{port}/")


@pytest.mark.parametrize("sync", [True, False])
def test_public_transports_verify_the_name_and_not_the_address(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    """Every name leads to a public address, where a server with our certificate listens."""
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    resolve = socket.getaddrinfo
    connect, connect_async = httpcore.SyncBackend.connect_tcp, httpcore.AnyIOBackend.connect_tcp

    def getaddrinfo(host: str | bytes, *args: Any, **kwargs: Any) -> Any:
        return resolve("93.184.216.34" if "example" in str(host) else host, *args, **kwargs)

    def last_hop(address: str) -> str:
        assert address == "93.184.216.34"
        return "127.0.0.1"

    def get(host: str) -> str:
        with httpx.Client(transport=PublicTransport()) as client:
            return client.get(f"https://{host}/").text

    async def get_async(host: str) -> str:
        async with httpx.AsyncClient(transport=AsyncPublicTransport()) as client:
            return (await client.get(f"https://{host}/")).text

    with https_server(folder) as port, monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        for backend, reach in ((httpcore.SyncBackend, connect), (httpcore.AnyIOBackend, connect_async)):
            there = partial(reach, port=port, timeout=5)
            patch.setattr(backend, "connect_tcp", lambda me, host, *_, there=there, **__: there(me, last_hop(host)))

        def answer(host: str) -> str:
            return get(host) if sync else asyncio.run(get_async(host))

        assert answer("trainer.example") == "trainer.example"
        with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
            answer("other.example")


def test_openssl_agrees_strictly(folder: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(folder / "ca.pem")]
    for name in ("-verify_hostname", "queue.fal.run"), ("-verify_ip", "127.0.0.1"):
        subprocess.run([*verify, *name, str(folder / "server.pem")], check=True, capture_output=True)
    wrong = subprocess.run([*verify, "-verify_hostname", "api.openai.com", str(folder / "server.pem")], check=False)
    assert wrong.returncode != 0


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_takes_it_as_an_extra_authority(folder: Path) -> None:
    script = """
    const [port, host] = process.argv.slice(1);
    const options = { port, host: "127.0.0.1", servername: host, headers: { host } };
    require("node:https").get(options, (answer) => { answer.setEncoding("utf8"); answer.on("data", console.log); })
      .on("error", (error) => console.log(error.code));
    """
    with https_server(folder) as port:

        def ask(host: str, **env: str) -> str:
            command = ["node", "-e", script, str(port), host]
            return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()

        ours = {"PATH": str(Path(shutil.which("node") or "").parent), "NODE_EXTRA_CA_CERTS": str(folder / "ca.pem")}
        assert ask("queue.fal.run", **ours) == "queue.fal.run"
        assert ask("other.example", **ours) == "ERR_TLS_CERT_ALTNAME_INVALID"
        del ours["NODE_EXTRA_CA_CERTS"]
        assert ask("queue.fal.run", **ours) != "queue.fal.run"


def test_the_authority_cannot_vouch_for_anyone_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when its key signs, which is what a thief would have it do."""
    ensure_certificate(tmp_path, [])
    monkeypatch.setattr(certificates, "_permitted", lambda _: certificates._subtrees(stolen))
    stolen = certificates._general_names([*LOCAL, *HOST_ALIASES, "bank.example", "192.0.2.9"])
    ensure_certificate(tmp_path, ["bank.example", "192.0.2.9"])
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shake_hands(tmp_path, trusting(tmp_path / "ca.pem"), "bank.example")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_good_is_kept(tmp_path: Path) -> None:
    paths = ensure_certificate(tmp_path / "new" / "tls", NAMES)
    assert [path.name for path in paths] == ["server.pem", "server_key.pem", "ca.pem"]
    before = snapshot(tmp_path / "new" / "tls")
    assert set(before) == {"server.pem", "server_key.pem", "ca.pem", "ca_key.pem", "bundle.pem"}
    assert ensure_certificate(tmp_path / "new" / "tls", reversed([*NAMES, *NAMES])) == paths  # type: ignore[arg-type]
    assert snapshot(tmp_path / "new" / "tls") == before


def test_keys_are_for_their_owner_alone(folder: Path) -> None:
    for name in ("server_key.pem", "ca_key.pem"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert (folder / "ca.pem").stat().st_mode & 0o777 != 0o600


def test_fewer_names_need_no_new_authority_and_new_ones_do(tmp_path: Path) -> None:
    ensure_certificate(tmp_path, ["a.example", "b.example"])
    before = snapshot(tmp_path)
    ensure_certificate(tmp_path, ["a.example"])
    after = snapshot(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"server.pem", "server_key.pem"}
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, trusting(tmp_path / "ca.pem"), "b.example")
    ensure_certificate(tmp_path, ["c.example"])
    assert snapshot(tmp_path)["ca.pem"] != before["ca.pem"]
    shake_hands(tmp_path, trusting(tmp_path / "bundle.pem"), "c.example")


@pytest.mark.parametrize(
    ("days", "changed"),
    [
        (360, set()),
        (368, {"server.pem", "server_key.pem"}),
        (3619, {"server.pem", "server_key.pem"}),
        (3621, {"server.pem", "server_key.pem", "ca.pem", "ca_key.pem", "bundle.pem"}),
    ],
)
def test_it_is_renewed_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, changed: set[str]
) -> None:
    ensure_certificate(tmp_path, [])
    before = snapshot(tmp_path)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    monkeypatch.setattr(certificates, "_now", lambda: later)
    ensure_certificate(tmp_path, [])
    after = snapshot(tmp_path)
    assert {name for name in after if after[name] != before[name]} == changed
    ca, leaf = (x509.load_pem_x509_certificate(after[name]) for name in ("ca.pem", "server.pem"))
    assert later < leaf.not_valid_after_utc <= ca.not_valid_after_utc
    leaf.verify_directly_issued_by(ca)


@pytest.mark.parametrize("name", ["server.pem", "server_key.pem", "ca.pem", "ca_key.pem", "bundle.pem"])
@pytest.mark.parametrize("damage", ["gone", "cut", "of another"])
def test_what_is_damaged_or_does_not_fit_is_made_anew(tmp_path: Path, name: str, damage: str) -> None:
    folder, other = tmp_path / "tls", tmp_path / "other"
    for one in (folder, other):
        ensure_certificate(one, NAMES)
    if damage == "gone":
        (folder / name).unlink()
    else:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2] if damage == "cut" else (other / name).read_bytes())
    ensure_certificate(folder, NAMES)
    for trusted in ("ca.pem", "bundle.pem"):
        shake_hands(folder, trusting(folder / trusted), "trainer.example")


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example"])
def test_an_impossible_name_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="label"):
        ensure_certificate(tmp_path, [name])
