"""What clients read holds no path of the server."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from sonolora.server.jobs.hidden_paths import HiddenPaths

SERVER = Path("/srv/sonolora/server")
RUN = SERVER / "runs" / "3f"
CACHE = Path("/var/cache/sonolora")
HIDDEN = HiddenPaths({RUN: "the run", SERVER: "the server's folder", CACHE: "the cache"})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{RUN}/lora.safetensors could not be written", "lora.safetensors could not be written"),
        (f"the base is not that of {RUN}.", "the base is not that of the run."),
        (f"{RUN}: damaged", "the run: damaged"),
        (f"[Errno 28] No space left: '{RUN}/.data-x/sub/a.wav'", "[Errno 28] No space left: 'a.wav'"),
        (f"cannot read {SERVER}/files/content/x/clips.zip, nor {CACHE}/", "cannot read clips.zip, nor the cache"),
        (f"{CACHE}/latents/0a.safetensors -> {RUN}/previews", "0a.safetensors -> previews"),
        (f"{tempfile.gettempdir()}/tmp1/x", "x"),
        (f"{Path.home()}/bases/ltx.safetensors is incomplete", "ltx.safetensors is incomplete"),
        # Not the server's:
        (f"https://example.com{RUN}/a.wav", f"https://example.com{RUN}/a.wav"),
        (f"data{CACHE}", f"data{CACHE}"),
        (f"{CACHE}-of-others/x", f"{CACHE}-of-others/x"),
        ("'/etc/passwd' is an absolute path", "'/etc/passwd' is an absolute path"),
        ("3 of 4/5, and/or", "3 of 4/5, and/or"),
        ("", ""),
    ],
)  # fmt: skip
def test_of_paths_the_last_part_remains(text: str, shown: str) -> None:
    assert HIDDEN.hide(text) == shown


def test_whatever_the_text_is_in() -> None:
    values = {"detail": [{"loc": ["body", "x"], "msg": f"{RUN}/a", "ctx": {"n": 1, "p": (f"{CACHE}/b", None)}}]}
    shown = {"detail": [{"loc": ["body", "x"], "msg": "a", "ctx": {"n": 1, "p": ["b", None]}}]}
    assert HIDDEN.hide(values) == shown


def test_a_folder_and_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    hidden = HiddenPaths({tmp_path / "link": "the folder"})
    for folder in (tmp_path / "link", tmp_path / "real"):
        assert hidden.hide(f"{folder} is full") == "the folder is full"
