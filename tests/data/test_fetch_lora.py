"""A LoRA by its address or by its id on a hub, here a server of this machine that answers as the hub does."""

from __future__ import annotations

import json
import re

import pytest
from local_site import Request, serving

from sonolora.core.errors import InputError
from sonolora.data.fetch import Sources
from sonolora.data.fetch_lora import MAX_BYTES, fetch_lora, is_hub_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORIES = {
    "someone/one": {"rain.safetensors": b"rain", "README.md": b"# Rain"},
    "someone/two": {"a.safetensors": b"a", "sub/b.safetensors": b"b"},
    "someone/none": {"README.md": b"nothing"},
}


class Hub(Request):
    """Models with their files, and the files themselves."""

    def do_GET(self):  # noqa: N802
        self._answer(True)

    def do_HEAD(self):  # noqa: N802
        self._answer(False)

    def _answer(self, whole):
        api = re.match(r"/api/models/([^/]+/[^/?]+)", self.path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/\w+/([^?]+)", self.path)
        if api and api[1] in REPOSITORIES:
            sizes = {name: len(content) for name, content in REPOSITORIES[api[1]].items()}
            siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            if api[1] == "someone/two":
                siblings.append({"rfilename": "large.safetensors", "size": MAX_BYTES + 1})
            self.reply(200, json.dumps({"id": api[1], "sha": COMMIT, "siblings": siblings}).encode())
        elif file and file[2] in REPOSITORIES.get(file[1], {}):
            content = REPOSITORIES[file[1]][file[2]]
            length = str(len(content))
            self.reply(200, content if whole else b"", Content_Length=length, ETag=f'"{file[2]}"', X_Repo_Commit=COMMIT)
        else:
            self.reply(401 if "private" in self.path else 404)


@pytest.fixture(scope="module", autouse=True)
def _hub(tmp_path_factory):
    from huggingface_hub import constants

    with serving(Hub) as site, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", f"http://{site.host}")
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        yield


@pytest.mark.parametrize(
    ("id", "weight_name", "content"),
    [
        ("someone/one", None, b"rain"),
        ("someone/one@main", None, b"rain"),
        ("someone/two", "sub/b.safetensors", b"b"),
        ("someone/two/a.safetensors", None, b"a"),
    ],
)
def test_a_file_of_a_repository(id, weight_name, content, tmp_path):
    assert fetch_lora(id, tmp_path, weight_name=weight_name).read_bytes() == content


@pytest.mark.parametrize(
    ("id", "weight_name", "part"),
    [
        ("someone/two", None, "choose one of its files with weight_name; there are: a.safetensors, sub/b.safetensors"),
        ("someone/two", "c.safetensors", "it has no c.safetensors"),
        ("someone/none", None, "there are: no .safetensors file"),
        ("someone/unknown", None, "answered with 404. Check the address."),
        ("someone/private", None, "answered with 401. Check the id; a private repository needs a token"),
        ("someone/two", "large.safetensors", "more than the"),
    ],
)
def test_what_cannot_be_had_says_why(id, weight_name, part, tmp_path):
    with pytest.raises(InputError) as caught:
        fetch_lora(id, tmp_path, weight_name=weight_name, field="loras.0.path")
    (item,) = caught.value.items
    assert item.loc == ("body", "loras", 0, "path") and part in item.msg


def test_our_own_address_is_a_file_here(tmp_path):
    file = tmp_path / "lora.safetensors"
    file.write_bytes(b"x")
    address = "http://127.0.0.1:8000/files/abc/lora.safetensors"
    assert fetch_lora(address, tmp_path, sources=Sources(local=False, known={address: file})) == file
    with pytest.raises(InputError, match="no such file on this server"):
        fetch_lora(address, tmp_path, sources=Sources(local=False, known={address: None}))


def test_what_an_id_looks_like():
    good = ("someone/rain", "some-one/Rain_2.0", "a/b/sub/c.safetensors", "a/b@v1")
    bad = ("rain", "/etc/passwd", "../x/y", "a/../b", "./x", "http://x/y", "a/b/c", "a b/c", "")
    assert [is_hub_id(text) for text in (*good, *bad)] == [True] * len(good) + [False] * len(bad)


def test_a_hub_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InputError, match="someone/one: the hub cannot be reached") as caught:
        fetch_lora("someone/one", tmp_path)
    assert caught.value.items[0].type == "file_download_error"
