"""`sonolora env`: everything for a bug report, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from sonolora import __version__
from sonolora.cli import env as env_module


def test_the_page(sonolora, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("FAL_KEY", "a:secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = sonolora("env")
    assert done.code == 0
    for words in (
        f"sonolora {__version__}, Python ",
        f"torch {torch.__version__.partition('+')[0]}",
        "cpu     ",
        "GB available",
        f"torch uses {torch.get_num_threads()} threads",
        "OMP_NUM_THREADS=1",
        "tiny: ",
    ):
        assert words in done.out, words
    assert re.search(r"^  cache   [\d.]+ GB, ", done.out, re.MULTILINE)
    assert "secret" not in done.out
    assert "MISSING" not in done.out and "Error" not in done.out


def test_a_fault_in_one_section_does_not_hide_the_others(sonolora, monkeypatch):
    def broken():
        raise RuntimeError("the driver is gone")
        yield

    monkeypatch.setattr(env_module, "_devices", broken)
    done = sonolora("env")
    assert done.code == 0
    assert "devices\n  RuntimeError: the driver is gone\nmemory and CPU\n" in done.out


def test_the_users_name_is_not_told(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert env_module._short(tmp_path / "models" / "x") == str(Path("~/models/x"))
    assert env_module._short(Path("/data/x")) == str(Path("/data/x"))
