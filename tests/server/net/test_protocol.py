"""Connections of clients that do not speak HTTP, or too slowly, or too much."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest

from sonolora.server.net import protocol


def raw(live, content):
    with socket.create_connection(("127.0.0.1", live.settings.port), timeout=10) as connection:
        connection.sendall(content)
        response = b""
        while piece := connection.recv(65536):
            response += piece
    return response


def test_other_protocols(live):
    response = raw(live, b"\x16\x03\x01 hello\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 400")
    assert json.loads(response.partition(b"\r\n\r\n")[2])["detail"]


def test_endless_headers(live):
    with socket.create_connection(("127.0.0.1", live.settings.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        sent = 0
        try:
            while sent < 100_000_000:
                sent += connection.send(b"x" * 10_000)
        except OSError:  # reset or broken, as it comes
            pass
    assert sent < 10_000_000


@pytest.mark.parametrize("begin", [b"", b"\r\n", b"GET / HTTP/1.1\r\nX: "])
def test_headers_that_do_not_come(live, monkeypatch, begin):
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.3)
    began = time.monotonic()
    assert raw(live, begin) == b""
    assert 0.2 < time.monotonic() - began < 5


def test_the_unread_rest_of_a_body(live, monkeypatch):
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.3)
    response = raw(live, b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx")
    assert response.startswith(b"HTTP/1.1 404")


def test_a_response_that_is_not_taken(live, monkeypatch, tmp_path, wait_until):
    monkeypatch.setattr(protocol, "STALLED_SECONDS", 0.3)
    big = tmp_path / "big.bin"
    big.write_bytes(bytes(9_000_000))
    file = live.storage.adopt(big, "big.bin", "application/octet-stream", request_id="none", expires=None)
    before = len(asyncio.all_tasks(live.loop))
    with socket.create_connection(("127.0.0.1", live.settings.port), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(f"GET {file.address} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(lambda: len(asyncio.all_tasks(live.loop)) > before)
        wait_until(lambda: len(asyncio.all_tasks(live.loop)) <= before)


def test_many_requests_on_one_connection(live):
    request = b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1000 + b"\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert raw(live, request * 300 + last).count(b"HTTP/1.1 200") == 301
