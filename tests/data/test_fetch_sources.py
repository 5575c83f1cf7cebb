"""What strangers may not have fetched, however they name it; and what needs no fetching."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from sonolora.core import public_addresses as addresses
from sonolora.core.errors import InputError
from sonolora.data.conditioning_inputs import load_conditioning_input
from sonolora.data.dataset import open_dataset
from sonolora.data.fetch import FetchLimits, Sources, fetch, without_secrets
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.modes.preview_spec import PreviewSpec, VideoFormat

STRANGER = Sources(local=False, private=False)
QUICK = FetchLimits(backoff_seconds=0.01, connect_seconds=2, read_seconds=2)


class Site(BaseHTTPRequestHandler):
    """`/to?<address>` redirects there; everything else is four bytes."""

    def do_GET(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        target = self.path.partition("?")[2] if self.path.startswith("/to?") else ""
        self.send_response(302 if target else 200)
        if target:
            self.send_header("Location", target)
        self.send_header("Content-Length", "0" if target else "4")
        self.end_headers()
        if not target:
            self.wfile.write(b"clip")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """The host of a server on this machine, and the paths that it is asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}", server.seen  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


def refused(source: str, into: Path, sources: Sources = STRANGER, kind: str = "file_download_error") -> str:
    with pytest.raises(InputError) as caught:
        fetch(source, into, field="audio_url", sources=sources, limits=QUICK)
    (item,) = caught.value.items
    assert (item.loc, item.type) == (("body", "audio_url"), kind)
    assert "SECRET" not in item.msg
    return item.msg


@pytest.mark.parametrize("path", ["{}/here.zip", "{}/missing.zip", "{}", "here.zip", "../here.zip", "~/here.zip", ""])
def test_paths_are_refused_whether_they_exist_or_not(tmp_path: Path, path: str) -> None:
    (tmp_path / "here.zip").write_bytes(b"x")
    message = refused(path.format(tmp_path), tmp_path)
    assert message == refused("/no/such/file", tmp_path)
    assert "paths are not accepted here" in message
    assert "upload the file" in message


def test_files_by_url_are_refused_too(tmp_path: Path) -> None:
    assert "not supported" in refused(f"file://{tmp_path}", tmp_path, kind="value_error")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:{}", "localhost:{}", "127.1:{}", "2130706433:{}", "0x7f000001:{}", "0.0.0.0:{}", "[::1]:{}",
     "[::ffff:127.0.0.1]:{}", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "[fe80::1]",
     "[fd00::1]", "u:SECRET@127.0.0.1:{}"],
)  # fmt: skip
def test_private_addresses_are_refused_at_once(tmp_path: Path, site: tuple[str, list[str]], host: str) -> None:
    port = site[0].split(":")[1]
    message = refused(f"http://{host.format(port)}/a.zip?sig=SECRET", tmp_path)
    assert "not on the public internet" in message
    assert "Upload the file, give a public URL, or have the server started with --allow-private-urls." in message
    assert site[1] == [], "not a byte was sent"
    assert list(tmp_path.iterdir()) == []


def test_private_addresses_are_refused_at_redirects(
    tmp_path: Path, site: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, seen = site
    # This machine plays a public host, at the one address that the first request goes to.
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    assert fetch(f"http://{host}/a.zip", tmp_path, sources=STRANGER).read_bytes() == b"clip"
    port = host.split(":")[1]
    for target in ("http://10.0.0.1/latest/SECRET", f"http://127.0.0.2:{port}/SECRET", "http://[::1]/SECRET"):
        message = refused(f"http://{host}/to?{target}", tmp_path)
        assert message.startswith(f"http://{host}/to was not downloaded: ")
        assert "not on the public internet" in message
    assert all(path.startswith(("/a.zip", "/to?")) for path in seen)
    assert len(seen) == 4, "none was tried again"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:;base64,AAAA"])
def test_redirects_to_other_schemes(
    tmp_path: Path, site: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    assert "could not be downloaded (tries: 1)" in refused(f"http://{site[0]}/to?{target}", tmp_path)


def test_private_addresses_alone_may_be_allowed(tmp_path: Path, site: tuple[str, list[str]]) -> None:
    sources = Sources(local=False)
    assert fetch(f"http://{site[0]}/a.zip", tmp_path, sources=sources).read_bytes() == b"clip"
    refused("/etc/passwd", tmp_path, sources)


def test_data_uris_are_always_allowed(tmp_path: Path) -> None:
    assert fetch("data:;base64,AAAA", tmp_path, sources=STRANGER).read_bytes() == b"\0\0\0"


def test_what_is_known_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "stored").write_bytes(b"x")
    url = "http://127.0.0.1:9/files/abc/clips.zip?sig=SECRET"
    sources = Sources(local=False, private=False, known={url: tmp_path / "stored"})
    assert fetch(f" {url}\n", tmp_path / "into", sources=sources) == tmp_path / "stored"
    assert not (tmp_path / "into").exists()
    (tmp_path / "stored").unlink()
    assert "there is no such file on this server" in refused(url, tmp_path, sources)
    assert "there is no such file on this server" in refused(url, tmp_path, Sources(known={url: None}))
    elsewhere = refused(f"{url}2", tmp_path, sources)
    assert "public internet" in elsewhere and "--allow-private-urls" in elsewhere


def test_a_download_may_not_take_for_ever(tmp_path: Path, site: tuple[str, list[str]]) -> None:
    with pytest.raises(InputError, match="took longer than 0 s: 4 bytes came") as caught:
        fetch(f"http://{site[0]}/a.zip", tmp_path, limits=FetchLimits(seconds=0))
    assert caught.value.items[0].type == "file_download_error"
    assert len(site[1]) == 1


def test_datasets_and_previews_go_by_the_same_rules(tmp_path: Path) -> None:
    film = VideoFormat(9, 24, 512, 288)
    with pytest.raises(InputError, match="training_data_url: this is not a URL"):
        open_dataset("/etc", tmp_path, STRANGER)
    for given in (
        {"source": "/etc/passwd"},
        {"reference": "/etc/passwd"},
        {"video": "/etc/passwd", "video_format": film},
    ):
        spec = PreviewSpec("", "", 1.0, field="validation.0.audio_url", **given)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"validation\.0\.audio_url: this is not a URL"):
            load_conditioning_input(spec, 16000, 48000, tmp_path, STRANGER)


def test_a_given_clip_of_no_length_is_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", Waveform(np.zeros((2, 400), np.float32), 48_000))
    clip = str(tmp_path / "a.wav")
    for given in ({"source": clip, "regenerate": ((0.0, 1.0),)}, {"reference": clip}):
        spec = PreviewSpec("", "", 1.0, field="validation.0.audio_url", **given)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"lasts 0\.008 s, and the minimum is 0\.1 s") as caught:
            load_conditioning_input(spec, 16000, 48000, tmp_path)
        assert caught.value.items[0].type == "audio_duration_too_short"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("https://me:secret@host:1/a/x.zip?X-Amz-Signature=secret#secret", "https://host:1/a/x.zip"),
        ("data:application/zip;base64,c2VjcmV0", "data:application/zip;base64"),
        ("/home/me/x.zip", "/home/me/x.zip"),
        ("", ""),
    ],
)
def test_addresses_for_others_hold_no_secrets(source: str, shown: str) -> None:
    assert without_secrets(source) == shown
