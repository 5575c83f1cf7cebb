"""Precision by device: cards before Ampere do not emulate bfloat16."""

from __future__ import annotations

import pytest
import torch

from sonolora.core.devices import compute_dtype, has_own_memory

CUDA = torch.device("cuda:1")


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 0), torch.float32), ((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_precision_of_a_card(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability if device == CUDA else (9, 0))
    assert compute_dtype(CUDA) == dtype
    assert compute_dtype(torch.device("cpu")) == torch.float32


def test_a_card_that_is_not_here_is_a_recent_one():
    assert compute_dtype(torch.device("cuda")) == torch.bfloat16


def test_which_devices_have_memory_of_their_own():
    assert has_own_memory(CUDA)
    assert not any(map(has_own_memory, map(torch.device, ("cpu", "meta", "mps"))))
