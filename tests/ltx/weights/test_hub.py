"""Reading from a hub: which bytes are asked for, what comes of them, and what happens when it breaks.

The hub is a server of this machine that behaves as huggingface.co does: it says commit, size and checksum, and
redirects to the content at another address. It holds the golden model, and a whole LTX-2.3 as a sparse file: 46 GB
with the published header, of which only what is asked for is ever read.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sonolora.cli.main import app
from sonolora.core.atomic_files import PartialFile
from sonolora.core.download import RetryPolicy
from sonolora.core.errors import CheckpointError
from sonolora.core.tensor_file import TensorInfo
from sonolora.ltx.memory.weight_policy import WeightPolicy
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights import base as base_module
from sonolora.ltx.weights import hub as hub_module
from sonolora.ltx.weights import partial_checkpoint as excerpt_module
from sonolora.ltx.weights.base import find_base
from sonolora.ltx.weights.checkpoint import EXCERPT_OF, Checkpoint, read_tensors
from sonolora.ltx.weights.hub import HubCheckpoint, HubId, fetch_text_encoder, open_from_hub, open_local
from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG
from sonolora.ltx.weights.partial_checkpoint import Span, damaged_tensors, layout, open_excerpt, spans
from sonolora.ltx.weights.registry import registered
from sonolora.ltx.weights.tensor_table import needed, published_tensors
from sonolora.ltx.weights.verify import verify

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOLDEN_ID = HubId("someone/golden")
WHOLE_ID = HubId("Lightricks/LTX-2.3")
TOKEN = "hf_verysecret"


class Request(BaseHTTPRequestHandler):
    """GET and HEAD of the hub and of the store to which it redirects."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        self.close_connection = True
        in_store = self.server is site.store
        site.tokens.append((in_store, self.headers.get("Authorization")))
        api = re.match(r"/api/models/([^/]+/[^/]+)/(revision|tree)/\w+", self.path)
        if api and api[1] in site.files and not site.status:
            self._send(200, json.dumps(site.listing(api[1], api[2])).encode())
            return
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(main|[0-9a-f]{40})/([^?]+)", self.path)
        file = site.files.get(found[1], {}).get(found[3]) if found else None
        if site.status or file is None:
            self._send(site.status or 404)
        elif in_store:
            self._part(site, file)
        else:
            names = {"X-Repo-Commit": COMMIT, "X-Linked-Size": str(file.stat().st_size)}
            self._send(302, Location=site.redirect + self.path, **names, **{"X-Linked-Etag": f'"{site.digest(file)}"'})

    def _part(self, site: Site, file: Path) -> None:
        size = file.stat().st_size
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(span[1]), int(span[2])) if span and site.ranges else (0, size - 1)
        with site.lock:
            site.asked.append((first, last + 1))
            broken = len(site.asked) > site.breaks_after
        if broken:
            return
        sent = min(last + 1 - first, site.cut or size)
        self.send_response(206 if span and site.ranges else 200)
        self.send_header("Content-Length", str(last + 1 - first))
        if span and site.ranges:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Connection", "close")
        self.end_headers()
        with file.open("rb") as content:
            content.seek(first)
            self.wfile.write(content.read(sent))

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body)), "Connection": "close"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@cache
def _digest(file: Path) -> str:
    return sha256(b"" if file.stat().st_size > 10**9 else file.read_bytes()).hexdigest()


@dataclass
class Site:
    """The two servers: what they hold, how they misbehave, and what they were asked."""

    hub: ThreadingHTTPServer
    store: ThreadingHTTPServer
    files: dict[str, dict[str, Path]] = field(default_factory=dict)
    status: int = 0  # answer everything so
    ranges: bool = True
    cut: int = 0  # hang up after so many bytes of each answer
    breaks_after: int = 10**9  # answers, then the line is dead
    redirect: str = ""
    asked: list[tuple[int, int]] = field(default_factory=list)  # bytes of the store
    tokens: list[tuple[bool, str | None]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def digest(self, file: Path) -> str:
        return _digest(file)

    def listing(self, repository: str, kind: str) -> object:
        files = self.files[repository]
        if kind == "revision":
            return {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        return [
            {"type": "file", "path": name, "size": size, "oid": "0" * 40}
            | {"lfs": {"oid": self.digest(files[name]), "size": size, "pointerSize": 130}}
            for name, size in sizes.items()
        ]

    def asked_bytes(self) -> int:
        return sum(end - start for start, end in self.asked)


@pytest.fixture
def site(monkeypatch, tmp_path, checkpoint) -> Iterator[Site]:
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Request) for _ in range(2)]
    site = Site(*servers)
    addresses = [f"http://127.0.0.1:{server.server_port}" for server in servers]
    site.redirect = addresses[1]
    site.files["someone/golden"] = {"golden.safetensors": checkpoint.path}
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", addresses[0])
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SONOLORA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(hub_module, "_RETRY_POLICY", RetryPolicy(retries=5, backoff_seconds=0.001))
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.site = site  # type: ignore[attr-defined]
        server.daemon_threads = True
        thread.start()
    yield site
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A whole LTX-2.3 that takes no room: its header, and nothing where its 46 GB would be."""
    path = tmp_path_factory.mktemp("whole") / "ltx-2.3-22b-dev.safetensors"
    table, at = {}, 0
    for name, tensor in sorted(published_tensors().items(), key=lambda item: (item[1].dtype != "F32", item[0])):
        size = tensor.values * (4 if tensor.dtype == "F32" else 2)
        table[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, at + size]}
        at += size
    metadata = {"config": json.dumps(LTX23_CONFIG), "model_version": "2.3.0"}
    text = json.dumps({"__metadata__": metadata, **table}).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    if path.stat().st_blocks * 512 > 10_000_000:
        path.unlink()
        pytest.skip("no sparse files on this disk")
    return path


def open_golden() -> HubCheckpoint:
    opened = open_from_hub(GOLDEN_ID)
    assert isinstance(opened, HubCheckpoint)
    return opened


def bytes_of(tensors: Mapping[str, TensorInfo], names) -> int:
    return sum(tensors[name].end - tensors[name].start for name in names)


def runs(pieces: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The bytes that pieces cover, joined where they touch."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(pieces):
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], end
        elif start < end:
            joined.append((start, end))
    return joined


def test_ids():
    assert HubId.parse("Lightricks/LTX-2.3") == HubId("Lightricks/LTX-2.3", None, "main")
    assert HubId.parse("a/b/c/d.safetensors@v1") == HubId("a/b", "c/d.safetensors", "v1")
    for text in ("tiny", "/a/b", "a/b/c", "a/../b.safetensors", "../a", "https://huggingface.co/a/b", "a/b\n"):
        assert HubId.parse(text) is None, text


def test_opening_reads_the_header_alone(site, checkpoint):
    opened = open_golden()
    assert opened.tensors == checkpoint.tensors
    assert opened.metadata == checkpoint.metadata
    assert opened.fingerprint() == checkpoint.fingerprint()
    assert not opened.path.exists()
    before = len(site.asked)
    assert open_local(opened.path) == opened
    assert len(site.asked) == before


def test_modes_fetch_what_they_need_and_nothing_twice(site, checkpoint):
    """Loaded from the hub, networks are those of the file; each byte comes once, each tensor whole."""
    opened = open_golden()
    audio, both = needed(opened.tensors, video=False), needed(opened.tensors, video=True)
    for video, before, wanted in ((False, set(), audio), (True, audio, both)):
        site.asked.clear()
        options = {"video": video, "device": CPU, "dtype": torch.float32}
        ours, theirs = (load_transformer(which, **options).state_dict() for which in (opened, checkpoint))
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
        assert runs(site.asked) == runs(
            (opened.tensors[name].start, opened.tensors[name].end) for name in wanted - before
        )
        assert site.asked_bytes() == bytes_of(opened.tensors, wanted - before)
        site.asked.clear()
        load_transformer(opened, **options)
        assert not site.asked


@pytest.mark.usefixtures("site")
def test_an_excerpt_is_a_safetensors_file(checkpoint):
    """The library that defines the format reads it; its header says what it is of."""
    opened = open_golden()
    wanted = needed(opened.tensors, video=False)
    path = opened.local_file(wanted).path
    stored = load_file(checkpoint.path)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == wanted
        metadata = file.metadata()
        for name in wanted:
            assert torch.equal(file.get_tensor(name), stored[name]), name
    assert json.loads(metadata["config"]) == checkpoint.config
    assert json.loads(metadata[EXCERPT_OF])["revision"] == COMMIT
    assert Checkpoint.open(path).fingerprint() == checkpoint.fingerprint()
    assert verify(Checkpoint.open(path), checkpoint.config, 5).differences == ()
    left = sorted(file.name.removeprefix("golden.safetensors") for file in path.parent.iterdir())
    assert left == ["", ".header", ".lock", ".sha256", ".source.json"]


def test_broken_answers_go_on_where_they_broke(site):
    opened = open_golden()
    site.asked.clear()
    site.cut = 300_000
    wanted = needed(opened.tensors, video=False)
    assert opened.local_file(wanted).tensors.keys() == wanted
    assert len(site.asked) > 10
    asked = sorted(site.asked)
    assert all(start == asked[0][0] or any(start in (s + 300_000, s) for s, _ in site.asked) for start, _ in asked)
    assert damaged_tensors(opened.path) == []


def test_a_fetch_that_failed_is_taken_up_again(site):
    opened = open_golden()
    wanted = needed(opened.tensors, video=False)
    site.asked.clear()
    site.breaks_after = 3
    with pytest.raises(CheckpointError, match=r"could not be downloaded from 127\.0\.0\.1 .*start again to resume"):
        opened.fetch(wanted)
    assert not opened.path.exists()
    _, filled_places = PartialFile(opened.path).resume()
    filled = len(filled_places)
    assert 0 < filled <= 3
    seen: list[tuple[int, int]] = []
    site.asked.clear()
    site.breaks_after = 10**9
    opened.fetch(wanted, lambda done, total: seen.append((done, total)))
    already, total = seen[0]
    assert 0 < already < total == seen[-1][0] == bytes_of(opened.tensors, wanted)
    assert site.asked_bytes() == total - already
    assert damaged_tensors(opened.path) == []


def test_an_interrupted_fetch_of_another_set_is_not_mixed_in(site):
    opened = open_golden()
    site.breaks_after = len(site.asked) + 3
    with pytest.raises(CheckpointError):
        opened.fetch(needed(opened.tensors, video=False))
    site.breaks_after = 10**9
    opened.fetch(needed(opened.tensors, video=True))
    assert damaged_tensors(opened.path) == []
    with safe_open(opened.path, framework="pt") as file:
        stored = load_file(site.files["someone/golden"]["golden.safetensors"])
        assert all(torch.equal(file.get_tensor(name), stored[name]) for name in file.keys())  # noqa: SIM118


def test_scales_of_8_bit_weights_come_with_them(site, checkpoint, tmp_path):
    """And count for checksums and for what is here already; the fingerprint is that of the whole file."""
    weights = load_file(checkpoint.path)
    names = [
        name for name in weights if "audio_attn1.to_" in name and name.endswith(".weight") and "_gate_" not in name
    ]
    for name in names:
        weights[f"{name}_scale"] = torch.rand(len(weights[name]), 1)
        weights[name] = weights[name].to(torch.float8_e4m3fn)
    path = tmp_path / "golden.safetensors"
    save_file(weights, path, {"config": json.dumps(checkpoint.config), "model_version": "2.3.0"})
    site.files[GOLDEN_ID.repository] = {path.name: path}
    opened = open_from_hub(GOLDEN_ID)
    assert opened.tensors.keys() == Checkpoint.open(path).tensors.keys()
    assert opened.fingerprint() == Checkpoint.open(path).fingerprint()
    for some in (names[:1], names):
        read = dict(read_tensors(opened, some, device=CPU, dtype=torch.float32))
        for name in some:
            assert torch.equal(read[name], weights[name].float() * weights[f"{name}_scale"])
    assert damaged_tensors(opened.path) == []
    site.asked.clear()
    assert load_transformer(opened, video=False, device=CPU, dtype=torch.float32, policy=WeightPolicy("fp8"))
    assert site.asked == []


def test_two_at_once_fetch_once(site):
    opened = open_golden()
    wanted = needed(opened.tensors, video=False)
    site.asked.clear()
    with ThreadPoolExecutor(3) as pool:
        for excerpt in pool.map(opened.local_file, [wanted] * 3):
            assert excerpt.tensors.keys() == wanted
    assert site.asked_bytes() == bytes_of(opened.tensors, wanted)


def test_the_token_goes_to_the_hub_alone(site):
    opened = open_golden()
    opened.local_file(needed(opened.tensors, video=False))
    assert {token for in_store, token in site.tokens if not in_store} == {f"Bearer {TOKEN}"}
    assert {token for in_store, token in site.tokens if in_store} == {None}
    assert not any(TOKEN.encode() in file.read_bytes() for file in opened.path.parent.iterdir())


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, r"golden.* accept its licence at 127\.0\.0\.1/someone/golden and log in .*HF_TOKEN"),
        (403, "the token in use has no access"),
        (404, r"is not on 127\.0\.0\.1"),
        (500, "responds with status 500"),
    ],
)
def test_refusals_say_why(site, status, words):
    site.status = status
    for file in (None, "golden.safetensors"):
        with pytest.raises(CheckpointError, match=words) as caught:
            open_from_hub(HubId("someone/golden", file))
        assert TOKEN not in str(caught.value)


@pytest.mark.usefixtures("site")
def test_unreachable_hub(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{TOKEN}@127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"127\.0\.0\.1 cannot be reached") as caught:
        open_from_hub(GOLDEN_ID)
    assert TOKEN not in str(caught.value)


def test_a_hub_without_ranges_is_refused_at_once(site):
    site.ranges = False
    with pytest.raises(CheckpointError, match="does not support range requests"):
        open_from_hub(GOLDEN_ID)
    assert len(site.asked) == 1


def test_a_secure_hub_may_not_lead_to_an_open_line(monkeypatch):
    request = hub_module.httpx.Request("GET", "http://elsewhere.example/file")
    hub_module._refuse_http(hub_module.httpx.Request("GET", "https://elsewhere.example/file"))
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert hub_module._endpoint() == "https://huggingface.co"
    with pytest.raises(hub_module.httpx.UnsupportedProtocol, match="not https"):
        hub_module._refuse_http(request)


def test_what_is_no_checkpoint_is_refused(site, tmp_path):
    (tmp_path / "page.safetensors").write_bytes(b"<!DOCTYPE html>" * 10)
    site.files["someone/page"] = {"page.safetensors": tmp_path / "page.safetensors"}
    with pytest.raises(CheckpointError, match=r"someone/page/page\.safetensors: not a safetensors file"):
        open_from_hub(HubId("someone/page"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(site.files["someone/golden"]["golden.safetensors"].read_bytes()[:-1])
    site.files["someone/cut"] = {"cut.safetensors": cut}
    with pytest.raises(CheckpointError, match=r"does not describe its [\d,]+ bytes"):
        open_from_hub(HubId("someone/cut"))


def test_the_file_to_train_is_chosen(site, checkpoint):
    names = ["x-distilled.safetensors", "x-22b-dev.safetensors", "x-lora.safetensors", "README.md"]
    site.files["someone/many"] = dict.fromkeys(names, checkpoint.path)
    assert open_from_hub(HubId("someone/many")).path.name == "x-22b-dev.safetensors"
    assert open_from_hub(HubId("someone/many", "x-lora.safetensors")).path.name == "x-lora.safetensors"
    del site.files["someone/many"]["x-22b-dev.safetensors"]
    with pytest.raises(CheckpointError, match=r"as someone/many/FILE: x-distilled\.safetensors, x-lora"):
        open_from_hub(HubId("someone/many"))


@pytest.mark.usefixtures("site")
def test_damage_on_the_disk_is_seen():
    opened = open_golden()
    excerpt = opened.local_file(needed(opened.tensors, video=False))
    name = "vocoder.mel_stft.mel_basis"
    with excerpt.path.open("r+b") as file:
        file.seek(excerpt.tensors[name].start)
        file.write(b"\xff\xff")
    assert damaged_tensors(opened.path) == [name]
    with pytest.raises(CheckpointError, match=rf"{name} was corrupt on disk\. The file is removed"):
        opened.fetch(needed(opened.tensors, video=True))
    opened.fetch(needed(opened.tensors, video=True))
    assert damaged_tensors(opened.path) == []


def test_a_full_disk_is_said_before_anything_is_fetched(site, monkeypatch):
    opened = open_golden()
    site.asked.clear()
    monkeypatch.setattr(excerpt_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(CheckpointError, match=r"GB are needed here, 0\.0 GB are free.*SONOLORA_MODELS"):
        opened.fetch(needed(opened.tensors, video=False))
    assert not site.asked


def test_spans_are_as_few_as_can_be():
    infos = {"a": (0, 10), "b": (10, 30), "c": (50, 60), "e": (60, 60), "d": (60, 75)}
    tensors = {name: TensorInfo("BF16", (), start, end) for name, (start, end) in infos.items()}
    assert spans(tensors, {"a": 100, "b": 110, "c": 130, "d": 140}, 1000) == [Span(0, 30, 100), Span(50, 75, 130)]
    assert spans(tensors, {"a": 110, "b": 90}, 1000) == [Span(0, 10, 110), Span(10, 30, 90)]
    assert spans(tensors, {"a": 0, "b": 10}, 16) == [Span(0, 16, 0), Span(16, 30, 16)]


def test_whole_model_asks_for_the_bytes_of_its_mode(site, whole):
    """46 GB on the hub: a look costs its header; the audio modes would ask for 8.5 GB in few requests."""
    site.files[WHOLE_ID.repository] = {whole.name: whole}
    opened = open_from_hub(WHOLE_ID)
    assert opened.fingerprint() == Checkpoint.open(whole).fingerprint()
    assert verify(opened).differences == ()
    assert site.asked_bytes() < 3_000_000
    metadata = {"config": "{}"}
    for video, size, most in ((False, 8_517_602_036, 450), (True, 45_334_134_390, 1500)):
        names = needed(opened.tensors, video=video)
        header, places = layout(opened.tensors, names, metadata)
        planned = spans(opened.tensors, places)
        assert sum(span.end - span.start for span in planned) == size
        assert len(planned) < most
        wanted = [(opened.tensors[name].start, opened.tensors[name].end) for name in names]
        assert runs((span.start, span.end) for span in planned) == runs(wanted)
        assert min(places.values()) == len(header)
        assert max(span.to + span.end - span.start for span in planned) == len(header) + size


def test_whole_model_grows_by_what_is_lacking(site, whole):
    """One small part of the real shape really goes over the line, then another: nothing comes twice."""
    site.files[WHOLE_ID.repository] = {whole.name: whole}
    opened = open_from_hub(WHOLE_ID)
    site.asked.clear()
    first = {name for name in opened.tensors if name.startswith("vae.per_channel_statistics")}
    second = {name for name in opened.tensors if "scale_shift_table_a2v" in name}
    opened.fetch(first)
    assert site.asked_bytes() == 512
    opened.fetch(second)
    excerpt = open_excerpt(opened.path)
    assert excerpt.tensors.keys() == first | second
    assert site.asked_bytes() == bytes_of(opened.tensors, first | second)


READ_ALL = """
import re, sys, torch
from pathlib import Path
from sonolora.ltx.weights.checkpoint import Checkpoint, read_tensors
from sonolora.ltx.weights.tensor_table import needed

def status(name, file="/proc/self/status"):
    return int(re.search(rf"{name}:\\s+(\\d+)", Path(file).read_text())[1])

checkpoint = Checkpoint.open(Path(sys.argv[1]))
names = [name for name in needed(checkpoint.tensors, video=False) if re.search(sys.argv[2], name)]
before, read_before = status("VmRSS"), status("rchar", "/proc/self/io")
count = sum(1 for _ in read_tensors(checkpoint, names, device=torch.device("meta"), dtype=torch.bfloat16))
print(count, status("rchar", "/proc/self/io") - read_before, 1024 * (status("VmHWM") - before))
"""


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts what the kernel has read")
@pytest.mark.slow
def test_whole_model_is_read_by_tensor(whole):
    """What stays is on the device (here: nowhere); the host holds a piece at a time and reads nothing else."""
    checkpoint = Checkpoint.open(whole)
    part = r"text_embedding_projection|transformer_blocks\.47"
    names = [name for name in needed(checkpoint.tensors, video=False) if re.search(part, name)]
    command = [sys.executable, "-c", READ_ALL, str(whole), part]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    count, read, peak = map(int, output.split())
    size = bytes_of(checkpoint.tensors, names)
    assert count == len(names)
    assert 900_000_000 < size <= read < size + 1_000_000
    assert peak < 150_000_000


def test_tensors_of_unknown_kinds_are_refused(tmp_path):
    save_file({"a": torch.ones(2, dtype=torch.int32)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor a is stored as I32; supported are BF16"):
        list(read_tensors(Checkpoint.open(tmp_path / "x.safetensors"), ["a"], device=CPU, dtype=torch.float32))


def test_shapes_that_do_not_fit_their_bytes_are_refused(tmp_path):
    text = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match="tensor a has 8 bytes for 3 values"):
        list(read_tensors(Checkpoint.open(tmp_path / "x.safetensors"), ["a"], device=CPU, dtype=torch.float32))


@pytest.fixture
def text_encoder(site, tmp_path) -> Path:
    """A folder that says of itself that it is Gemma 3 12B, here and on the hub."""
    folder = tmp_path / "gemma"
    folder.mkdir()
    sizes = {"hidden_size": 3840, "num_hidden_layers": 48}
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": sizes}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"a": torch.ones(1)}, folder / "model.safetensors")
    (folder / "README.md").touch()
    files = {path.name: path for path in folder.iterdir()}
    site.files["google/gemma-3-12b-it-qat-q4_0-unquantized"] = files
    return folder


def test_text_encoder_comes_from_the_hub(text_encoder):
    folder = fetch_text_encoder(HubId(hub_module.TEXT_ENCODER))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    for path in folder.iterdir():
        assert path.read_bytes() == (text_encoder / path.name).read_bytes()


@pytest.mark.usefixtures("text_encoder")
def test_damaged_text_encoder_is_refused(site, monkeypatch):
    monkeypatch.setattr(site, "digest", lambda _: "0" * 64)
    with pytest.raises(CheckpointError, match="a file arrived corrupt and was removed; start again"):
        fetch_text_encoder(HubId(hub_module.TEXT_ENCODER))


@pytest.mark.usefixtures("site")
def test_refused_text_encoder_says_why():
    with pytest.raises(CheckpointError, match=r"someone/none .*is not") as caught:
        fetch_text_encoder(HubId("someone/none"))
    assert TOKEN not in str(caught.value)


@pytest.mark.usefixtures("text_encoder")
def test_a_hub_id_is_a_base(site, whole):
    """The first time it is registered under its id; then no hub is needed until a tensor is."""
    site.files[WHOLE_ID.repository] = {whole.name: whole}
    base = find_base("Lightricks/LTX-2.3")
    assert isinstance(base.checkpoint, HubCheckpoint)
    assert list(registered()) == ["Lightricks/LTX-2.3"]
    site.status = 500
    assert find_base("Lightricks/LTX-2.3") == base


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["base", *arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.usefixtures("site")
def test_commands(text_encoder, monkeypatch):
    """From adding to removing, with the golden model in the place of the published one."""
    monkeypatch.setattr(base_module, "verify", lambda checkpoint, *_: verify(checkpoint, checkpoint.config, 5))
    output = run("add", "gold", "--checkpoint", "someone/golden", "--text-encoder", str(text_encoder))
    assert "--base gold is" in output
    assert re.search(r"golden\.safetensors: 0\.0\d of 0\.0\d GB", output), "progress"
    assert "gold " in run("list")
    shown = run("show", "gold")
    assert "1,749 tensors" in shown
    assert "enough for the five audio modes\n" in shown
    assert "someone/golden at 0123456789ab" in shown
    assert "difference: shape: audio_vae" in run("verify", "gold", "--read", code=1)
    (path,) = (Path(entry.checkpoint) for entry in registered().values())
    assert "stays" in run("remove", "gold")
    assert path.exists()
    run("add", "gold", "--checkpoint", str(path), "--text-encoder", str(text_encoder), "--mode", "v2a")
    assert "and v2a" not in run("show", "gold")
    assert "v2a" in run("show", "gold")
    assert "is deleted" in run("remove", "gold", "--files")
    assert not path.parent.exists()


def test_verify_command_passes_the_published_table(site, whole):
    assert "5,947 tensors, 46.15 GB, no differences" in run("verify", str(whole))
    site.files[WHOLE_ID.repository] = {whole.name: whole}
    assert "5,947 tensors, 46.15 GB, no differences" in run("verify", "Lightricks/LTX-2.3")
    assert registered() == {}
    assert "no differences" in run("verify", "tiny")


@pytest.mark.usefixtures("site")
def test_add_refuses_other_modes():
    result = CliRunner().invoke(app, ["base", "add", "a", "--checkpoint", "x/y", "--text-encoder", "z", "--mode", "t"])
    assert "'t' is not one of t2a" in str(result.exception)


def test_a_kill_while_checksums_are_made_loses_nothing_that_came(checkpoint, tmp_path, monkeypatch):
    read: list[int] = []

    def source(start: int, end: int) -> Iterator[bytes]:
        read.append(end - start)
        yield checkpoint.path.read_bytes()[start:end]

    def extend() -> None:
        names = sorted(checkpoint.tensors)[:20]
        excerpt_module.extend(tmp_path / "x.safetensors", checkpoint.tensors, names, {EXCERPT_OF: "x"}, source)

    def killed(_: Checkpoint) -> dict[str, str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(excerpt_module, "_sums", killed)
        with pytest.raises(KeyboardInterrupt):
            extend()
    came = sum(read)
    extend()
    assert sum(read) == came, "nothing is asked for twice"
    assert sorted(path.name for path in tmp_path.iterdir() if "lock" not in path.name) == [
        "x.safetensors", "x.safetensors.sha256",
    ]  # fmt: skip
    assert not damaged_tensors(tmp_path / "x.safetensors")
