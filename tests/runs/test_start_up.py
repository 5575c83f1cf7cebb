"""The first lines of a run."""

from __future__ import annotations

import pytest
import torch
from run_support import Recorded

from sonolora.runs import start_up
from sonolora.runs.start_up import announce, attention_backend

CUDA = torch.device("cuda", 0)


def test_a_cpu():
    lines = Recorded()
    announce(torch.device("cpu"), lines, deterministic=False)
    (line,) = lines.messages
    assert line.startswith("device cpu (")
    assert f", float32, attention flash, {torch.get_num_threads()} threads" in line
    assert not lines.warnings


@pytest.fixture
def card(monkeypatch):
    """Makes this machine have a card of some capability."""

    def make(capability):
        for name, value in {
            "is_available": True,
            "get_device_capability": capability,
            "get_device_name": "a card",
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
        monkeypatch.setattr(start_up, "available_bytes", lambda _: 12_340_000_000)
        monkeypatch.setattr(start_up, "attention_backend", lambda _, dtype: f"for {dtype}")
        monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")

    return make


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_card(card, deterministic):
    card((9, 0))
    lines = Recorded()
    announce(CUDA, lines, deterministic=deterministic)
    assert lines.messages[0] == (
        "device cuda:0 (a card), bfloat16 (compute capability 9.0), attention for torch.bfloat16, "
        "expandable segments, 12.3 GB free"
    )
    assert lines.messages[1].startswith("deterministic: " if deterministic else "not deterministic: ")
    assert not lines.warnings


def test_a_card_before_ampere(card):
    card((7, 5))
    lines = Recorded()
    announce(CUDA, lines, deterministic=False)
    assert "float32 (compute capability 7.5), attention for torch.float32" in lines.messages[0]
    assert len(lines.warnings) == 1
    assert "a card has no bfloat16" in lines.warnings[0]


def test_the_attention_backend_is_the_one_that_runs():
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert attention_backend(torch.device("cpu"), torch.float32) == "math"
