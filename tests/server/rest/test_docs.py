"""docs/api.md: its lines run as they stand, and its paths exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[3] / "docs" / "api.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_every_path_is_one_of_the_api(client):
    known = client.get("/api/openapi.json").json()["paths"]
    patterns = [re.compile(re.sub(r"{\w+}", "[^/]+", path)) for path in known]
    named = {path.rstrip(".,") for path in re.findall(r"/api/[\w/$.-]+", TEXT) if "..." not in path}
    assert len(named) > 15
    for path in named - {"/api/openapi.json"}:
        assert any(pattern.fullmatch(path) for pattern in patterns), path


@pytest.mark.slow
@pytest.mark.xdist_group("api_docs")
def test_its_lines_run(served, clips, tmp_path):
    shutil.copy(clips / "clips.zip", tmp_path)
    script = "\n".join(BLOCKS).replace("http://127.0.0.1:8000", served.address)
    script = script.replace("YOUR_KEY", served.banner_value("key:"))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "finished" in done.stdout and "a tone, number 0" in done.stdout
    assert "Best of 4 LoRAs by step 100: " in done.stdout
    assert (tmp_path / "clip0.png").read_bytes().startswith(b"\x89PNG")
    for name in ("preview.wav", "strong.wav"):
        assert (tmp_path / name).read_bytes().startswith(b"RIFF")
    assert b"lora" in (tmp_path / "lora.safetensors").read_bytes()[:2000]
    assert "t0nes" in (tmp_path / "README.md").read_text()
