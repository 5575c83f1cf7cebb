"""Distilled bases are recognised by what they say of themselves, and sampled by their own schedule."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sonolora.ltx.weights.base import add_base, find_base
from sonolora.ltx.weights.distilled import says_distilled
from sonolora.ltx.weights.registry import registered

TINY = find_base("tiny")


@pytest.mark.parametrize(
    ("name", "metadata", "said"),
    [
        ("ltx-2.3-22b-distilled-1.1", {}, True),
        ("LTX23_Distilled_fp8", {}, True),
        ("ltx-2.3-22b-dev", {}, False),
        ("ltx-2.3-22b-dev-fp8", {}, False),
        ("my-developments", {}, None),
        ("mine", {}, None),
        ("mine", {"distilled": "true"}, True),
        ("ltx-2.3-22b-distilled", {"distilled": "false"}, False),
        ("ltx-2.3-22b-dev", {"merged_loras": [{"file": "ltx-2.3-22b-distilled-lora-384.safetensors"}]}, True),
        ("ltx-2.3-22b-dev", {"merged_loras": [{"file": "voice.safetensors"}]}, False),
    ],
)
def test_header_and_name(name, metadata, said):
    checkpoint = replace(TINY.checkpoint, path=Path(f"{name}.safetensors"), metadata=metadata)
    assert says_distilled(checkpoint) is said


@pytest.fixture
def copies(tmp_path, monkeypatch):
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    for name in ("ltx-2.3-22b-distilled", "mine"):
        shutil.copy(TINY.checkpoint.path, tmp_path / f"{name}.safetensors")
    return tmp_path


def test_what_was_said_when_it_was_added_counts(copies):
    encoder = str(TINY.text_encoder)
    for name, file, distilled in (
        ("by-name", "ltx-2.3-22b-distilled", None),
        ("unknown", "mine", None),
        ("declared", "mine", True),
        ("renamed", "ltx-2.3-22b-distilled", False),
    ):
        add_base(name, [str(copies / f"{file}.safetensors")], encoder, distilled)
    found = {name: find_base(name).distilled for name in registered()}
    assert found == {"by-name": True, "unknown": False, "declared": True, "renamed": False}
    assert "distilled" not in json.loads((copies / "bases.json").read_text())["bases"]["by-name"]
    assert not TINY.distilled
